"""One file for each answer type; `grading.answer_types` describes its content."""
