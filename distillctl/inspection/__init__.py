"""What `distillctl inspect` shows of runs, samples, configurations and data."""
