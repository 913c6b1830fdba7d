"""What each request has to say: checked once, where it is received."""

from __future__ import annotations

from typing import Any

from .protocol import Message, ProtocolError

_CASE_FILES = ("target", "segmentation", "description")


def require_fields(message: Message) -> None:
    """Refuse a request that lacks a field, or has one of another type.

    Raises:
        ProtocolError: it does.
    """
    wrong = _wrong_in_run(message) if message["type"] in ("transfer", "correct") else _wrong_in_question(message)
    if wrong:
        raise ProtocolError(
            f"The {message['type']} request lacks {', '.join(wrong)}, or they are of the wrong type.",
            "Files are named by their paths; structures are a list of names; slices are pairs of axis and index.",
            "Restart the worker, and install the same version of RAUSlicer on both sides if this happens again.",
        )


def _wrong_in_run(message: Message) -> list[str]:
    correcting = message["type"] == "correct"
    texts = ["id", "output", *(("structure",) if correcting else ())]
    if not correcting or "reference" in message:
        texts += ["reference", "reference_segmentation", "target"]
    wrong = [name for name in texts if not isinstance(message.get(name), str)]
    wrong += [name for name in ("localizer", "model", "device", "case") if not isinstance(message.get(name, ""), str)]
    wrong += [name for name in ("threads", "memory_mb") if not _is_count(message.get(name))]
    names = message.get("structures")
    if names is not None and not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
        wrong.append("structures")
    if correcting:
        wrong += _wrong_in_correction(message)
    return wrong


def _wrong_in_question(message: Message) -> list[str]:
    """Of ask and report requests; where no files of the case are named, it is the one that the worker keeps."""
    texts = ["id", "case", "output", *(("question",) if message["type"] == "ask" else ())]
    if any(name in message for name in _CASE_FILES):
        texts += _CASE_FILES
    wrong = [name for name in texts if not isinstance(message.get(name), str)]
    optional = ("reference", "reference_segmentation", "region", "save", "dicom")
    wrong += [name for name in optional if not isinstance(message.get(name), str | None)]
    point = message.get("point")
    if point is not None and not _is_row(point, 3, int | float):
        wrong.append("point")
    return wrong


def _is_count(value: object) -> bool:
    return value is None or (isinstance(value, int) and not isinstance(value, bool) and value > 0)


def _wrong_in_correction(message: Message) -> list[str]:
    wrong = [] if isinstance(message.get("mask"), str | None) else ["mask"]
    slices, box = message.get("slices"), message.get("box_mm")
    if not (isinstance(slices, list) and all(_is_row(pair, 2, int) for pair in slices)):
        wrong.append("slices")
    if box is not None and not (isinstance(box, list) and len(box) == 2 and all(_is_row(corner, 3, int | float) for corner in box)):
        wrong.append("box_mm")
    return wrong


def _is_row(values: object, count: int, kind: Any) -> bool:
    return isinstance(values, list) and len(values) == count and all(isinstance(v, kind) and not isinstance(v, bool) for v in values)
