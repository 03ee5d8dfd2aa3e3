"""Scripts that tests run in processes of their own, as ranks."""

import os
import subprocess
import sys

import pytest


@pytest.fixture(scope="session")
def run_ranks():
    """Runs a script once per rank, all together, one thread each; fails with the errors of one that does."""

    def run(script, *arguments, world_size=1):
        processes = []
        for rank in range(world_size):
            env = {**os.environ, "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world_size),
                   "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}  # fmt: skip
            command = [sys.executable, script, *arguments]
            processes.append(
                subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
            )
        for process in processes:
            _, errors = process.communicate(timeout=300)
            assert process.returncode == 0, errors.decode()[-3000:]

    return run
