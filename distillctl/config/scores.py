"""Whether every teacher gives what the loss needs: `LossConfig.needs` against `TeacherConfig.gives`."""

from __future__ import annotations

from distillctl.config.models import teacher_section
from distillctl.config.schema import Config
from distillctl.errors import ConfigError


def require_scores(config: Config, *, on_gpu: bool) -> None:
    """Raise ConfigError when a teacher cannot give the scores that the loss needs."""
    loss = config.loss
    for name, teacher in config.all_teachers.items():
        if teacher.is_served and loss.temperature != 1.0:
            raise ConfigError(
                f"{teacher_section(name)}: a served teacher gives probabilities at temperature 1, not at "
                f"loss.temperature={loss.temperature:g}",
                "set loss.temperature=1",
            )
        if loss.needs in teacher.gives(on_gpu=on_gpu):
            continue
        if loss.needs == "chosen tokens":
            raise ConfigError(
                f"{teacher_section(name)}.serve with {loss.label} needs a GPU: on a CPU vLLM's server does "
                "not score chosen tokens",
                "use loss.kind=topk or sampled, or a teacher in the ranks (no serve)",
            )
        raise ConfigError(
            f"{loss.label} needs the teacher's {loss.needs}, which the server of {teacher_section(name)} "
            "does not give",
            "use loss.kind=topk or sampled, or a teacher in the ranks (no url, no serve)",
        )
