"""A run on disk: its directory, events, metrics, samples and checkpoints."""
