"""The exception tree and the exit code of each branch.

Every error a user can cause or meet is a `DistillError` whose message says what is wrong, where (dotted
key, file and line) and, in `hint`, how to fix it. `cli.app` maps them to exit codes; nothing else does.
To add one: subclass the branch whose exit code fits, and the standard exception callers would expect.
"""

from collections.abc import Mapping

from distillctl.errors.redact import without_logins


class DistillError(Exception):
    """Base of all errors raised on purpose. `kind` names it in JSON output, `exit_code` in the shell.

    Passwords of addresses are masked in what it says.
    """

    kind = "failed"
    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        self.message, self.hint = without_logins(message), without_logins(hint)
        super().__init__(self.message)

    def __reduce__(self) -> tuple[type["DistillError"], tuple[str, str]]:
        """Keep `hint` when the error crosses a process boundary."""
        return type(self), (self.message, self.hint)


class RunFailed(DistillError, RuntimeError):
    """A run started and could not go on (exit 1)."""


class EngineLost(RunFailed):
    """The rollout engine died or hangs; a fresh one can take its place."""


class ConfigError(DistillError, ValueError):
    """Usage, configuration or input data is wrong; nothing was started (exit 2)."""

    kind = "config"
    exit_code = 2


class EnvironmentUnfit(DistillError, RuntimeError):
    """The machine lacks something: package, model, memory, disk, an engine that starts (exit 3)."""

    kind = "environment"
    exit_code = 3


class CheckFailed(DistillError):
    """An `eval --require` expression does not hold (exit 4)."""

    kind = "check"
    exit_code = 4

    def __init__(
        self, message: str, hint: str = "", result: Mapping[str, object] | None = None, text: str = ""
    ) -> None:
        """`result` and `text`: what the command prints all the same."""
        super().__init__(message, hint)
        self.result, self.text = dict(result or {}), text


class Stopped(DistillError):
    """The run was stopped by a signal after writing a checkpoint (exit 128 + signal)."""

    kind = "stopped"

    def __init__(self, message: str, hint: str = "", signum: int = 2) -> None:
        super().__init__(message, hint)
        self.exit_code = 128 + signum
