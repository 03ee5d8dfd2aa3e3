"""Reading and writing files safely: regular files only, each replaced as a whole, one writer at a time."""
