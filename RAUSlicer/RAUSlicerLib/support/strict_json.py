"""JSON as its standard has it, read and written: no NaN, no infinity, no endless numbers, and one kind of error for the rest."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

# Whole numbers beyond this fit into no array and no file format that is written here.
_LARGEST = 1 << 63


def loads(text: str | bytes, *, any_number: bool = False) -> Any:
    """What a JSON text, or its bytes in UTF-8, says.

    ``any_number`` takes numbers as they come, as configurations of other libraries hold them: 1e30 for "no limit", Infinity.

    Raises:
        ValueError: it is no JSON, no UTF-8, nested too deeply, or has a number that is not finite or too large.
    """
    if isinstance(text, bytes):
        text = text.decode("utf-8")
    try:
        if any_number:
            return json.loads(text)
        return json.loads(text, parse_constant=_refuse, parse_float=_finite, parse_int=_whole)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def load(path: Path, *, any_number: bool = False) -> Any:
    """What a JSON file says, see ``loads``.

    Raises:
        ValueError: as for ``loads``; or it is a device or a pipe, which may have no end.
        OSError: it is missing or can't be read.
    """
    if path.exists() and not path.is_file():
        raise ValueError("it is no file")
    return loads(path.read_bytes(), any_number=any_number)


def dumps(document: Any, *, indent: int | None = None, ensure_ascii: bool = True) -> str:
    """Plain values as JSON text; a number that is not finite, of which JSON has none, becomes null.

    >>> dumps([1.5, float("nan"), {"volume": float("inf")}])
    '[1.5, null, {"volume": null}]'
    """
    try:
        return json.dumps(document, indent=indent, ensure_ascii=ensure_ascii, allow_nan=False)
    except ValueError:
        return json.dumps(_finite_values(document), indent=indent, ensure_ascii=ensure_ascii, allow_nan=False)


def _finite_values(document: Any) -> Any:
    if isinstance(document, dict):
        return {key: _finite_values(value) for key, value in document.items()}
    if isinstance(document, list | tuple):
        return [_finite_values(value) for value in document]
    return None if isinstance(document, float) and not math.isfinite(document) else document


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
