"""Which files are read together with one that a user names: the data of a detached header, the other half of a pair."""

from __future__ import annotations

import os
import re
from pathlib import Path

# Suffix of a header -> the key that says where its voxels are.
_DETACHED = {".nhdr": rb"data ?file:", ".nrrd": rb"data ?file:", ".mhd": rb"elementdatafile\s*=", ".mha": rb"elementdatafile\s*="}
_PAIRS = (".hdr", ".hdr.gz", ".img", ".img.gz")
_HEADER_BYTES = 1 << 20
_MOST_FILES = 10_000
_PATTERN = re.compile(r"%0?(\d*)[diu]")


def companions(path: Path) -> list[Path]:
    """The files beside ``path`` that are read with it, whether or not they are there. Of a folder none: all in it belongs to it."""
    name = path.name.lower()
    pair = next((ending for ending in reversed(_PAIRS) if name.endswith(ending)), None)
    if pair is not None:
        stem = path.name[: -len(pair)]
        return [path.with_name(stem + ending) for ending in _PAIRS if ending != pair]
    key = next((key for suffix, key in _DETACHED.items() if name.endswith(suffix)), None)
    return [] if key is None else [path.parent / entry for entry in _data_files(path, key)]


def _data_files(header: Path, key: bytes) -> list[str]:
    """The names of the data files that a header gives: one, a list of lines, or a pattern with numbers. None if they follow in it."""
    try:
        if not header.is_file():
            return []
        with header.open("rb") as file:
            start = file.read(_HEADER_BYTES)
    except OSError:
        return []
    found = re.search(rb"^" + key + rb"[ \t]*([^\r\n]*)[\r\n]+", start + b"\n", re.IGNORECASE | re.MULTILINE)
    if found is None:
        return []
    value = os.fsdecode(found[1].strip())
    if value.upper() == "LOCAL" or not value:
        return []
    if value.upper().split()[0] == "LIST":
        lines = (os.fsdecode(line.strip()) for line in start[found.end() :].splitlines())
        return [line for line in lines if line and "\0" not in line][:_MOST_FILES]
    return [name for name in (value, *_numbered(value)) if "\0" not in name]


def _numbered(value: str) -> list[str]:
    """The files of a pattern: ``slice_%03d.raw 1 20 1``."""
    *words, first, last, step = value.split() if len(value.split()) > 3 else ["", "", "", ""]
    pattern = _PATTERN.search(" ".join(words))
    try:
        numbers = range(int(first), int(last) + 1, int(step))
    except ValueError:
        return []
    if pattern is None:
        return []
    text, width = " ".join(words), min(int(pattern[1] or 0), 20)
    return [f"{text[: pattern.start()]}{number:0{width}d}{text[pattern.end() :]}" for number in numbers[:_MOST_FILES]]
