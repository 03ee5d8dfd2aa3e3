"""On-policy distillation of language models: prep, train, eval, inspect."""

__version__ = "0.1.0"
