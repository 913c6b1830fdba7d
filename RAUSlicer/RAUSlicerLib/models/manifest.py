"""The record of a checkpoint folder: which files belong to it and their checksums."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ModelError
from ..support import strict_json
from ..support.outputs import put
from ..support.scratch import BEFORE
from .folders import known_checksum, remember_checksum

CONFIG = "config.json"
CARD = "README.md"
CHECKSUMS = "checksums.json"
FORMAT = 1

# Pickles run code when they are opened; none of these formats does.
ALLOWED_SUFFIXES = frozenset({".safetensors", ".json", ".md", ".txt", ".jinja"})
# Smaller files are hashed each time they are opened; larger ones only if they were touched since they last were.
LARGE = 64 * 2**20
_REINSTALL = "Install the model again: `rauslicer models remove` and `rauslicer models add`, or reinstall RAUSlicer for the embedded one."


@dataclass(frozen=True)
class Manifest:
    """What ``checksums.json`` says of a checkpoint folder. ``files`` maps a file's name to its SHA-256 in hexadecimal."""

    name: str
    kind: str
    licence: str
    files: Mapping[str, str]


def is_checkpoint(folder: Path) -> bool:
    """Whether the folder claims to be a checkpoint; ``verify_checkpoint`` says whether it is a sound one."""
    return (folder / CHECKSUMS).is_file() or (folder / CONFIG).is_file()


def read_manifest(folder: Path) -> Manifest:
    """The folder's ``checksums.json``.

    Raises:
        ModelError: the file is missing, unreadable, of another format version, or names files outside the folder.
    """
    document = read_json(folder / CHECKSUMS)
    if document.get("format") != FORMAT:
        raise ModelError(
            f"The checkpoint {str(folder)!r} has the format version {document.get('format')!r}.",
            f"This RAUSlicer reads version {FORMAT}.",
            "Update RAUSlicer, or get the model in the version it reads.",
        )
    files = document.get("files")
    texts = [document.get(key) for key in ("name", "kind", "licence")]
    if not isinstance(files, dict) or not all(isinstance(text, str) for text in (*texts, *files, *files.values())):
        raise damaged(folder / CHECKSUMS, "It lacks the name, kind, licence or files of the checkpoint.")
    outside = [name for name in files if Path(name).name != name]
    if outside:
        raise damaged(folder / CHECKSUMS, f"It names {outside[0]!r}, which is not a file of the folder.")
    return Manifest(str(texts[0]), str(texts[1]), str(texts[2]), files)


def verify_checkpoint(folder: Path) -> Manifest:
    """Compare every file of a checkpoint folder with its recorded SHA-256, and return the record.

    Raises:
        ModelError: a file is missing, changed, not recorded, or of a kind that could run code when opened.
    """
    if not folder.is_dir():
        raise ModelError(f"The checkpoint folder {str(folder)!r} does not exist.", "Nothing can be loaded from it.", _REINSTALL)
    manifest = read_manifest(folder)
    present = {path.name for path in folder.iterdir()} - {CHECKSUMS}
    for name in sorted(present):
        if Path(name).suffix.lower() not in ALLOWED_SUFFIXES or not (folder / name).is_file():
            raise ModelError(
                f"The checkpoint {str(folder)!r} holds {name!r}.",
                "Only safetensors, JSON, Markdown and text are allowed; pickled weights (.pt, .bin, .pkl) can run code when opened.",
                "Convert the weights to safetensors, or get the model from its makers again.",
            )
    unknown = present - set(manifest.files)
    if unknown:
        raise ModelError(
            f"The checkpoint {str(folder)!r} holds {sorted(unknown)[0]!r}, which {CHECKSUMS} does not list.",
            "The folder was changed after the model was made.",
            _REINSTALL,
        )
    for name in (CONFIG, CARD):
        if name not in manifest.files:
            raise damaged(folder / CHECKSUMS, f"It does not list {name}.")
    for name in manifest.files:
        verify_file(folder, manifest, name, afresh=True)
    return manifest


def state(folder: Path) -> str:
    """``sound``, ``damaged``, or ``not checked`` where that would take reading large files; for a list that must appear at once."""
    try:
        manifest = read_manifest(folder)
        unread = False
        for name in manifest.files:
            path = folder / name
            if path.is_file() and path.stat().st_size >= LARGE and known_checksum(path) is None:
                unread = True
            else:
                verify_file(folder, manifest, name)
    except (ModelError, OSError):
        return "damaged"
    return "not checked" if unread else "sound"


def write_manifest(folder: Path, *, name: str, kind: str, licence: str) -> None:
    """Record the SHA-256 of every file that lies in the folder, for example after a checkpoint made elsewhere was copied there."""
    files = {path.name: _sha256(path) for path in sorted(folder.iterdir()) if path.name != CHECKSUMS}
    document = {"format": FORMAT, "name": name, "kind": kind, "licence": licence, "files": files}
    put(folder / CHECKSUMS, (json.dumps(document, indent=2) + "\n").encode())


def replace_folder(made: Path, folder: Path) -> None:
    """Put ``made``, in a scratch folder beside it, in the place of ``folder``; an older one goes only once the new one is there.

    If this is broken off in between, whoever removes the scratch folder puts the older one back.
    """
    if folder.exists():
        os.rename(folder, made.with_name(f"{folder.name}{BEFORE}"))
    os.rename(made, folder)


def verify_file(folder: Path, manifest: Manifest, name: str, *, afresh: bool = False) -> None:
    """Compare one file with its recorded SHA-256; a large one is read again only if it was touched since, or ``afresh``.

    Raises:
        ModelError: it is missing, changed or not recorded.
    """
    path = folder / name
    if name not in manifest.files:
        raise damaged(folder / CHECKSUMS, f"It does not list {name}.")
    if not path.is_file():
        raise ModelError(f"The model file {str(path)!r} is missing.", "The checkpoint is incomplete.", _REINSTALL)
    if _sha256(path, afresh=afresh) != manifest.files[name]:
        raise ModelError(
            f"The model file {str(path)!r} has the wrong checksum.",
            "It was truncated or changed after the model was made, so its results can't be trusted.",
            _REINSTALL,
        )


def _sha256(path: Path, *, afresh: bool = True) -> str:
    large = path.stat().st_size >= LARGE
    known = known_checksum(path) if large and not afresh else None
    if known is not None:
        return known
    with path.open("rb") as file:
        checksum = hashlib.file_digest(file, "sha256").hexdigest()
    if large:
        remember_checksum(path, checksum)
    return checksum


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file. Raises ModelError: the file is missing or holds something else."""
    if not path.is_file():
        raise ModelError(f"The model file {str(path)!r} is missing.", "The checkpoint is incomplete.", _REINSTALL)
    try:
        document = strict_json.load(path, any_number=True)
    except ValueError as error:
        raise damaged(path, f"It is not valid JSON ({error}).") from error
    if not isinstance(document, dict):
        raise damaged(path, "It is not a JSON object.")
    return document


def damaged(path: Path, why: str) -> ModelError:
    """The error for a model file that can't be used."""
    return ModelError(f"The model file {str(path)!r} is damaged.", why, _REINSTALL)
