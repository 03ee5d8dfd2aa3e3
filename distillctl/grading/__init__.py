"""Answers as a person reads them: where a text states its answer, and what value or letter that is.

In: decoded text. Out: phrases, exact fractions, letters. Pure functions, standard library only.
"""
