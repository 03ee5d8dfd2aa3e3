"""Output for terminals: streams, progress, tables, and curves drawn as text."""
