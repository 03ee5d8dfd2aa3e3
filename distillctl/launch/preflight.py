"""Every check of a run before it starts, in order. Checks of the configuration alone are in this module too.

`train` can refuse a run in four places:

1. `config.schema` checks the configuration by itself, when it is read;
2. `launch.resume` checks the run directory, and again when it holds the lock;
3. `prepare` makes the plan, runs checks that need no weights, downloads, and runs checks that need weights;
4. `train.self_checks` runs in the ranks before the first step, for checks that need running engines.

To add a check, write a function that raises or returns `Check`s, and call it in one of the lists below.
Imports neither torch nor transformers.
"""

from __future__ import annotations

from pathlib import Path

from distillctl.config.schema import Config
from distillctl.data.checks import answer_checks, prompt_checks, unused_text_checks
from distillctl.data.run_rows import RunRows, read_run_rows
from distillctl.grading.custom import load_reward
from distillctl.launch.devices import device_checks
from distillctl.launch.loss_trial import require_loss
from distillctl.launch.machine_checks import require_fit
from distillctl.launch.model_checks import pair_checks, weight_checks
from distillctl.launch.plan import Plan, fetch_models, resolve
from distillctl.monitor.trackers import require_tracker
from distillctl.run.checks import Check
from distillctl.teacher.logins import API_KEY, unsent_keys


def prepare(config: Config, folder: Path) -> tuple[Plan, list[Check]]:
    """Run every check that can refuse the run. Checks that need no weights come before the download.

    `folder` is the run directory, which need not exist yet. Returns the plan and the results of the checks.
    """
    rows = read_run_rows(config)
    plan = resolve(config)
    checks = checks_without_weights(config, plan, rows)
    require_loss(plan)
    require_fit(plan, folder)
    is_complete = all(model.has_tokenizer for model in plan.models)
    fetch_models(plan)
    if not is_complete:  # files that were not here could not be checked
        checks = checks_without_weights(config, plan, rows)
    return plan, [*checks, *weight_checks(plan)]


def preview(config: Config) -> tuple[Plan, RunRows, list[Check]]:
    """The same checks for a dry run, without a download and without the checks of the machine."""
    rows = read_run_rows(config)
    plan = resolve(config)
    checks = checks_without_weights(config, plan, rows)
    require_loss(plan)
    return plan, rows, [*checks, *weight_checks(plan)]


def checks_without_weights(config: Config, plan: Plan, rows: RunRows) -> list[Check]:
    """Run the checks that need no weights.

    `config` is the configuration as the user gave it. `plan.config` is the one that runs on this machine.
    """
    if config.reward.path is not None:
        load_reward(config.reward.path, config.reward.name)
    for tracker in config.train.logger:
        require_tracker(tracker)
    return [
        *device_checks(plan, config),
        *pair_checks(plan),
        *login_checks(plan.config),
        *objective_checks(plan.config),
        *schedule_checks(plan.config, len(rows.train)),
        *answer_checks(plan.config, rows.train, rows.val),
        *unused_text_checks(rows.train, rows.val),
        *prompt_checks(plan.config, plan.student, rows.train, rows.val),
    ]


def login_checks(config: Config) -> list[Check]:
    """Warn about servers that are not sent the API key because their address has a login."""
    hint = "leave one of the two out"
    return [
        Check(
            "teacher login", "warn",
            f"{url} gets the user and password in it; the API key in {API_KEY} is not sent to it", hint,
        )
        for url in unsent_keys(config)
    ]  # fmt: skip


def objective_checks(config: Config) -> list[Check]:
    """Say what the configured loss really trains, and on which samples."""
    return [_objective_check(config), _sampling_check(config), *_staleness_checks(config)]


def _objective_check(config: Config) -> Check:
    """Say which divergence the gradient of the configured loss reduces."""
    loss = config.loss
    name = "objective"
    if loss.kind == "topk":
        detail = (
            f"{loss.topk_divergence} over the teacher's {loss.topk} most likely tokens and a bucket for "
            "the rest: a lower bound of the full divergence; it does not train how probability is shared "
            "within the bucket"
        )
        return Check(name, "ok", detail)
    if loss.kind == "student_topk":
        detail = (
            f"reverse KL, exact on the student's {loss.topk} most likely tokens and estimated from the "
            "sampled token on the rest; its gradient is right in expectation"
        )
        return Check(name, "ok", detail)
    if loss.kind == "sampled":
        return _estimator_check(config)
    if loss.path is not None:
        detail = f"your own loss, {loss.label}, over the shared vocabulary; autograd gives its slope"
        return Check(name, "ok", detail)
    return Check(name, "ok", f"{loss.kind}, exact over the shared vocabulary")


def _estimator_check(config: Config) -> Check:
    """Say what the estimator's expected gradient over the sampled token is (`docs/objectives.md`)."""
    estimator = config.loss.estimator
    name = "objective"
    if config.loss.policy_gradient:
        detail = (
            "policy gradient with log p - log q as advantage: in expectation the gradient of the reverse KL"
        )
        return Check(name, "ok", detail)
    if estimator in ("k3", "low_var_kl"):
        detail = (
            f"{estimator} as a loss has the expected gradient of the FORWARD KL (teacher || student); it "
            "weights tokens by the ratio p/q, whose variance is high"
        )
    elif estimator == "abs":
        detail = (
            "abs as a loss does not have the expected gradient of any KL: it is sum q sign(log q - log p) "
            "grad log q, which ignores how far the two are apart"
        )
    else:
        biased = estimator.startswith(("k2", "mse", "abs"))
        value = "a biased value, and " if biased else ""
        return Check(name, "ok", f"{estimator}: {value}in expectation the gradient of the reverse KL")
    hint = f"loss.kl_loss_type={estimator}+ keeps the value and has the gradient of the reverse KL"
    return Check(name, "warn", detail, hint)


def _sampling_check(config: Config) -> Check:
    """Say whether rollouts are sampled from the distribution that is trained."""
    loss = config.loss
    rollout = config.rollout
    name = "sampling"
    if rollout.temperature == loss.temperature and rollout.top_p == 1.0:
        return Check(name, "ok", "rollouts are samples of the distribution that is trained")
    how = (
        f"rollouts are at temperature {rollout.temperature:g} and top_p {rollout.top_p:g}, the loss is at "
        f"temperature {loss.temperature:g}"
    )
    if config.reward.path is not None and rollout.top_p < 1.0:
        detail = (
            f"{how}: the task reward's importance ratio compares the whole distribution with the nucleus, "
            "from which rollouts are sampled, so it is off by the nucleus's mass"
        )
        return Check(name, "warn", detail, "rollout.top_p=1")
    if loss.kind not in ("sampled", "student_topk"):
        detail = f"{how}: this changes which prefixes are visited, but not the divergence at each of them"
        if config.reward.path is not None:
            detail += f"; the task reward is that of responses at temperature {rollout.temperature:g}"
        return Check(name, "ok", detail)
    detail = (
        f"{how}: loss.kind={loss.kind} treats them as samples of the trained distribution, so it is biased"
    )
    if loss.policy_gradient:
        detail = (
            f"{how}: the importance ratio corrects this only within the PPO clip range, "
            f"loss.clip_ratio={loss.clip_ratio:g}"
        )
    return Check(name, "warn", detail, f"rollout.temperature={loss.temperature:g} rollout.top_p=1")


def _staleness_checks(config: Config) -> list[Check]:
    """Say how one-step-off rollouts affect the objective (AsyncOPD, arXiv 2606.24143)."""
    if not config.train.async_depth:
        return []
    loss = config.loss
    name = "staleness"
    divergence = loss.topk_divergence if loss.kind == "topk" else loss.kind or loss.label
    if divergence == "forward_kl":
        return [Check(name, "ok", "rollouts are one step old, which the forward KL tolerates")]
    detail = (
        f"train.async_depth=1 trains {divergence} on rollouts that are one step old: they are not samples of "
        "the current student, over which this loss averages"
    )
    hint = "loss.kind=forward_kl; or a small optim.lr, and watch rollout/mismatch_kl"
    return [Check(name, "warn", detail, hint)]


def schedule_checks(config: Config, num_prompts: int) -> list[Check]:
    """Warn about a warm-up that is as long as the run or longer.

    `num_prompts` training prompts give the number of steps when `train.epochs` is set.
    """
    steps = config.num_steps(num_prompts)
    warmup = config.optim.warmup_steps
    if not warmup or warmup < steps:
        return []
    reached = "reaches its peak only in the last step" if warmup == steps else "never reaches its peak"
    told = f"train.steps={steps}" if config.train.steps else f"the {steps} steps of {num_prompts} prompts"
    detail = f"optim.warmup_steps={warmup} of {told}: the learning rate {reached}"
    return [Check("schedule", "warn", detail, f"optim.warmup_steps below {steps}")]
