"""The user's own loss: load, try and call the function of `loss.path`.

The function takes the log-probabilities of student and teacher, float32 [N, V] for N response tokens at a
time and the shared vocabulary V. It returns the loss of each token [N], which torch differentiates.
`python -m distillctl.train.custom_loss TRIAL.json` is the trial that the launcher starts before anything
else, because the launcher itself does not load torch.

Dimensions: N or C tokens, V shared vocabulary.
"""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Iterator
from contextlib import chdir
from dataclasses import dataclass
from pathlib import Path
from types import FunctionType

import torch
from torch import Tensor

from distillctl.errors import ConfigError, DistillError, RunFailed
from distillctl.files.python_file import failed_line, one_line, run_file, split_name
from distillctl.objective.inputs import Objective
from distillctl.objective.log_probs import LOG_FLOOR
from distillctl.objective.slopes import differentiate

_KEY = "loss.path"
_SIGNATURE = "(student_log_p, teacher_log_p)"
_HINT = f"define a function {_SIGNATURE} -> per_token, from [N, V] to [N]; docs/extending.md has an example"
_FINITE_HINT = (
    "bound what it divides by, takes the logarithm of or exponentiates: a token that a model rules out has "
    f"the log-probability {LOG_FLOOR:,.0f}, whose exp is 0"
)
_LEAST_GRADIENT = 1e-6
"""A gradient of the logits is rounding when its norm is at most this share of the slope's norm."""


class _Wrong(Exception):
    """The function returned a value that cannot be used as a loss."""


@dataclass(frozen=True, slots=True)
class CustomLoss:
    """A function of `loss.path`, in the form of a divergence of the package."""

    path: str
    """The path as the user wrote it."""
    function: FunctionType
    folder: Path
    """The directory in which the file is executed and the function called."""

    @classmethod
    def load(cls, spec: str, folder: Path) -> CustomLoss:
        """The function of `FILE.py:NAME`, or the only function of `FILE.py`. The file is executed.

        Raises ConfigError when the file cannot be imported or has no such function.
        """
        path, name = split_name(spec)
        with chdir(folder):
            module = run_file(path, _KEY)
        found = {
            key: value
            for key, value in vars(module).items()
            if inspect.isfunction(value) and (key == name or value.__module__ == module.__name__)
        }
        if name is None and len(found) > 1:
            hint = f"name one of them: {_KEY}={path}:{next(iter(found))}"
            raise ConfigError(f"{_KEY}: {path} has several functions: {', '.join(found)}", hint)
        if name is not None and name not in found:
            hint = f"functions of that file: {', '.join(found) or 'none'}"
            raise ConfigError(f"{_KEY}: {path} has no function {name}", hint)
        if not found:
            raise ConfigError(f"{_KEY}: {path} has no function", _HINT)
        function = found[name or next(iter(found))]
        loss = cls(path, function, folder)
        try:
            inspect.signature(function).bind(None, None)
        except TypeError as error:
            raise ConfigError(f"{loss.where()} does not take {_SIGNATURE}: {error}", _HINT) from None
        return loss

    def where(self, error: BaseException | None = None) -> str:
        """`loss.path: FILE.py:LINE: function NAME`. LINE is the line that raised, or the function's first."""
        function = inspect.unwrap(self.function)
        assert isinstance(function, FunctionType)
        line = failed_line(error, self.folder / Path(self.path).expanduser()) if error else None
        line = line or function.__code__.co_firstlineno
        return f"{_KEY}: {self.path}:{line}: function {function.__name__}"

    def __call__(
        self, log_q_CV: Tensor, q_CV: Tensor, log_p_CV: Tensor, objective: Objective
    ) -> tuple[Tensor, Tensor]:
        """Value [C] and slope [C, V]. Raises RunFailed when the function raises or returns no loss."""
        try:
            with chdir(self.folder):
                return differentiate(self._checked, log_q_CV, log_p_CV)
        except _Wrong as error:
            raise RunFailed(f"{self.where()} {error}", _HINT) from None
        except (Exception, SystemExit) as error:  # the user's code may raise anything
            message = f"{self.where(error)} raised {one_line(error)}"
            raise RunFailed(message, "correct the file") from error

    def _checked(self, log_q_CV: Tensor, log_p_CV: Tensor) -> Tensor:
        value_C = self.function(log_q_CV, log_p_CV)
        if not isinstance(value_C, Tensor):
            raise _Wrong(f"returned a {type(value_C).__name__} instead of a tensor")
        if value_C.shape != log_q_CV.shape[:1]:
            shapes = f"{list(value_C.shape)} for log-probabilities of shape {list(log_q_CV.shape)}"
            raise _Wrong(f"returned the shape {shapes} instead of one number for each token: [N]")
        if value_C.dtype != log_q_CV.dtype:
            raise _Wrong(f"returned {value_C.dtype} instead of {log_q_CV.dtype}")
        if not value_C.requires_grad:
            raise _Wrong("has no gradient: what it returns does not depend on student_log_p")
        return value_C


def try_loss(loss: CustomLoss, vocab_size: int, device: torch.device) -> None:
    """Call the function on made-up log-probabilities.

    Raises RunFailed when the function raises or returns no loss, ConfigError when its values or its gradient
    are not finite, or its gradient is zero.
    """
    for name, log_q_NV, log_p_NV in _made_up(vocab_size, device):
        q_NV = log_q_NV.exp()
        value_N, slope_NV = loss(log_q_NV, q_NV, log_p_NV, Objective(vocab_size=vocab_size))
        for what, tensor in (("values that are", value_N), ("a gradient that is", slope_NV)):
            if not tensor.isfinite().all():
                raise ConfigError(f"{loss.where()} gives {what} not finite, tried on {name}", _FINITE_HINT)
        gradient_NV = slope_NV - q_NV * slope_NV.sum(-1, keepdim=True)
        if log_q_NV is not log_p_NV and gradient_NV.norm() <= _LEAST_GRADIENT * slope_NV.norm():
            message = f"{loss.where()} has no gradient: it is zero for the student's logits, tried on {name}"
            raise ConfigError(message, _HINT)


def _made_up(vocab_size: int, device: torch.device) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Pairs of student and teacher log-probabilities with names. The pair of one token shows squeezed
    shapes."""
    generator = torch.Generator().manual_seed(0)

    def log_probs(num_tokens: int, scale: float, *, rules_out: bool = False) -> Tensor:
        logits = scale * torch.randn(num_tokens, vocab_size, generator=generator)
        if rules_out:
            logits[:, -1] = -torch.inf
        return logits.log_softmax(-1).clamp_(min=LOG_FLOOR).to(device)

    yield "random log-probabilities", log_probs(7, 1.0), log_probs(7, 1.0)
    yield "peaked log-probabilities", log_probs(7, 5.0), log_probs(7, 5.0)
    yield "the log-probabilities of a single token", log_probs(1, 1.0), log_probs(1, 1.0)
    same = log_probs(7, 1.0)
    yield "a student that equals its teacher", same, same
    same = log_probs(7, 1.0, rules_out=True)
    yield "a token that the student alone rules out", same, log_probs(7, 1.0)
    yield "a token that the teacher alone rules out", log_probs(7, 1.0), same
    yield "a token that both models rule out", log_probs(7, 1.0, rules_out=True), same
    yield "a student that equals its teacher and rules a token out", same, same


def main() -> None:
    """Run the trial. Its settings name the file `report`, which gets the error or an empty report."""
    report = {}
    settings = json.loads(Path(sys.argv[1]).read_text())
    try:
        loss = CustomLoss.load(settings["path"], Path(settings["folder"]))
        try_loss(loss, settings["vocab_size"], torch.device(settings["device"]))
    except DistillError as error:
        report = {"message": error.message, "hint": error.hint}
    Path(settings["report"]).write_text(json.dumps(report))


if __name__ == "__main__":
    main()
