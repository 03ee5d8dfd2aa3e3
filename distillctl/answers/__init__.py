"""Finding the final answer of a response, as a person does: the phrase that states it, its value or letter.

In: decoded text. Out: phrases, exact fractions, letters. Pure functions without I/O.
"""
