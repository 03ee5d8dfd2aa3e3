"""The machine: CPUs, GPUs, memory, installed packages, and the processes on it."""
