"""Starting a run: the checks before it, its plan, and its processes."""
