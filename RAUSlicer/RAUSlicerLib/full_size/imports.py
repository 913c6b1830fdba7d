"""Brings models that others published into the form this library keeps: a Hugging Face backbone, a SAM2.1 checkpoint."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import shutil
from enum import Enum
from pathlib import Path

from ..errors import ModelError
from ..models.manifest import ALLOWED_SUFFIXES, CARD, CONFIG, LARGE, is_checkpoint, read_json, write_manifest

BACKBONE, SAM2_BASE = "backbone", "sam2_base"
_LICENCE = re.compile(r"^license:\s*['\"]?([^\s'\"]+)", re.MULTILINE)
_LICENCE_NAME = re.compile(r"^license_name:\s*['\"]?([^\s'\"]+)", re.MULTILINE)
_SAM2_CARD = """# {size}

SAM 2.1, weights by Meta, under the Apache License 2.0. Segment Anything in Images and Videos, arXiv:2408.00714. Brought in from
`{file}` (SHA-256 `{checksum}`); the tensors are the same, in safetensors form. It is made for photographs and knows no anatomy.
"""
_PLAIN_CARD = "# {name}\n\nBrought in from a folder without a card; its licence and makers are not known here.\n"


class WhatItIs(Enum):
    """What a folder or file that somebody wants to add is."""

    MODEL = "model"
    BACKBONE = BACKBONE
    SAM2 = SAM2_BASE


def what_is(source: Path) -> WhatItIs:
    """Told by what it holds.

    Raises:
        ModelError: it is a file of weights alone that can't be a SAM2; or it is, or holds, a device or a pipe, which may have no end.
    """
    for path in (source, *(source.rglob("*") if source.is_dir() else ())):
        if path.exists() and not (path.is_file() or path.is_dir()):
            raise ModelError(
                f"{str(path)!r} is no part of a model.",
                "It is a device or a pipe, neither file nor folder.",
                "Give the path of a model's folder, as its makers publish it.",
            )
    if source.is_file():
        if source.suffix in (".pt", ".safetensors"):
            return WhatItIs.SAM2
        raise ModelError(
            f"The file {str(source)!r} is no model.",
            "Models are folders; the only single file that is read is a SAM2.1 checkpoint (.pt or .safetensors).",
            "Give the path of the model's folder.",
        )
    if any(folder.is_dir() and is_checkpoint(folder) for folder in source.iterdir()):
        return WhatItIs.MODEL
    if (source / CONFIG).is_file():
        kind = str(read_json(source / CONFIG).get("model_type", ""))
        return WhatItIs.SAM2 if kind.startswith("sam2") else WhatItIs.BACKBONE
    return WhatItIs.SAM2 if any(source.glob("*.pt")) else WhatItIs.MODEL


def bring_in(source: Path, made: Path, kind: WhatItIs) -> None:
    """Write the model folder ``made`` of a public checkpoint.

    Raises:
        ModelError: it is damaged, incomplete, or can't see images.
    """
    if kind is WhatItIs.SAM2:
        _bring_sam2(source, made / SAM2_BASE)
    else:
        _bring_backbone(source, made / BACKBONE)


def space_needed(source: Path, home: Path) -> int:
    """Bytes that adding it takes; next to none for large files of the same file system, which are linked and not copied."""
    files = [source] if source.is_file() else [path for path in source.rglob("*") if path.is_file()]
    linked = source.is_dir() and source.stat().st_dev == home.stat().st_dev
    sizes = [path.stat().st_size for path in files]
    return sum(size for size in sizes if not (linked and size >= LARGE))


def _bring_backbone(source: Path, folder: Path) -> None:
    # transformers takes seconds to import.
    from .backbones import describe

    found = describe(source)
    folder.mkdir(parents=True)
    for path in sorted(source.iterdir()):
        # A hub's cache is made of links to files elsewhere.
        real = path.resolve()
        if path.suffix.lower() in ALLOWED_SUFFIXES and real.is_file():
            _link_or_copy(real, folder / path.name)
    if not (folder / CARD).is_file():
        (folder / CARD).write_text(_PLAIN_CARD.format(name=source.resolve().name), encoding="utf-8")
    write_manifest(folder, name=source.resolve().name, kind=found.model_type, licence=licence_of(folder))


def _link_or_copy(source: Path, destination: Path) -> None:
    if source.stat().st_size >= LARGE:
        # Two names of one file: 16 GB need not lie there twice, and either may be deleted. Not every file system can.
        with contextlib.suppress(OSError):
            os.link(source, destination)
            return
    shutil.copyfile(source, destination)
    if destination.stat().st_size != source.stat().st_size:
        raise OSError(errno.EIO, "not all of it has arrived; the disk may be full")


def licence_of(folder: Path) -> str:
    """The licence that a card's head names, or ``unknown``."""
    try:
        text = (folder / CARD).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return "unknown"
    head = text.split("---")[1] if text.startswith("---") and text.count("---") >= 2 else ""
    named, short = _LICENCE_NAME.search(head), _LICENCE.search(head)
    return named[1] if named else short[1] if short else "unknown"


def _bring_sam2(source: Path, folder: Path) -> None:
    # Meta's package takes seconds to import, and torch too.
    import torch

    from ..models.checkpoint import save_checkpoint
    from .sam2_checkpoints import SIZES, fitting, read_checkpoint, size_of, weights_file

    path = weights_file(source)
    tensors = read_checkpoint(path)
    size = size_of(tensors)
    with path.open("rb") as file:
        checksum = hashlib.file_digest(file, "sha256").hexdigest()
    config = {"model_type": SAM2_BASE, "size": size, "source": path.name, "source_sha256": checksum}
    save_checkpoint(
        folder,
        config,
        fitting(tensors, SIZES[size]),
        _SAM2_CARD.format(size=size, file=path.name, checksum=checksum),
        name=size,
        kind=SAM2_BASE,
        licence="Apache-2.0",
        dtype=torch.float32,
    )
