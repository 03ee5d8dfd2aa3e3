"""The two tiny models shipped with the package, and the script that made them (`train_pair.py`)."""
