"""The options of `train`, `eval` and `inspect samples`: their types, bounds and help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from typer import Argument, Option

Display = Annotated[
    Literal["auto", "tui", "plain", "quiet"],
    Option(help="How to show progress on stderr; auto is tui on a terminal and plain in a pipe."),
]

# train

Overrides = Annotated[
    list[str] | None,
    Argument(
        metavar="KEY=VALUE",
        help="Configuration keys to set, such as optim.lr=5e-4 data.train_files=my.parquet; "
        "docs/config.md lists them all.",
    ),
]
Preset = Annotated[str | None, Option(help="Name of a preset; see: distillctl inspect presets.")]
ConfigFile = Annotated[Path | None, Option("--config", help="Your own YAML file instead of a preset.")]
RunDir = Annotated[Path | None, Option(help="The run directory; by default runs/<preset>/<next number>.")]
Resume = Annotated[
    Literal["never", "auto", "must"], Option(help="Whether to continue from the run's last checkpoint.")
]
Elastic = Annotated[
    bool, Option("--elastic", help="Allow a different number of ranks (train.world_size) on resume.")
]
DryRun = Annotated[
    bool,
    Option(
        "--dry-run",
        help="Print what would happen. Starts the engines to measure, but takes no step and makes no run.",
    ),
]

# eval

Checkpoint = Annotated[
    str, Option(help="What to evaluate: a run, RUN@STEP, a checkpoint, a model directory, or a hub id.")
]
Data = Annotated[
    list[str] | None,
    Option(help="A prepared file, folder or pattern; repeatable. By default the run's validation data."),
]
Baseline = Annotated[
    list[str] | None,
    Option(help="Another model to compare with; repeatable: first the untrained student, then the teacher."),
]
Limit = Annotated[int | None, Option(min=1, help="Use only the first N rows, counted over all files.")]
NumSamples = Annotated[int, Option("--n", min=1, help="Responses to each prompt.")]
Temperature = Annotated[float, Option(min=0.0, help="Sampling temperature; 0 is greedy.")]
MaxTokens = Annotated[
    int | None, Option(min=1, help="Longest response in tokens; by default the run's limit, or 512.")
]
Teacher = Annotated[str | None, Option(help="Also measure the KL between each model and this teacher.")]
Score = Annotated[
    str | None,
    Option(
        help="Grade with your own function (FILE.py[:FUNCTION]) instead of the built-in grader. "
        "The file is executed."
    ),
]
Require = Annotated[
    list[str] | None,
    Option(help="Exit with code 4 unless this holds, such as acc>=0.4 or acc-baseline>=0.05; repeatable."),
]
Junit = Annotated[
    str | None, Option(metavar="PATH", help="Also write the results of --require as JUnit XML.")
]
EvalOut = Annotated[
    Path | None, Option("--out", help="Also write eval.json and answers.parquet to this folder.")
]
CacheDir = Annotated[
    Path | None, Option(help="Where to cache responses; by default ~/.cache/distillctl/eval.")
]
NoCache = Annotated[bool, Option("--no-cache", help="Do not read or write the cache of responses.")]

# inspect samples

SamplesStep = Annotated[
    int | None,
    Option("--step", min=1, help="Show the rollouts of this step instead of the validation responses."),
]
Wrong = Annotated[bool, Option("--wrong", help="Show only wrong responses.")]
Truncated = Annotated[bool, Option("--truncated", help="Show only responses cut at the limit.")]
Worst = Annotated[int | None, Option(min=1, help="Show the N responses with the highest mean KL.")]
PromptId = Annotated[
    str | None, Option(help="Show only this prompt (SPLIT/N, or N), with a table of its tokens.")
]
Token = Annotated[int | None, Option(min=0, help="With --prompt-id: show only this token.")]
SamplesLimit = Annotated[int, Option("--limit", min=1, help="Show at most N responses.")]
