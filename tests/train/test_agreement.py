"""What engine and trainer may lie apart by, on recorded log-probabilities."""

import numpy as np
import pytest
import torch

from distillctl.errors import RunFailed
from distillctl.train.agreement import Scores, gap, require_agreement

HEALTHY = [
    0.025, 0.213, -0.091, 0.029, 0.039, 0.095, 0.068, 0.001, -0.005, -0.07, -0.137, -0.184, -0.088, -0.175,
    -0.194, -0.012, -0.022, -0.101, -0.345, 0.022, -0.062, 0.071, 0.0, 0.11, -0.077, 0.041, 0.029, -0.005,
    0.043, 0.023, -0.0, -0.07, -0.038, 0.031, 0.028, 0.071, -0.159, 0.025, -0.007, 0.055, 0.135, 0.061, -0.01,
    -0.058, 0.011, 0.199, -0.001, 0.021, 0.003, 0.019, 0.132, -0.039, -0.013, -0.035, 0.054, 0.036, 0.066,
    -0.014, 0.097, -0.1, 0.002, 0.029, 0.066,
]  # fmt: skip
"""Engine minus trainer, nats, of SmolLM2-135M-Instruct in bfloat16 with the same weights on a CPU: the first
64 tokens of a GSM8K prompt, of 32 the one with the largest mean."""
WRONG = [
    -0.023, 0.23, -0.129, -0.09, 0.416, 0.463, -0.408, -0.019, 0.246, 0.776, 0.494, -0.106, -0.184, -0.172,
    -0.945, 0.179, -0.773, 0.344, -0.167, 0.017, -0.457, -1.819, 0.0, -0.065, 0.218, -0.254, 0.587, 0.057,
    0.711, -0.059, -0.477, -0.144, -0.087, 0.216, -0.202, -0.172, -0.183, -0.131, -0.054, 0.032, 0.052,
    -0.012, -0.0, -0.129, 0.028, -0.039, -0.188, 0.17, -0.013, 0.452, -0.046, -0.01, -0.316, 0.237, 0.068,
    0.003, 0.046, 0.069, 0.375, -0.046, -0.249, -0.034, 0.552,
]  # fmt: skip
"""The same with the last layer's value projection from the layer before, of 24 prompts the smallest mean."""
OURS = torch.linspace(-6.0, -0.5, len(HEALTHY))


def scores(difference, ours=OURS):
    return Scores(ours, (ours + torch.tensor(difference)).numpy())


def test_rounding_of_bfloat16_passes_although_one_token_lies_far_off() -> None:
    found = require_agreement(scores(HEALTHY), None, torch.bfloat16, 0, pushed=False)
    assert found == pytest.approx(np.abs(HEALTHY).mean(), rel=1e-4)


def test_one_wrong_matrix_is_found_in_bfloat16() -> None:
    with pytest.raises(RunFailed, match=r"by 0.242 nats \(mean of the tokens; allowed: 0.2\)"):
        require_agreement(scores(WRONG), scores(HEALTHY), torch.bfloat16, 3, pushed=True, first_nats=0.0645)


def test_a_model_that_rounds_coarsely_at_first_may_go_on_so() -> None:
    """SmolLM2 cut to 22 layers gives prompts 4e-6 a token: 0.151 nats at first, 0.206 after three steps."""
    later = scores([0.206] * len(HEALTHY))
    require_agreement(later, scores(HEALTHY), torch.bfloat16, 3, pushed=True, first_nats=0.151)
    with pytest.raises(RunFailed, match=r"allowed: 0.453"):
        require_agreement(
            scores([0.5] * len(HEALTHY)), later, torch.bfloat16, 3, pushed=True, first_nats=0.151
        )


@pytest.mark.parametrize(("worst", "passes"), [(9e-4, True), (1.1e-3, False)])
def test_in_float32_no_token_may_lie_off(worst, passes) -> None:
    difference = [0.0] * (len(HEALTHY) - 1) + [worst]
    assert gap(OURS, OURS + torch.tensor(difference), torch.float32).is_rounding == passes


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_nan_is_no_agreement(dtype) -> None:
    assert not gap(OURS, OURS.index_fill(0, torch.tensor([3]), torch.nan), dtype).is_rounding


@pytest.mark.parametrize(
    ("pushed", "agreed", "message", "hint"),
    [
        (
            False,
            False,
            "although both loaded the same files",
            "vLLM and the trainer compute this model differently;",
        ),
        (True, True, "after the weights of step 3 were pushed", "the engine did not take the weights;"),
        (
            True,
            False,
            "after the weights of step 3",
            "the engine did not take the weights, or vLLM and the tra",
        ),
    ],
    ids=["start", "push", "first push"],
)
def test_the_message_tells_a_lost_push_from_models_that_differ(pushed, agreed, message, hint) -> None:
    before = scores(HEALTHY) if agreed else None
    with pytest.raises(RunFailed, match=message) as refused:
        require_agreement(scores([3 * one for one in WRONG]), before, torch.bfloat16, 3, pushed=pushed)
    assert refused.value.hint.startswith(hint)


@pytest.mark.parametrize(("dtype", "moved"), [(torch.float32, 5e-5), (torch.bfloat16, 5e-3)])
def test_a_push_that_moves_the_trainer_and_not_a_bit_of_the_engine_did_not_arrive(dtype, moved) -> None:
    """Both changes are far below what the dtype's rounding hides."""
    before = scores([0.0] * len(HEALTHY))
    same = Scores(before.ours_T + moved, before.theirs_T)
    with pytest.raises(RunFailed, match="no bit of the engine's"):
        require_agreement(same, before, dtype, 3, pushed=True)
    require_agreement(before, before, dtype, 3, pushed=True)  # a skipped step moves nothing
    bit = before.theirs_T.copy()
    bit[7] = np.nextafter(bit[7], np.float32(0))
    require_agreement(Scores(same.ours_T, bit), before, dtype, 3, pushed=True)
