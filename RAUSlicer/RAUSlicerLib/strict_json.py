"""JSON as its standard has it: no NaN, no infinity, no number beyond what a computer counts with, and one kind of error for the rest."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

# Whole numbers beyond this fit into no array and no file format that is written here.
_LARGEST = 1 << 63


def loads(text: str | bytes) -> Any:
    """What a JSON text says.

    Args:
        text: Bytes are UTF-8.

    Raises:
        ValueError: it is no JSON, no UTF-8, nested too deeply, or has a number that is not finite or too large.
    """
    if isinstance(text, bytes):
        text = text.decode("utf-8")
    try:
        return json.loads(text, parse_constant=_refuse, parse_float=_finite, parse_int=_whole)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def load(path: Path) -> Any:
    """What a JSON file says.

    Raises:
        ValueError: as for ``loads``; or it is a device or a pipe, which may have no end.
        OSError: it is missing or can't be read.
    """
    if path.exists() and not path.is_file():
        raise ValueError("it is no file")
    return loads(path.read_bytes())


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is no number")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:40]} is too large a number")
    return value


def _whole(text: str) -> int:
    # The length first: a text of a million digits takes minutes to become a number.
    if len(text) > len(str(_LARGEST)) + 1 or not -_LARGEST <= (value := int(text)) < _LARGEST:
        raise ValueError(f"{text[:40]} is too large a number")
    return value
