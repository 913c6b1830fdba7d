"""Reads the text answers of a language model strictly: JSON of the form that was asked for, or a reason why it is not.

Boxes are given as left, top, right, bottom in thousandths of the image's sides, whichever resolution the model saw it in.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from ..support import strict_json
from ..support.text import name_key

SIDE = 1000
# Models that were trained on chats wrap JSON in a fence even where they are told not to; nothing else may stand around it.
_FENCE = re.compile(r"```(?:json)?\s*(.*?)\s*```", re.DOTALL)

Box = tuple[float, float, float, float]


class MalformedAnswer(ValueError):
    """An answer that is not of the form that was asked for; its text says why."""


@dataclass(frozen=True)
class NamedBox:
    """A structure's box as shares of the image, left, top, right, bottom."""

    label: str
    box: Box


def read_boxes(text: str, names: Sequence[str]) -> list[NamedBox]:
    """Boxes from ``[{"label": "liver", "box": [120, 80, 410, 390]}, ...]``; structures that are not in the list are absent.

    Raises:
        MalformedAnswer: it is not that, names what was not asked for or the same twice, or a box has no area or leaves the image.

    >>> read_boxes('[{"label": "liver", "box": [100, 200, 300, 400]}]', ["liver"])
    [NamedBox(label='liver', box=(0.1, 0.2, 0.3, 0.4))]
    """
    document = _json(text)
    if not isinstance(document, list):
        raise MalformedAnswer("not a list of boxes")
    out: list[NamedBox] = []
    for entry in document:
        if not isinstance(entry, dict) or set(entry) != {"label", "box"}:
            raise MalformedAnswer(f"{entry!r} is not an object of label and box")
        label = _asked(entry["label"], names)
        if any(one.label == label for one in out):
            raise MalformedAnswer(f"{label!r} has two boxes")
        out.append(NamedBox(label, _box(entry["box"])))
    return out


def read_name(text: str, names: Sequence[str]) -> str:
    """The name in ``{"label": "liver"}``, one of ``names`` whatever its case.

    Raises:
        MalformedAnswer: it is not that, or another name.
    """
    document = _json(text)
    if not isinstance(document, dict) or set(document) != {"label"}:
        raise MalformedAnswer("not an object of 'label' alone")
    return _asked(document["label"], names)


def _json(text: str) -> object:
    fenced = _FENCE.fullmatch(text.strip())
    try:
        return strict_json.loads(fenced[1] if fenced else text)
    except ValueError as error:
        raise MalformedAnswer(f"not valid JSON ({error})") from error


def _asked(label: object, names: Sequence[str]) -> str:
    found = [name for name in names if isinstance(label, str) and name_key(name) == name_key(label)]
    if not found:
        raise MalformedAnswer(f"{label!r} is none of the names that were asked for")
    return found[0]


def _box(values: object) -> Box:
    # A bool is an int to Python, and none of a box's sides.
    if not isinstance(values, list) or len(values) != 4 or not all(type(value) in (int, float) for value in values):
        raise MalformedAnswer(f"{values!r} is not four numbers")
    left, top, right, bottom = values
    if not (0 <= left < right <= SIDE and 0 <= top < bottom <= SIDE):
        raise MalformedAnswer(f"{values!r} is not a box within 0 to {SIDE}")
    return left / SIDE, top / SIDE, right / SIDE, bottom / SIDE
