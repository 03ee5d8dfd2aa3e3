"""The exception tree and the exit code of each branch.

Every error a user can cause or meet is a `DistillError`. Its message says what is wrong and where (dotted
key, file and line); its `hint` says how to fix it. To add one, subclass the branch with the right exit code
and the standard exception that callers would expect.
"""

from collections.abc import Mapping

from distillctl.errors.redact import without_logins


class DistillError(Exception):
    """Base of all errors raised on purpose. `kind` names it in JSON output, `exit_code` in the shell.

    Message and hint have the passwords of addresses masked.
    """

    kind = "failed"
    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        self.message = without_logins(message)
        self.hint = without_logins(hint)
        super().__init__(self.message)


class RunFailed(DistillError, RuntimeError):
    """A run started but could not continue (exit 1)."""


class EngineLost(RunFailed):
    """The rollout engine died or hangs; a new one can take its place."""


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
        """`result` and `text`: what the command prints besides the error."""
        super().__init__(message, hint)
        self.result = dict(result or {})
        self.text = text


class Stopped(DistillError):
    """A signal stopped the run after it wrote a checkpoint (exit 128 + signal)."""

    kind = "stopped"

    def __init__(self, message: str, hint: str = "", signum: int = 2) -> None:
        super().__init__(message, hint)
        self.exit_code = 128 + signum
