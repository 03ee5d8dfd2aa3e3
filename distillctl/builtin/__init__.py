"""The two tiny models that are shipped with the package, and the program that made them (`train_pair.py`)."""
