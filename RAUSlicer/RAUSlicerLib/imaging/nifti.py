"""Looks at a NIfTI file before ITK does, which repairs missing voxels and voxel sizes in silence."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

_HEADER_1, _HEADER_2 = 348, 540


@dataclass(frozen=True)
class _Header:
    """``sizes`` and ``spacing`` (mm) are those of the used axes; ``length`` is of the whole uncompressed file, in bytes."""

    sizes: tuple[int, ...]
    spacing: tuple[float, ...]
    length: int


def nifti_fault(path: Path) -> str | None:
    """What is wrong with a single-file NIfTI, in one sentence: truncated, corrupted, or voxels without a size. None for a sound file.

    ITK fills voxels that a truncated file lacks with zeros, and takes zero, negative or undefined voxel sizes for something else.

    Raises:
        OSError: the file can't be opened.
    """
    opener = gzip.open if path.name.lower().endswith(".gz") else open
    try:
        with opener(path, "rb") as file:
            start = file.read(_HEADER_2)
            header = _parse(start)
            length = len(start)
            while chunk := file.read(1 << 22):
                length += len(chunk)
    except (EOFError, zlib.error, gzip.BadGzipFile, struct.error):
        return "It is damaged, or ends before all of its voxels are there."
    if header is None:
        return None
    if length < header.length:
        return f"It ends after {length} of the {header.length} bytes that its header announces."
    if not all(math.isfinite(mm) and mm > 0 for n, mm in zip(header.sizes, header.spacing, strict=True) if n > 1):
        return f"Its header says that voxels are {' x '.join(f'{mm:g}' for mm in header.spacing)} mm large."
    return None


def _parse(start: bytes) -> _Header | None:
    """The header in a file's first bytes, in either byte order; None if it is not NIfTI, which ITK will say better."""
    for order in "<>":
        kind = struct.unpack_from(order + "i", start, 0)[0]
        if kind == _HEADER_1:
            rank, *dims = struct.unpack_from(order + "8h", start, 40)
            (bits,) = struct.unpack_from(order + "h", start, 72)
            _, *spacing = struct.unpack_from(order + "8f", start, 76)
            (offset,) = struct.unpack_from(order + "f", start, 108)
        elif kind == _HEADER_2:
            rank, *dims = struct.unpack_from(order + "8q", start, 16)
            (bits,) = struct.unpack_from(order + "h", start, 12 + 2)
            _, *spacing = struct.unpack_from(order + "8d", start, 104)
            (offset,) = struct.unpack_from(order + "q", start, 168)
        else:
            continue
        sizes = tuple(max(n, 1) for n in dims[: max(rank, 0)])
        return _Header(sizes[:3], tuple(spacing[: len(sizes[:3])]), int(offset) + math.prod(sizes) * bits // 8)
    return None
