"""Brings a model into the user's folder: one of this library's, or a public one in the form that others published it in."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from ..errors import ModelError, OutputError
from ..models.folders import FOLDER_VARIABLE, user_folder
from ..models.store import ModelFolder, check_name
from ..support.scratch import ScratchFolder
from .imports import WhatItIs, bring_in, space_needed, what_is


def add(source: Path, name: str | None = None) -> ModelFolder:
    """Bring a model into the user's folder, whole or not at all, verified or with checksums made on the way.

    Args:
        source: A model folder; a Hugging Face folder of an image-text-to-text model; or a SAM2.1 checkpoint, a file or a folder.
        name: What it is called; without, as its folder or file.

    Raises:
        InputError: the name is no plain file name.
        ModelError: the source is damaged, of no known kind, holds pickles that are not SAM2.1, or the name is taken.
        OutputError: the user's folder can't be written or has too little space.
    """
    if not source.exists():
        raise ModelError(
            f"The model folder {str(source)!r} does not exist.", "Nothing can be added from it.", "Give the path of a model folder."
        )
    kind = what_is(source)
    name = check_name(name or (source.resolve().name if source.is_dir() else source.stem))
    if kind is WhatItIs.MODEL:
        ModelFolder(name, source).verify()
    home = user_folder()
    try:
        home.mkdir(parents=True, exist_ok=True)
        require_space(home, space_needed(source, home))
        with ScratchFolder(home, ".adding-") as scratch:
            made = scratch / name
            if kind is WhatItIs.MODEL:
                # Whatever is no checkpoint, and so has no checksums, stays behind.
                for part in ModelFolder(name, source).parts:
                    shutil.copytree(source / part, made / part)
                ModelFolder(name, made).verify()
            else:
                bring_in(source, made, kind)
            # Somebody else may have taken the name in the meantime.
            os.rename(made, home / check_name(name))
    except OSError as error:
        raise OutputError(
            f"The model can't be copied to {str(home / name)!r}.",
            f"The system says: {error.strerror or error}.",
            f"Free space, or name another folder with the environment variable {FOLDER_VARIABLE}.",
        ) from error
    return ModelFolder(name, home / name)


def require_space(home: Path, needed: int, here: int = 0) -> None:
    """Make sure that there is room for a model of ``needed`` bytes, of which ``here`` are in the folder already.

    Raises:
        OutputError: there is too little.
    """
    free = shutil.disk_usage(home).free
    if needed - here > free:
        partly = f", of which {here / 1e9:.1f} GB are here;" if here else ", and"
        raise OutputError(
            f"There is too little space in {str(home)!r}.",
            f"The model takes {needed / 1e9:.1f} GB{partly} {free / 1e9:.1f} GB are free.",
            f"Free space, or name another folder with the environment variable {FOLDER_VARIABLE}.",
        )
