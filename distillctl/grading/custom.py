"""The user's own function that scores a response: loaded from a file, checked, called.

distillctl calls the function as verl's reward managers call theirs, so a function written for verl works
unchanged. This module imports no torch, so a launcher can check the function before it starts anything.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from numbers import Real
from typing import Any

import numpy as np

from distillctl.data_types import Rollout
from distillctl.errors import ConfigError, RunFailed
from distillctl.files.python_file import run_file

RewardFunction = Callable[..., object]
"""Called with the arguments of `_SIGNATURE` by name; returns a number, or a dict with one as `score`."""

_SIGNATURE = "(data_source, solution_str, ground_truth, extra_info=None, **kwargs)"
_LARGEST = float(np.finfo(np.float32).max)


def load_reward(path: str, name: str) -> RewardFunction:
    """Load the function `name` from the Python file `path`. The file is executed.

    Raises ConfigError if the file does not exist, cannot be imported or raises an exception, or if it has no
    such function that takes the arguments of a reward function.
    """
    module = run_file(path, "reward.path")
    function = getattr(module, name, None)
    if function is None:
        own = (key for key, value in vars(module).items() if inspect.isfunction(value))
        hint = f"functions of that file: {', '.join(own) or 'none'}"
        raise ConfigError(f"reward.name: {path} has no {name}", hint)
    if not callable(function):
        raise ConfigError(f"reward.name: {name} in {path} is not a function", f"define {name}{_SIGNATURE}")
    if inspect.iscoroutinefunction(function):
        raise ConfigError(f"reward.name: {name} in {path} is async", f"define it as def {name}{_SIGNATURE}")
    try:
        inspect.signature(function).bind(data_source="", solution_str="", ground_truth="", extra_info=None)
    except (TypeError, ValueError) as error:
        message = f"reward.name: {name} in {path} does not take the arguments of a reward function: {error}"
        raise ConfigError(message, f"define {name}{_SIGNATURE}") from None
    return function  # type: ignore[no-any-return]


def rewards(rollouts: Sequence[Rollout], tokenizer: Any, function: RewardFunction) -> np.ndarray:
    """Score the text of each rollout, without special tokens, with `function`; float32 [R].

    For a row without `extra_info` the function gets `{}`, as in verl. Raises RunFailed if it returns anything
    but a finite float32 number, a boolean, or a dict with such a `score`. An exception of the function is
    raised again, with a note that names the prompt.
    """
    texts = tokenizer.batch_decode(
        [rollout.response_ids.tolist() for rollout in rollouts], skip_special_tokens=True
    )
    pairs = zip(rollouts, texts, strict=True)
    return np.array([reward(rollout, text, function) for rollout, text in pairs], dtype=np.float32)


def reward(rollout: Rollout, text: str, function: RewardFunction) -> float:
    """The score that `function` gives one response; raises like `rewards`."""
    prompt = rollout.prompt
    try:
        result = function(
            data_source=prompt.data_source,
            solution_str=text,
            ground_truth=prompt.ground_truth,
            extra_info=dict(prompt.extra_info or {}),  # a copy: the function may write to it
        )
    except BaseException as error:
        error.add_note(
            f"raised by the function of reward.path for a response to the prompt {prompt.prompt_id}"
        )
        raise
    score = result.get("score") if isinstance(result, dict) else result
    if isinstance(score, Real | np.bool_) and abs(float(score)) <= _LARGEST:  # false for NaN
        return float(score)
    message = f"reward.path: for a response to the prompt {prompt.prompt_id} its function returned"
    raise RunFailed(
        f"{message} {_described(result)}", "return a finite number, or a dict with one as `score`"
    )


def _described(result: object) -> str:
    """What a function returned, without the text it may hold."""
    if isinstance(result, dict):
        keys = ", ".join(map(str, result)) or "none"
        has = f"{_described(result['score'])} as `score`" if "score" in result else f"the keys {keys}"
        return f"a dict with {has}"
    if result is None or isinstance(result, Real):
        return str(result)
    return f"a value of type {type(result).__name__}"
