"""Teachers, in this process or behind servers. They score the tokens that the student wrote."""
