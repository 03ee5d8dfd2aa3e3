"""The trainer: one process per rank, DeepSpeed underneath."""
