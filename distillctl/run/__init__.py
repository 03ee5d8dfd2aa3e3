"""A run's files on disk: its directory, events, metrics, samples and checkpoints."""
