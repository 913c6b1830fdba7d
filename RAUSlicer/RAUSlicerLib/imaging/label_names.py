"""The names of a label map's structures, from the file itself or from a table that a program has left beside it."""

from __future__ import annotations

import logging
import os
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from ..support import strict_json
from ..support.companions import DATASET_FILE, names_documents, names_tables
from ..support.header_fields import Unsound
from ..support.text import name_key
from .nifti import extensions_of

_log = logging.getLogger(__name__)

Names = dict[int, str]

_LARGEST_FILE = 1 << 24
_LARGEST_LABEL = (1 << 32) - 1


class _Unrelated(Exception):
    """A file of such a name that is about something else, as many programs keep a ``dataset.json`` or a ``labels.txt``."""


def find_names(path: Path, labels: Iterable[int]) -> Names:
    """Names of a label map's values.

    The table in the file's own header counts first, then ``labels.json``, then other tables beside it. The first that knows all the values
    is taken; where none does, the one that knows most of them. A table that can't be read spoils nothing, and is logged as a warning where
    names are missing. A file of such a name that is about something else is passed over.

    Args:
        path: The label map.
        labels: The values that it holds.
    """
    path = path.absolute()
    wanted = set(labels)
    best: Names = {}
    best_source = ""
    rivals: list[str] = []
    damaged: list[tuple[str, str]] = []
    for source, read in _sources(path):
        try:
            names = read()
        except _Unrelated:
            continue
        except (OSError, ValueError, TypeError, AttributeError, RecursionError, ElementTree.ParseError, Unsound) as error:
            damaged.append((source, _why(error)))
            continue
        known = {value: name for value, name in names.items() if value in wanted}
        if len(known) > len(best):
            best, best_source, rivals = known, source, []
        elif known and len(known) == len(best) and _loosely(known) != _loosely(best):
            rivals.append(source)
    for source, why in damaged if len(best) < len(wanted - {0}) else ():
        _log.warning("The names of labels in %r can't be read and are ignored: %s.", source, why)
    if rivals:
        others = ", ".join(repr(rival) for rival in rivals)
        _log.warning("%r and %s give the labels different names; those of %r were taken.", best_source, others, best_source)
    return best


def _sources(path: Path) -> Iterator[tuple[str, Callable[[], Names]]]:
    """Names of the tables that may belong to a label map, and what reads each."""
    if path.name.lower().endswith((".nii", ".nii.gz")):
        yield path.name, lambda: _of_extensions(extensions_of(path))
    for file in names_documents(path.parent):
        if os.path.isfile(file):
            yield file.name, lambda file=file: _of_json(file)  # type: ignore[misc]
    for file in names_tables(path):
        yield file.name, lambda file=file: _of_table(file)  # type: ignore[misc]


def _loosely(names: Names) -> dict[int, str]:
    return {value: name_key(name.replace("_", " ")) for value, name in names.items()}


def _content(file: Path) -> bytes:
    if file.stat().st_size > _LARGEST_FILE:
        raise Unsound("it is too large for a table of names")
    return file.read_bytes()


def _of_json(file: Path) -> Names:
    """Names in JSON: {value: name}, {name: value}, or either under "labels"; nnU-Net's regions list the values that they are made of."""
    document = strict_json.loads(_content(file).decode("utf-8-sig"))
    named = isinstance(document, dict) and isinstance(document.get("labels"), dict)
    if named:
        document = document["labels"]
    elif file.name == DATASET_FILE or not isinstance(document, dict) or not document:
        raise _Unrelated
    if not named and not (all(key.strip().isdigit() for key in document) or all(_is_like_labels(value) for value in document.values())):
        raise _Unrelated
    if all(_is_number(key) for key in document):
        return {_label(key): _name(name) for key, name in document.items()}
    names: Names = {}
    # A value lies in several regions, and the smallest says most of it.
    for name, values in sorted(document.items(), key=lambda item: -len(item[1]) if isinstance(item[1], list) else 0):
        for value in values if isinstance(values, list) else [values]:
            names[_label(value)] = _name(name)
    return names


def _of_table(file: Path) -> Names:
    """Names in a text file: 3D Slicer's and FreeSurfer's "value name R G B A", ITK-SNAP's, or a table with the columns index and name."""
    content = _content(file)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        # Programs on Windows once wrote tables in Western European letters.
        text = content.decode("cp1252", "replace")
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    for parse in (_snap_line, _color_line):
        found = [parse(line) for line in lines]
        if lines and all(found):
            return {_label(pair[0]): pair[1] for pair in found if pair}
    heads = [head.strip().lower() for head in lines[0].split("\t")] if lines else []
    if not {"index", "name"} <= set(heads):
        if any(_snap_line(line) or _color_line(line) for line in lines):
            raise Unsound("some of its lines are no values and names")
        raise _Unrelated
    rows = [line.split("\t") for line in lines[1:]]
    return {_label(row[heads.index("index")].strip()): _name(row[heads.index("name")].strip()) for row in rows if len(row) == len(heads)}


def _snap_line(line: str) -> tuple[str, str] | None:
    """Value and name in a line of ITK-SNAP's: value, red, green, blue, opacity, two flags and a quoted name."""
    words = line.split(maxsplit=7)
    if len(words) < 8 or not all(word.isdecimal() for word in words[:4]) or not {*words[5:7]} <= {"0", "1"}:
        return None
    name = words[7].rstrip()
    if not words[4].replace(".", "").isdecimal() or len(name) < 2 or not name[0] == name[-1] == '"':
        return None
    return words[0], name[1:-1]


def _color_line(line: str) -> tuple[str, str] | None:
    """Value and name in a line of 3D Slicer's or FreeSurfer's: value, name, red, green, blue, opacity."""
    value, *rest = line.split(maxsplit=1)
    words = rest[0].rsplit(maxsplit=4) if rest else []
    if len(words) < 5 or not all(word.isdecimal() for word in (value, *words[1:])):
        return None
    # 3D Slicer writes underscores for spaces into its color tables.
    return value, words[0].replace("_", " ")


def _of_extensions(extensions: bytes) -> Names:
    """Names in a label table that Connectome Workbench and TotalSegmentator put into a NIfTI header."""
    start, end = extensions.find(b"<CaretExtension"), extensions.find(b"</CaretExtension>")
    if start < 0 or end < 0:
        return {}
    text = extensions[start : end + len(b"</CaretExtension>")]
    if b"<!" in text.replace(b"<![CDATA[", b""):
        raise Unsound("it defines entities of its own")
    return {_label(item.get("Key")): _name((item.text or "").strip()) for item in ElementTree.fromstring(text).iter("Label")}


def _is_number(key: Any) -> bool:
    return isinstance(key, str) and re.fullmatch(r"\s*\d{1,10}\s*", key) is not None


def _is_like_labels(value: Any) -> bool:
    """Whether a value may stand for labels, well or ill written."""
    return all(isinstance(one, int | float) or _is_number(one) for one in (value if isinstance(value, list) else [value]))


def _label(value: Any) -> int:
    """A label's value; true and 1.5 are none."""
    if isinstance(value, bool) or not (isinstance(value, int) or _is_number(value)) or not 0 <= int(value) <= _LARGEST_LABEL:
        raise Unsound("a label is no whole number")
    return int(value)


def _name(name: Any) -> str:
    if not isinstance(name, str):
        raise Unsound("a name is no text")
    return name


def _why(error: Exception) -> str:
    if isinstance(error, Unsound):
        return error.reason
    if isinstance(error, OSError):
        return error.strerror or "it can't be opened"
    return "it is damaged"
