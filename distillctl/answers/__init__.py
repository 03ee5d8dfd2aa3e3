"""Finding the final answer in a response as a person would: the phrase that states it, its value or letter.

In: decoded text. Out: phrases, exact fractions, letters. All functions are pure and do no I/O.
"""
