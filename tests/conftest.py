"""Fixtures of the command line's tests."""

from collections.abc import Callable

import pytest

from distillctl import cli


@pytest.fixture
def distillctl(monkeypatch, capsys) -> Callable[..., tuple[int, str, str]]:
    """Runs a command line in this process, through the script's entry point: exit code, stdout, stderr."""

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["distillctl", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main()
        streams = capsys.readouterr()
        return int(ended.value.code or 0), streams.out, streams.err

    return run
