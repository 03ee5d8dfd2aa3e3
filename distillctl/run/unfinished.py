"""Temporary folders beside the checkpoints: their names, and the names of the files in them. No torch.

A checkpoint is written, tested or converted in such a folder. Somebody else may keep files there too. We
remove only files with the names that we write, and move a folder aside if anything else is left in it.
"""

from __future__ import annotations

import os
import re
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from distillctl.files import atomic
from distillctl.files.reading import is_regular
from distillctl.terminal.progress import note

TMP = ".tmp-"
_RANDOM = "[a-z0-9_]{8}"
"""The random end of a name that `tempfile.mkdtemp` makes."""
_MODEL = (
    r"(?:(?:generation_)?config\.json|model(?:-[0-9]{5}-of-[0-9]{5})?\.safetensors"
    r"|model\.safetensors\.index\.json|tokenizer(?:_config)?\.json|special_tokens_map\.json"
    r"|added_tokens\.json|chat_template\.jinja|additional_chat_templates/[^/]+\.jinja"
    r"|vocab\.(?:json|txt)|merges\.txt|(?:tokenizer|spiece|sentencepiece\.bpe)\.model)"
)
"""Files that transformers saves for a model and its tokenizer."""
_STATE = (
    r"(?:(?:bf16_)?zero_pp_rank_[0-9]+_mp_rank_[0-9]{2}_optim_states\.pt"
    r"|(?:zero_pp_rank_[0-9]+_)?mp_rank_[0-9]{2}_model_states\.pt)"
)
"""Files that DeepSpeed saves (`DeepSpeedEngine._get_ckpt_name`, `_get_zero_ckpt_prefix`)."""
_MOMENT = "(?:fp32|exp_avg|exp_avg_sq|step)"


@dataclass(frozen=True, slots=True)
class _Form:
    """Name of a temporary folder (without `TMP`), and the relative paths of the files and folders in it."""

    name: str
    files: re.Pattern[str]
    folders: re.Pattern[str]


_FORMS = (
    _Form(
        "step_[0-9]{6,18}",
        re.compile(
            rf"hf/{_MODEL}|state/{_STATE}|zero_to_(?:fp32|torch)\.py|manifest\.json|{atomic.PARTIAL.pattern}"
        ),
        re.compile(r"hf(?:/additional_chat_templates)?|state"),
    ),
    _Form(
        "rehearsal",
        re.compile(rf"hf-{_RANDOM}/{_MODEL}"),
        re.compile(rf"hf-{_RANDOM}(?:/additional_chat_templates)?"),
    ),
    _Form(  # deepspeed.checkpoint.ds_to_universal
        "universal",
        re.compile(
            rf"latest_universal|universal/(?:{_STATE}|zero/optimizer_state\.pt|zero/[^/]+/{_MOMENT}\.pt"
            rf"|tmp/[^/]+/[0-9]+/{_MOMENT}\.[0-9]{{2,}})"
        ),
        re.compile(r"universal(?:/zero(?:/[^/]+)?|/tmp(?:/[^/]+(?:/[0-9]+)?)?)?"),
    ),
)
NAME = re.compile(re.escape(TMP) + "(?:" + "|".join(form.name for form in _FORMS) + ")")
"""Name of a temporary folder."""


def clear(folder: Path) -> None:
    """Remove our files from a folder whose name matches `NAME`, and the folder itself if nothing is left."""
    if folder.is_symlink() or not folder.is_dir():
        return
    form = next(form for form in _FORMS if re.fullmatch(form.name, folder.name.removeprefix(TMP)))
    for inside, _, names in os.walk(folder, topdown=False):
        place = os.path.relpath(inside, folder)
        for name in names:
            path = Path(inside, name)
            if form.files.fullmatch(os.path.normpath(f"{place}/{name}")) and is_regular(path):
                path.unlink()
        if place == "." or form.folders.fullmatch(place):
            with suppress(OSError):  # it is not empty
                os.rmdir(inside)


def make_way(folder: Path) -> None:
    """Free the name `folder`. If somebody else keeps files in it, move it aside and say so on stderr."""
    clear(folder)
    if os.path.lexists(folder):
        kept = free_beside(folder)
        folder.rename(kept)
        note(f"{folder} holds files that are not distillctl's, so it was renamed to {kept.name}")


def free_beside(path: Path) -> Path:
    """The first of `PATH.kept_1`, `PATH.kept_2`, … that is free."""
    taken = (path.with_name(f"{path.name}.kept_{number}") for number in count(1))
    return next(path for path in taken if not os.path.lexists(path))
