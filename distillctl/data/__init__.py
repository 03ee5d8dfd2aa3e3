"""Prompts: preparing parquet files and streaming them to the trainer."""
