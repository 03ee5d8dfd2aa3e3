"""Grading answers and evaluating models."""
