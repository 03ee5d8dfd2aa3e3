"""What a person sees of a run: state from its events, and its displays."""
