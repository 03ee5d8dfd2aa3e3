"""The launcher's view of signals; what it does with processes is in `train/test_faults.py`."""

import signal

import pytest

from distillctl.launch import REPEAT_S, Signals


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("distillctl.launch.time.monotonic", lambda: now[0])
    return now


def signals(clock, *after_s):
    found = Signals()
    for seconds in after_s:
        clock[0] = 100.0 + seconds
        found._note(signal.SIGTERM, None)
    return found


def test_nothing_came(clock):
    found = signals(clock)
    assert (found.first, found.repeated, found.older_than(1)) == (0, False, False)


def test_one_signal_asks_for_a_stop(clock):
    found = signals(clock, 0)
    assert (found.first, found.repeated) == (signal.SIGTERM, False)


def test_a_signal_to_a_process_and_to_its_group_is_one(clock):
    assert not signals(clock, 0, 0.9 * REPEAT_S).repeated


def test_a_later_one_is_a_second(clock):
    assert signals(clock, 0, 0.5 * REPEAT_S, 1.1 * REPEAT_S).repeated


def test_the_grace_begins_with_the_first(clock):
    found = signals(clock, 0, 0.1)
    clock[0] = 105.05
    assert found.older_than(5)
    assert not found.older_than(6)
    assert not found.older_than(None)
