"""What this machine offers."""

from distillctl.host import hardware


def test_memory_is_what_is_free_and_not_more_than_there_is():
    with open("/proc/meminfo") as lines:
        total = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemTotal:"))
    assert 0 < hardware.memory_bytes() <= total
