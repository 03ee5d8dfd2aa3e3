"""Model directories: finding one, checking its files, loading it whole."""
