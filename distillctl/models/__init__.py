"""Model directories: find one, check its files, load it completely."""
