"""The two tiny models that the package ships, and the program that made them (`train_pair.py`)."""
