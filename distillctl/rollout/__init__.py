"""The rollout engine (vLLM in a process of its own), and the client that drives it."""
