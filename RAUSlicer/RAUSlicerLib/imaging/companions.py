"""Which files are read together with one that a user names: the data of a detached header, the other half of a pair."""

from __future__ import annotations

from pathlib import Path

from .header_fields import METAIMAGE_SUFFIXES, NRRD_SUFFIXES, Unsound, metaimage_header, nrrd_header

_PAIRS = (".hdr", ".hdr.gz", ".img", ".img.gz")


def companions(path: Path) -> list[Path]:
    """The files beside ``path`` that are read with it, whether or not they are there. Of a folder none: all in it belongs to it.

    A header that can't be understood is not read, and nothing with it.
    """
    name = path.name.lower()
    pair = next((ending for ending in reversed(_PAIRS) if name.endswith(ending)), None)
    if pair is not None:
        stem = path.name[: -len(pair)]
        return [path.with_name(stem + ending) for ending in _PAIRS if ending != pair]
    read = next((read for suffixes, read in ((METAIMAGE_SUFFIXES, metaimage_header), (NRRD_SUFFIXES, nrrd_header)) if name.endswith(suffixes)), None)
    try:
        files = read(path).files if read is not None and path.is_file() else None
    except (OSError, Unsound):
        return []
    return [path.parent / file for file in files or []]
