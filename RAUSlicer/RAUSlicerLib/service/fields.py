"""What each request has to say: checked once, where it is received."""

from __future__ import annotations

from typing import Any

from .folder import Exchange, is_path, shortened
from .protocol import Message, ProtocolError

_CASE_FILES = ("target", "segmentation", "description")
# The worker writes to the files that these name.
_WRITTEN = ("output", "save")
# Beyond these a number is a slip: an index, threads or megabytes, and millimetres.
_LARGEST_COUNT = 1 << 31
_LARGEST_MM = 1e6


def require_fields(message: Message, exchange: Exchange | None) -> None:
    """Raise ProtocolError where a field is missing or of another type, or a file outside of the exchange folder is to be written."""
    wrong = _wrong_in_run(message) if message["type"] in ("transfer", "correct") else _wrong_in_question(message)
    if wrong:
        raise ProtocolError(
            f"The {message['type']} request lacks {', '.join(wrong)}, or they are of the wrong type.",
            "Files are named by their paths; structures are a list of names; slices are pairs of axis and index; numbers are finite.",
            "Restart the worker, and install the same version of RAUSlicer on both sides if this happens again.",
        )
    for name in _WRITTEN:
        path = message.get(name)
        if path is not None and not (exchange is not None and exchange.holds(path)):
            raise ProtocolError(
                f"The {message['type']} request wants {shortened(path)} to be written, which is not in the exchange folder.",
                "The worker writes only into the temporary folder that its client has made.",
                "Restart the worker, and install the same version of RAUSlicer on both sides if this happens again.",
            )


def _wrong_in_run(message: Message) -> list[str]:
    correcting = message["type"] == "correct"
    files = ["output"]
    if not correcting or "reference" in message:
        files += ["reference", "reference_segmentation", "target"]
    wrong = [name for name in files if not is_path(message.get(name))]
    if correcting and not isinstance(message.get("structure"), str):
        wrong.append("structure")
    wrong += [name for name in ("localizer", "model", "device", "case") if not _is_name(message.get(name, ""))]
    wrong += [name for name in ("threads", "memory_mb") if not _is_count(message.get(name))]
    names = message.get("structures")
    if names is not None and not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
        wrong.append("structures")
    if correcting:
        wrong += _wrong_in_correction(message)
    return wrong


def _wrong_in_question(message: Message) -> list[str]:
    """Of ask and report requests; where no files of the case are named, it is the one that the worker keeps."""
    asking = message["type"] == "ask"
    files = ["output", *(_CASE_FILES if any(name in message for name in _CASE_FILES) else ())]
    wrong = [name for name in files if not is_path(message.get(name))]
    wrong += [name for name in ("case", *(("question",) if asking else ())) if not isinstance(message.get(name), str)]
    optional = ("reference", "reference_segmentation", "region", "save", "dicom")
    wrong += [name for name in optional if message.get(name) is not None and not is_path(message[name])]
    if (message.get("reference") is None) != (message.get("reference_segmentation") is None):
        wrong.append("reference_segmentation")
    point = message.get("point")
    if point is not None and not _is_place(point):
        wrong.append("point")
    return wrong


def _wrong_in_correction(message: Message) -> list[str]:
    wrong = [] if message.get("mask") is None or is_path(message["mask"]) else ["mask"]
    slices, box = message.get("slices"), message.get("box_mm")
    if not (isinstance(slices, list) and all(_is_row(pair, 2, int, _LARGEST_COUNT) for pair in slices)):
        wrong.append("slices")
    if box is not None and not (isinstance(box, list) and len(box) == 2 and all(_is_place(corner) for corner in box)):
        wrong.append("box_mm")
    return wrong


def _is_name(value: object) -> bool:
    """Of a model too, which may be a folder's path."""
    return value == "" or is_path(value)


def _is_count(value: object) -> bool:
    return value is None or (isinstance(value, int) and not isinstance(value, bool) and 0 < value <= _LARGEST_COUNT)


def _is_place(value: object) -> bool:
    return _is_row(value, 3, int | float, _LARGEST_MM)


def _is_row(values: object, count: int, kind: Any, most: float) -> bool:
    return (
        isinstance(values, list)
        and len(values) == count
        and all(isinstance(one, kind) and not isinstance(one, bool) and -most <= one <= most for one in values)
    )
