"""Reading and writing files safely: regular files only, replaced whole, one writer at a time."""
