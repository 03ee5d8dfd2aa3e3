"""Starting a run: every check before it, its plan, and its processes."""
