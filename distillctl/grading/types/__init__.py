"""One file for each answer type; `grading.answer_types` says what it holds."""
