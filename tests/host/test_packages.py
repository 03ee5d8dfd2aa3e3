"""What train and eval say where their packages are missing."""

import importlib.util

import pytest

from distillctl.errors import EnvironmentUnfit
from distillctl.host.packages import require_packages


@pytest.mark.parametrize(("device", "extra"), [("cpu", "cpu"), ("cuda", "gpu")])
def test_missing_engines_name_the_pip_line(monkeypatch, device, extra):
    """The import system is asked for names that are not there; test_packaging has the real case."""
    found = importlib.util.find_spec
    gone = ("vllm", "deepspeed")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in gone else found(name))
    with pytest.raises(EnvironmentUnfit, match="vllm and deepspeed not installed") as caught:
        require_packages(device)
    assert caught.value.hint == f"pip install 'distillctl[{extra}]'"
    assert caught.value.exit_code == 3
