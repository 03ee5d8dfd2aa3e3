"""Prompts: preparing parquet files, reading them, and streaming them to the trainer."""
