"""The student under DeepSpeed: a model whose LM head returns the loss, and its optimizer.

The objective runs inside the LM head's forward. So ZeRO-3's hooks on that module gather its weight once for
the forward and once for the backward pass, and logits never leave the module.
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
"""Number of parameters whose gradients are reduced together, and that AdamW updates together with temporary
tensors of the same size: 100 MB each in float32. DeepSpeed's defaults are 20 and 40 times as large."""


class Student:
    """The model that is trained. All methods are collective: every rank calls them together."""

    def __init__(
        self,
        path: str,
        dtype: torch.dtype,
        config: Config,
        num_steps: int,
        *,
        universal: bool = False,
    ) -> None:
        """With `universal`, only checkpoints in DeepSpeed's form for any number of ranks can be loaded."""
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
            # Gather a layer's parameters together instead of module by module. This takes fewer collectives
            # and a tenth of the hooks. On one rank, the hooks are the whole cost of ZeRO-3.
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
        """Add the gradient of this micro-batch. `last` ends the accumulation.

        The tokens' weights refer to the global batch. DeepSpeed averages gradients over ranks, so the loss is
        multiplied by the number of ranks.
        """
        loss, stats_SN, *columns = self.deepspeed(*batch.micro_batch.inputs, compute=batch.loss)
        self.deepspeed.set_gradient_accumulation_boundary(last)
        self.deepspeed.backward(loss * self.deepspeed.world_size, scale_wrt_gas=False)
        return TokenStats(stats_SN, Alternatives(*columns) if columns else None)

    def step(self) -> dict[str, float]:
        """Make one optimizer step with clipped gradients; returns its metrics.

        When the gradient of one rank is not finite, all ranks skip the step. `actor/skipped_steps` counts the
        skipped steps of the whole run.
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
        """Norm of gradients that are whole on every rank.

        Used for stage 0 in float32, where DeepSpeed neither reports the norm nor looks for NaN.
        """
        gradients = [p.grad for p in self.deepspeed.module.parameters() if p.grad is not None]
        return float(torch.nn.utils.get_total_norm(gradients))

    @torch.no_grad()
    def statistics(self, batch: TrainingBatch) -> dict[str, Tensor]:
        """Statistics [N] of a micro-batch by name, without a gradient."""
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
        """float32 [T - 1], on the CPU: log-probabilities of `token_ids[1:]` over the padded vocabulary."""
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
"""Takes the last hidden states [N, H] and the weight [V, H] of the LM head."""


def _forward(
    self: Any, input_ids_T: Tensor, lengths: tuple[int, ...], rows_N: Tensor, *, compute: Compute = logits
) -> Any:
    """Replaces the model's forward: hidden states at `rows_N`, then the LM head, which applies `compute`."""
    hidden_1TH = self.base_model(**packed_arguments(input_ids_T, lengths)).last_hidden_state
    return self.lm_head(hidden_1TH[0, rows_N], compute=compute)


def _head_forward(self: Any, hidden_NH: Tensor, *, compute: Compute = logits) -> Any:
    """Replaces the LM head's forward: logits, or another `compute` of hidden states and the head's weight."""
    return compute(hidden_NH, self.weight)


def parameter_groups(model: Any, weight_decay: float) -> list[Any]:
    """The optimizer's parameters: all of them, or two groups when there is weight decay.

    Matrices decay, including embeddings and LM head. Vectors do not; they are biases and the weights of
    norms. transformers' Trainer makes the same choice (`get_decay_parameter_names`).
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not weight_decay:
        return trained
    decay: list[Any] = []
    keep: list[Any] = []
    for parameter in trained:
        shape = getattr(parameter, "ds_shape", parameter.shape)  # `ds_shape`: the whole shape of a shard
        (decay if len(shape) > 1 else keep).append(parameter)
    return [{"params": decay}, {"params": keep, "weight_decay": 0.0}]


def _undo_first_step(optimizer: Any) -> None:
    """Undo the step on zero gradients by which DeepSpeed's bfloat16 optimizer without ZeRO makes its state.

    AdamW's bias correction would count that step: with betas 0.9 and 0.95, the first real step would be 0.735
    of the learning rate. The float32 weights also decay in it. The first real step makes the cleared state
    again.
    """
    optimizer.optimizer.state.clear()
    for wide_group, group in zip(optimizer.fp32_groups, optimizer.fp16_groups, strict=True):
        for wide, parameter in zip(wide_group, group, strict=True):
            wide.data.copy_(parameter.data)


def deepspeed_settings(config: Config, dtype: torch.dtype) -> dict[str, Any]:
    """DeepSpeed's configuration. Nothing in it rescales the loss (gradient_accumulation_steps is 1)."""
    zero: dict[str, Any] = {
        "stage": config.zero.stage,
        "contiguous_gradients": False,  # saves a copy: the reduction copies gradients into buckets anyway
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
        # Use torch's AdamW: DeepSpeed compiles its own at the first start, which takes minutes on a CPU.
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
    """The factor of the peak learning rate for the update after `done` steps. Warm-up starts above zero."""

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
