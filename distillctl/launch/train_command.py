"""`distillctl train` behind the command line: check, open the run directory, start the run, show it."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from distillctl.config.schema import Config
from distillctl.files import atomic
from distillctl.launch import supervisor
from distillctl.launch.preflight import prepare
from distillctl.launch.provenance import write_provenance
from distillctl.launch.resume import choose_checkpoint, open_run, require_resumable, write_config
from distillctl.monitor.follow import Display, Follower
from distillctl.monitor.plain import PlainDisplay
from distillctl.monitor.trackers import trackers
from distillctl.monitor.tui import TuiDisplay
from distillctl.run import checkpoints, status
from distillctl.run.directory import RunDir, read_status
from distillctl.run.events import EventLog
from distillctl.terminal.stream import is_screen


def train(
    config: Config, name: str, path: Path | None, resume: str, display: str, *, elastic: bool = False
) -> tuple[dict[str, Any], str]:
    """Run to the end; returns the run directory.

    `resume` and `elastic` mean the same as on the command line. A run that cannot work raises ConfigError or
    EnvironmentUnfit before anything is started or written.
    """
    if path is not None:  # early, before models are looked for
        require_resumable(RunDir(path), config, resume, elastic=elastic)
    plan, checks = prepare(config, path or Path("runs") / name)
    run_dir = open_run(config, name, path, resume, elastic=elastic)
    with run_dir.lock():
        require_resumable(run_dir, config, resume, elastic=elastic)  # under the lock nobody changes it
        if read_status(run_dir.status_path).get("state") == "done":
            print(f"{run_dir.path} is done already", file=sys.stderr)
            return {"run_dir": str(run_dir.path)}, str(run_dir.path)
        for folder in (run_dir.path, run_dir.samples_dir, run_dir.eval_dir):
            atomic.sweep(folder)
        checkpoints.sweep(run_dir.checkpoints)
        checkpoint, problems = choose_checkpoint(run_dir, resume, plan.world_size, elastic=elastic)
        attempt = _begin(run_dir, config)
        live = trackers(config.train.logger, run_dir, config.model_dump(mode="json"))
        follower = Follower(run_dir.events_path, [*_displays(display), *live])
        events = EventLog(run_dir.events_path, attempt)
        for check in checks:
            events.emit("check", 0, **asdict(check))
        for problem in problems:
            events.emit("warn", 0, message=f"damaged checkpoint, going on from an older one: {problem}")
        with follower:
            supervisor.run(plan, run_dir, checkpoint)
    return {"run_dir": str(run_dir.path)}, str(run_dir.path)


def _begin(run_dir: RunDir, config: Config) -> int:
    """Write the first files of an attempt; returns its number.

    config.yaml comes after `.lock`, then status.json, then the rest. If the process is killed at any point,
    `ownership` recognises the files that are left as a start or a run.
    """
    write_config(run_dir, config)
    attempt = run_dir.attempt + 1
    status.begin(run_dir, attempt)
    run_dir.begin_attempt()
    write_provenance(run_dir, config)
    return attempt


def _displays(display: str) -> list[Display]:
    """The displays that `--display` asks for."""
    if display == "quiet":
        return []
    if display == "tui" and not sys.stderr.isatty():
        print("stderr is not a terminal: plain lines instead of the screen", file=sys.stderr)
    elif display == "tui" or (display == "auto" and is_screen(sys.stderr)):
        return [TuiDisplay(sys.stderr)]
    return [PlainDisplay(sys.stderr)]
