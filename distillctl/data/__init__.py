"""Prompts: prepare parquet files, read them, and give the trainer its batches of prompts."""
