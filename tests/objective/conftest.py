"""Small models in float64, and a loss with its gradients: from the package, and from dense autograd.

Dimensions: N tokens, H and G the hidden sizes of student and teacher, V shared vocabulary, K listed tokens.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from distillctl.objective.chunked import CROSS_ENTROPY_STATS, chunked_loss, cross_entropy, stat_names
from distillctl.objective.inputs import Objective, Tokens
from distillctl.objective.teacher_scores import Dense, TeacherScores, TopK

H, G, V = 5, 7, 11
STUDENT_PADDING, TEACHER_PADDING = 2, 6


@dataclass(frozen=True)
class Case:
    """N tokens seen by a student and a teacher, both with rows of NaN after the vocabulary."""

    hidden_NH: Tensor
    head_VH: Tensor
    teacher: Dense
    tokens: Tokens
    vocab_size: int = V

    def logits_NV(self) -> Tensor:
        return self.hidden_NH @ self.head_VH[: self.vocab_size].T

    def teacher_logits_NV(self) -> Tensor:
        return self.teacher.hidden_NG @ self.teacher.head_VG[: self.vocab_size].T

    def served(self, ids_NK: Tensor) -> TopK:
        """What a server would list of the teacher: NaN where an id is -1."""
        logp_NV = self.teacher_logits_NV().log_softmax(-1)
        logp_NK = logp_NV.gather(-1, ids_NK.clamp_min(0)).masked_fill(ids_NK < 0, torch.nan)
        return TopK(logp_NV.gather(-1, self.tokens.target_ids_N[:, None])[:, 0], ids_NK, logp_NK)

    def served_topk(self, num_topk: int) -> TopK:
        """The teacher's most likely tokens."""
        return self.served(self.teacher_logits_NV().topk(num_topk).indices)

    def replace(self, **fields) -> "Case":
        return replace(self, **fields)

    def with_tokens(self, **fields) -> "Case":
        return replace(self, tokens=replace(self.tokens, **fields))

    def to(self, dtype: torch.dtype) -> "Case":
        def convert(item):
            converted = {
                name: value.to(dtype)
                for name in item.__slots__
                if isinstance(value := getattr(item, name), Tensor) and value.is_floating_point()
            }
            return replace(item, **converted)

        return replace(
            self,
            hidden_NH=self.hidden_NH.to(dtype),
            head_VH=self.head_VH.to(dtype),
            teacher=convert(self.teacher),
            tokens=convert(self.tokens),
        )


class Result(NamedTuple):
    """A loss and its gradients; `stats` by name, of the package only."""

    loss: Tensor
    grad_hidden_NH: Tensor
    grad_head_VH: Tensor
    stats: dict[str, Tensor]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Tensors of a few hundred entries: handing them to threads takes longer than the work."""
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(num_threads)


@pytest.fixture(scope="session")
def make_case() -> Callable[..., Case]:
    """Builds a case of random models; `scale` multiplies the logits' standard deviation of about 1, `padding`
    counts the rows of NaN after the vocabulary of student and teacher."""

    def make(
        num_tokens: int = 9,
        seed: int = 0,
        scale: float = 1.0,
        padding: tuple[int, int] = (STUDENT_PADDING, TEACHER_PADDING),
    ) -> Case:
        generator = torch.Generator().manual_seed(seed)

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator, dtype=torch.float64)

        def head(width: int, padding: int) -> Tensor:
            nans = torch.full((padding, width), torch.nan, dtype=torch.float64)
            return torch.cat([scale * normal(V, width) / width**0.5, nans])

        weights_N = 0.2 + torch.rand(num_tokens, generator=generator, dtype=torch.float64)
        if num_tokens > 2:
            weights_N[1] = 0.0
        tokens = Tokens(
            torch.randint(0, V, (num_tokens,), generator=generator), weights_N, normal(num_tokens) - 2.0
        )
        return Case(
            normal(num_tokens, H),
            head(H, padding[0]),
            Dense(normal(num_tokens, G), head(G, padding[1])),
            tokens,
        )

    return make


@pytest.fixture(scope="session")
def logit_case() -> Callable[..., Case]:
    """Builds a case of given logits [N, V]: identity heads, so that hidden states and their gradients are
    those of logits. -1e30 stands for -inf, whose product with the zeros of an identity would be NaN."""

    def make(logits_NV: Tensor, teacher_NV: Tensor) -> Case:
        num_tokens, vocab_size = logits_NV.shape
        eye = torch.eye(vocab_size, dtype=logits_NV.dtype)
        ones_N = torch.ones(num_tokens, dtype=logits_NV.dtype)
        tokens = Tokens(torch.arange(num_tokens) % vocab_size, ones_N, -2.0 * ones_N)
        logits_NV, teacher_NV = logits_NV.clamp(min=-1e30), teacher_NV.clamp(min=-1e30)
        return Case(logits_NV, eye, Dense(teacher_NV, eye), tokens, vocab_size)

    return make


@pytest.fixture(scope="session")
def ours() -> Callable[..., Result]:
    """The package's loss of a case, by keyword arguments of `Objective`; cross-entropy without a teacher."""

    def run(case: Case, teacher: TeacherScores | None, **fields) -> Result:
        objective = Objective(vocab_size=case.vocab_size, **fields)
        hidden_NH = case.hidden_NH.detach().clone().requires_grad_()
        head_VH = case.head_VH.detach().clone().requires_grad_()
        if teacher is None:
            names = CROSS_ENTROPY_STATS
            loss, stats_SN = cross_entropy(hidden_NH, head_VH, case.tokens, objective)
        else:
            names = stat_names(objective, teacher, rewarded=case.tokens.advantages_N is not None)
            loss, stats_SN = chunked_loss(hidden_NH, head_VH, teacher, case.tokens, objective)
        loss.backward()
        return Result(
            loss.detach(), hidden_NH.grad, head_VH.grad, dict(zip(names, stats_SN.unbind(), strict=True))
        )

    return run


@pytest.fixture(scope="session")
def reference() -> Callable[..., Result]:
    """The same in float64 by autograd, from a function of logits [N, V] that returns token losses [N]."""

    def run(case: Case, token_losses: Callable[[Tensor], Tensor]) -> Result:
        exact = case.to(torch.float64)
        hidden_NH = exact.hidden_NH.detach().clone().requires_grad_()
        head_VH = exact.head_VH.detach().clone().requires_grad_()
        logits_NV = hidden_NH @ head_VH[: case.vocab_size].T
        loss = (exact.tokens.weights_N * token_losses(logits_NV)).sum()
        loss.backward()
        return Result(loss.detach(), hidden_NH.grad, head_VH.grad, {})

    return run


@pytest.fixture(scope="session")
def assert_same() -> Callable[..., None]:
    """Losses and gradients agree to `tolerance`, relative to the largest entry of each."""

    def check(got: Result, expected: Result, tolerance: float = 1e-11) -> None:
        for name in ("loss", "grad_hidden_NH", "grad_head_VH"):
            value, wanted = getattr(got, name).double(), getattr(expected, name).double()
            assert value.shape == wanted.shape
            if not wanted.numel():
                continue
            error = (value - wanted).abs().max().item()
            bound = tolerance * max(wanted.abs().max().item(), 1e-3)
            assert error <= bound, f"{name}: off by {error:.3g}, allowed {bound:.3g}\n{value}\n{wanted}"

    return check


@pytest.fixture(scope="session")
def dense_divergence() -> Callable[..., Tensor]:
    """Divergences from the definition, of probabilities [.., V] that are all positive."""

    def value(kind: str, beta: float, q: Tensor, p: Tensor) -> Tensor:
        def kl(a: Tensor, b: Tensor) -> Tensor:
            return (a * (a.log() - b.log())).sum(-1)

        if kind == "reverse_kl" or (kind == "jsd" and beta == 1.0):
            return kl(q, p)
        if kind == "forward_kl" or (kind == "jsd" and beta == 0.0):
            return kl(p, q)
        m = beta * p + (1.0 - beta) * q
        return beta * kl(p, m) + (1.0 - beta) * kl(q, m)

    return value


@pytest.fixture(scope="session")
def central_difference() -> Callable[..., None]:
    """Every second entry of a case's gradients is the central difference of its loss. `run` gives a case's
    result, and depends on its hidden states and head alone."""

    def check(case: Case, run: Callable[[Case], Result], step: float = 1e-5, rtol: float = 1e-6) -> None:
        got = run(case)
        for name, gradient in (("hidden_NH", got.grad_hidden_NH), ("head_VH", got.grad_head_VH)):
            for place in range(0, 15, 2):
                losses = []
                for sign in (1, -1):
                    moved = getattr(case, name).clone()
                    moved.view(-1)[place] += sign * step
                    losses.append(run(case.replace(**{name: moved})).loss)
                slope = (losses[0] - losses[1]) / (2 * step)
                torch.testing.assert_close(gradient.view(-1)[place], slope, rtol=rtol, atol=1e-8)

    return check
