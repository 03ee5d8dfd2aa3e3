"""What the name and the source of a divergence's file tell before anything is started."""

import pytest

from distillctl.config.divergence_files import OTHER_KINDS, file_of, require_function, require_names
from distillctl.errors import ConfigError
from distillctl.objective.divergences import NAMES


def test_the_files_of_the_package_are_divergences():
    require_names(NAMES)
    for name in NAMES:
        require_function("loss.kind", file_of(name))


@pytest.mark.parametrize("name", ["my-kl", "2kl", "kl (copy)", *OTHER_KINDS])
def test_a_name_that_is_no_value_of_loss_kind_is_refused_with_its_file(name):
    with pytest.raises(ConfigError) as caught:
        require_names(("reverse_kl", name))
    message = caught.value.message
    assert message.startswith(f"{file_of(name)}: ")
    assert "\n" not in message
    other = name in OTHER_KINDS
    assert message.endswith("is another objective" if other else f"{name!r} is not a name for a divergence")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("def value_and_slop(a, b, c, d): ...\ndef f(): ...\n",
         " defines no function value_and_slope; its functions: value_and_slop, f"),
        ("x = 1\n", " defines no function value_and_slope"),
        ("x = 1\ndef value_and_slope(log_q_CV, log_p_CV): ...\n",
         ":2: its parameters are not those of value_and_slope(log_q_CV, q_CV, log_p_CV, objective)"),
        ("x = 1\ndef value_and_slope(:\n", ":2: invalid syntax"),
    ],
)  # fmt: skip
def test_a_file_without_the_function_is_refused_and_not_run(tmp_path, source, message):
    file = tmp_path / "mine.py"
    file.write_text(f"{source}\nraise AssertionError\n")
    with pytest.raises(ConfigError) as caught:
        require_function("loss.kind", file)
    assert caught.value.message == f"loss.kind: {file}{message}"
