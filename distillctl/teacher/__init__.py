"""The teacher: hidden states for the tokens that the student wrote."""
