"""Teachers, in this process or behind servers: what they say about the tokens that the student wrote."""
