"""`distillctl eval`: models and a baseline on the same prompts, and a verdict for CI."""
