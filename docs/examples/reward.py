"""A reward of one's own: `reward.path` in train.yaml names this file. It has verl's signature."""

import re

MAX_WORDS = 60


def compute_score(data_source, solution_str, ground_truth, extra_info=None, **kwargs):
    """1 for the right number after "####", less 0.2 for a response that is longer than it has to be."""
    found = re.findall(r"#### (-?\d+)", solution_str)
    is_right = bool(found) and found[-1] == ground_truth
    is_long = len(solution_str.split()) > MAX_WORDS
    return float(is_right) - 0.2 * is_long
