"""Grading: whether a response has the right answer, and what many grades add up to."""
