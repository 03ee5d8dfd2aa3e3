"""The `distillctl inspect` commands: what they show of runs, samples, configurations and data."""
