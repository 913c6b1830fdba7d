"""Fetches a public model from the Hugging Face hub: only when somebody asks for it, with progress, and going on where it broke off.

Nothing else in this library tries the network.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..errors import InputError, OutputError, ResourceError
from .folders import user_folder
from .manifest import ALLOWED_SUFFIXES
from .store import ModelFolder, add, check_name

# Weights, configuration, tokenizer and card: what can run code is never fetched.
_WANTED = [f"*{suffix}" for suffix in sorted(ALLOWED_SUFFIXES)]
# Public models that the recipe is meant for; others of the same kinds can be fetched too.
SUGGESTED = {
    "Qwen/Qwen2.5-VL-3B-Instruct": "Qwen Research License (non-commercial)",
    "Qwen/Qwen2.5-VL-7B-Instruct": "Apache-2.0",
    "Qwen/Qwen3-VL-2B-Instruct": "Apache-2.0",
    "Qwen/Qwen3-VL-4B-Instruct": "Apache-2.0",
    "Qwen/Qwen3-VL-8B-Instruct": "Apache-2.0",
    "facebook/sam2.1-hiera-tiny": "Apache-2.0",
    "facebook/sam2.1-hiera-small": "Apache-2.0",
    "facebook/sam2.1-hiera-base-plus": "Apache-2.0",
    "facebook/sam2.1-hiera-large": "Apache-2.0",
}
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
OFFLINE_VARIABLES = ("RAUSLICER_OFFLINE", "HF_HUB_OFFLINE")

# Done and all bytes.
Report = Callable[[int, int], None]


def download(repository: str, name: str | None = None, revision: str = "main", report: Report | None = None) -> ModelFolder:
    """Fetch a model and add it. What was fetched before a break is kept and used by the next try.

    Args:
        repository: On the hub, ``owner/name``.
        name: What it is called here; without, the repository's name.
        revision: A branch, tag or commit.
        report: Told how far it is.

    Raises:
        InputError: the repository is no ``owner/name``.
        ModelError: what was fetched is no model that can be used, or the name is taken.
        OutputError: there is too little space, or the folder can't be written.
        ResourceError: it is set to offline, or the hub can't be reached or refuses.
    """
    if not _REPOSITORY.fullmatch(repository):
        raise InputError(
            f"{repository!r} is no repository.", "The hub's are named owner/name.", f"For example {', '.join(list(SUGGESTED)[:2])}."
        )
    name = check_name(name or repository.split("/")[1].lower())
    offline = next((variable for variable in OFFLINE_VARIABLES if os.environ.get(variable, "0").lower() not in ("", "0", "false")), None)
    if offline:
        raise ResourceError(
            "Nothing is downloaded offline.",
            f"The environment variable {offline} is set.",
            "Unset it, or copy the model's folder here and add it with `rauslicer models add`.",
        )
    staging = user_folder() / f".downloading-{repository.replace('/', '--')}"
    try:
        files, commit = _files(repository, revision)
        staging.mkdir(parents=True, exist_ok=True)
        there = sum(path.stat().st_size for path in staging.rglob("*") if path.is_file())
        total, free = sum(files.values()), shutil.disk_usage(staging).free
        if total - there > free:
            raise OutputError(
                f"There is too little space in {str(staging.parent)!r}.",
                f"The model takes {total / 1e9:.1f} GB, of which {there / 1e9:.1f} GB are here; {free / 1e9:.1f} GB are free.",
                "Free space, or name another folder with the environment variable RAUSLICER_MODELS.",
            )
        _fetch(repository, commit, staging, files, report)
    except OSError as error:
        # huggingface_hub's own errors and those of its connections are OSErrors as well.
        raise ResourceError(
            f"{repository!r} can't be downloaded.",
            f"The hub can't be reached, does not know it, or refuses ({_first(error)}).",
            "Check the name, the network and, for models with a licence to accept, that you are logged in; then try again: it goes on"
            " where it stopped.",
        ) from error
    model = add(staging, name)
    shutil.rmtree(staging)
    return model


def _files(repository: str, revision: str) -> tuple[dict[str, int], str]:
    """Wanted files with their sizes, and the commit that the revision is now."""
    from fnmatch import fnmatch

    from huggingface_hub import HfApi

    info: Any = HfApi().model_info(repository, revision=revision, files_metadata=True)
    files = {
        entry.rfilename: int(entry.size or 0)
        for entry in info.siblings
        if "/" not in entry.rfilename and any(fnmatch(entry.rfilename, pattern) for pattern in _WANTED)
    }
    return files, str(info.sha)


def _fetch(repository: str, commit: str, staging: Path, files: dict[str, int], report: Report | None) -> None:
    from huggingface_hub import hf_hub_download

    total, done = sum(files.values()), 0
    # The large files one by one, so that a break costs one at most; that one goes on where it stopped, too.
    for file, size in sorted(files.items(), key=lambda entry: entry[1]):
        hf_hub_download(repository, file, revision=commit, local_dir=staging)
        done += size
        if report is not None:
            report(done, total)


def _first(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
