"""The student under DeepSpeed: a model whose LM head returns the loss, and its optimizer.

The objective runs inside the head's forward, so that ZeRO-3's hooks on that module gather its weight once for
the forward and once for the backward pass, and logits never leave it.
Dimensions: T tokens of packed sequences, N response tokens of them, H the student's hidden size, V the padded
vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import MethodType
from typing import Any

import torch
from torch import Tensor

from distillctl.config.schema import Config, OptimConfig
from distillctl.data_types import MicroBatch
from distillctl.models.compatibility import require_plain_head
from distillctl.models.load import load_model
from distillctl.models.packed_attention import packed_arguments
from distillctl.objective.alternatives import Alternatives, alternatives
from distillctl.objective.matmul import logits
from distillctl.objective.teacher_scores import TeacherScores
from distillctl.train.training_batch import TokenStats, TrainingBatch

_BUCKET_NUMEL = 25_000_000
"""Parameters whose gradients are reduced together, and those that AdamW updates together, whose temporary
tensors are as large: 100 MB each in float32. DeepSpeed's own values are twenty and forty times this."""


class Student:
    """The trained model. All methods are collective: every rank calls them together."""

    def __init__(
        self,
        path: str,
        dtype: torch.dtype,
        config: Config,
        num_steps: int,
        *,
        universal: bool = False,
    ) -> None:
        """`universal`: load checkpoints in DeepSpeed's form for any number of ranks, and no others."""
        import deepspeed

        self.universal = universal
        self.dtype = dtype
        self.path = Path(path)
        settings = deepspeed_settings(config, dtype)
        settings["checkpoint"] = {"load_universal": universal}
        self.model = load_model(path, dtype, settings if config.zero.stage == 3 else None)
        require_plain_head(self.model.config, "student.model")
        if config.student.gradient_checkpointing:
            self.model.gradient_checkpointing_enable({"use_reentrant": False})
        self.model.forward = MethodType(_forward, self.model)
        self.model.lm_head.forward = MethodType(_head_forward, self.model.lm_head)
        if config.zero.stage == 3:
            # A layer's parameters are gathered together, once, not module by module: fewer collectives, and a
            # tenth of the hooks, which are what ZeRO-3 costs on one rank.
            deepspeed.utils.set_z3_leaf_modules(self.model, sorted(self.model._no_split_modules))
        schedule = lr_schedule(config.optim, num_steps)
        self.deepspeed, *_ = deepspeed.initialize(
            model=self.model,
            model_parameters=parameter_groups(self.model, config.optim.weight_decay),
            config=settings,
            lr_scheduler=lambda optimizer: torch.optim.lr_scheduler.LambdaLR(optimizer, schedule),
        )
        if config.zero.stage == 0 and dtype == torch.bfloat16:
            _undo_first_step(self.deepspeed.optimizer)

    def forward_backward(self, batch: TrainingBatch, *, last: bool) -> TokenStats:
        """Add this micro-batch's gradient; `last` ends the accumulation.

        The tokens' weights are those of the global batch. DeepSpeed averages gradients over ranks, so the
        loss is multiplied by their number.
        """
        loss, stats_SN, *columns = self.deepspeed(*batch.micro_batch.inputs, compute=batch.loss)
        self.deepspeed.set_gradient_accumulation_boundary(last)
        self.deepspeed.backward(loss * self.deepspeed.world_size, scale_wrt_gas=False)
        return TokenStats(stats_SN, Alternatives(*columns) if columns else None)

    def step(self) -> dict[str, float]:
        """One optimizer step (clipped; skipped on all ranks when the gradient of one is not finite).

        Returns its metrics; `actor/skipped_steps` counts over the whole run.
        """
        lr = self.deepspeed.get_lr()[0]
        norm = None if hasattr(self.deepspeed.optimizer, "overflow") else self._plain_grad_norm()
        if norm is None or math.isfinite(norm):
            self.deepspeed.step()
            norm = self.deepspeed.get_global_grad_norm() if norm is None else norm
        else:
            self.deepspeed.optimizer.zero_grad()
            self.deepspeed.skipped_steps += 1
        return {
            "actor/lr": lr,
            "actor/grad_norm": math.nan if norm is None else float(norm),
            "actor/skipped_steps": float(self.deepspeed.skipped_steps),
        }

    def _plain_grad_norm(self) -> float:
        """Norm of gradients that are whole on every rank: stage 0 in float32, where DeepSpeed neither reports
        it nor looks for NaN."""
        gradients = [p.grad for p in self.deepspeed.module.parameters() if p.grad is not None]
        return float(torch.nn.utils.get_total_norm(gradients))

    @torch.no_grad()
    def statistics(self, batch: TrainingBatch) -> dict[str, Tensor]:
        """Statistics [N] of a micro-batch by name, without any gradient."""
        self.deepspeed.eval()
        _, stats_SN = self.deepspeed(*batch.micro_batch.inputs, compute=batch.loss)
        self.deepspeed.train()
        return dict(zip(batch.stat_names, stats_SN, strict=True))

    @torch.no_grad()
    def alternatives(
        self, batch: MicroBatch, scores: TeacherScores, vocab_size: int, count: int
    ) -> Alternatives:
        """The `count` most likely tokens of both models at each token of a micro-batch."""
        compute = partial(
            alternatives,
            teacher=scores,
            target_ids_N=batch.tokens.target_ids_N,
            vocab_size=vocab_size,
            count=count,
        )
        self.deepspeed.eval()
        found: Alternatives = self.deepspeed(*batch.inputs, compute=compute)
        self.deepspeed.train()
        return found

    @torch.no_grad()
    def logprobs(self, token_ids: list[int], temperature: float = 1.0) -> Tensor:
        """float32 [T - 1] on the CPU: log-probability of `token_ids[1:]` over the whole padded vocabulary."""
        device = self.deepspeed.device
        input_ids_T = torch.tensor(token_ids, device=device)
        length = len(token_ids)
        self.deepspeed.eval()
        logits_TV = self.deepspeed(input_ids_T, (length,), torch.arange(length - 1, device=device))
        self.deepspeed.train()
        logp_TV = (logits_TV.float() / temperature).log_softmax(-1)
        logp_T: Tensor = logp_TV.gather(-1, input_ids_T[1:, None]).squeeze(-1)
        return logp_T.cpu()


Compute = Callable[[Tensor, Tensor], Any]
"""From the last hidden states [N, H] and the weight [V, H] of the LM head."""


def _forward(
    self: Any, input_ids_T: Tensor, lengths: tuple[int, ...], rows_N: Tensor, *, compute: Compute = logits
) -> Any:
    """Replaces the model's forward: hidden states at `rows_N`, then the LM head with `compute` in it."""
    hidden_1TH = self.base_model(**packed_arguments(input_ids_T, lengths)).last_hidden_state
    return self.lm_head(hidden_1TH[0, rows_N], compute=compute)


def _head_forward(self: Any, hidden_NH: Tensor, *, compute: Compute = logits) -> Any:
    """Replaces the LM head's forward: logits, or what else is computed from hidden states and head."""
    return compute(hidden_NH, self.weight)


def parameter_groups(model: Any, weight_decay: float) -> list[Any]:
    """What the optimizer is given: all parameters, or with weight decay two groups of them.

    Matrices decay, embeddings and head among them; vectors, which are biases and the weights of norms, do
    not. That is the choice of transformers' Trainer (`get_decay_parameter_names`).
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not weight_decay:
        return trained
    decay: list[Any] = []
    keep: list[Any] = []
    for parameter in trained:
        shape = getattr(parameter, "ds_shape", parameter.shape)  # of a shard: that of the whole
        (decay if len(shape) > 1 else keep).append(parameter)
    return [{"params": decay}, {"params": keep, "weight_decay": 0.0}]


def _undo_first_step(optimizer: Any) -> None:
    """DeepSpeed's optimizer of bfloat16 without ZeRO makes its state by a step on gradients of zero.

    That step counts in AdamW's bias correction, so that the first real one would be 0.735 of the learning
    rate (for betas 0.9 and 0.95), and the float32 weights decay in it. What is cleared comes again at the
    first real step.
    """
    optimizer.optimizer.state.clear()
    for wide_group, group in zip(optimizer.fp32_groups, optimizer.fp16_groups, strict=True):
        for wide, parameter in zip(wide_group, group, strict=True):
            wide.data.copy_(parameter.data)


def deepspeed_settings(config: Config, dtype: torch.dtype) -> dict[str, Any]:
    """DeepSpeed's configuration. Nothing in it rescales the loss (gradient_accumulation_steps is 1)."""
    zero: dict[str, Any] = {
        "stage": config.zero.stage,
        "contiguous_gradients": False,  # one copy less: they are copied into buckets for the reduction anyway
        "reduce_bucket_size": _BUCKET_NUMEL,
        "sub_group_size": _BUCKET_NUMEL,
    }
    if config.zero.offload != "none":
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": True}
    if config.zero.offload == "all":
        zero["offload_param"] = {"device": "cpu", "pin_memory": True}
    optim = config.optim
    return {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": optim.clip_grad,
        "zero_optimization": zero,
        "bf16": {"enabled": dtype == torch.bfloat16},
        # torch's AdamW: DeepSpeed's own is compiled at the first start, which takes minutes on a CPU.
        "zero_force_ds_cpu_optimizer": False,
        "optimizer": {
            "type": "AdamW",
            "params": {
                "torch_adam": True,
                "lr": optim.lr,
                "betas": list(optim.betas),
                "weight_decay": optim.weight_decay,
            },
        },
        "steps_per_print": 2**31,
    }


def lr_schedule(optim: OptimConfig, num_steps: int) -> Callable[[int], float]:
    """Factor of the peak learning rate for the update after `done` steps; warm-up starts above zero."""

    def factor(done: int) -> float:
        if done < optim.warmup_steps:
            return (done + 1) / optim.warmup_steps
        if optim.schedule == "constant":
            return 1.0
        rest = max(1, num_steps - optim.warmup_steps)
        progress = min(1.0, (done - optim.warmup_steps) / rest)
        if optim.schedule == "linear":
            return 1.0 - progress
        return 0.5 * (1.0 + math.cos(math.pi * progress))

    return factor
