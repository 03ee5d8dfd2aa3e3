"""The trainer: one process per rank, with DeepSpeed."""
