"""What is minimised: pure torch, no I/O."""
