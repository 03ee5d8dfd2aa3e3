"""Ranks agree on whether a stop came while a teacher's server was waited for."""

from types import SimpleNamespace

import pytest

from distillctl.teacher.interface import ScoringStopped
from distillctl.train.scoring import teacher_scores


class Server:
    """A served teacher that answers, or is stopped."""

    def __init__(self, *, stopped):
        self.stopped = stopped

    def score(self, batches):
        if self.stopped:
            raise ScoringStopped
        return [f"scored {batch}" for batch in batches]


@pytest.mark.parametrize(
    ("here", "elsewhere", "found"),
    [(False, 0, ["scored a", "scored b"]), (True, 0, None), (False, 1, None), (True, 1, None)],
)
def test_a_stop_on_any_rank_is_one_on_all(here, elsewhere, found):
    told = []

    def total(mine):
        told.append(int(mine))
        return mine + elsewhere

    distributed = SimpleNamespace(sum=total)
    assert teacher_scores(Server(stopped=here), ["a", "b"], distributed) == found
    assert told == [int(here)]
