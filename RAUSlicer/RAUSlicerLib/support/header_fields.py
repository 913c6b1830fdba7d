"""What the headers of MetaImage and NRRD say, taken apart as the image library does it, and which files they say their voxels are in.

Where a header could be understood in two ways it counts what the library makes of it: whatever is checked here, that reads the file.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .text import is_text

ONE_FILE = "Load the image in 3D Slicer and save it as one file, .nrrd or .nii.gz."

# A header holds a line or two for every segment or frame; no more of a file than this is searched for its end.
_LONGEST_HEADER = 1 << 24
_MOST_LINES = _MOST_FILES = 100_000

METAIMAGE_SUFFIXES = (".mha", ".mhd")
NRRD_SUFFIXES = (".nrrd", ".nhdr")

# The fields that MetaImage itself has: text, and so many numbers (None: as many as there are axes).
_METAIMAGE_TEXT = (
    *("ObjectType", "ObjectSubType", "Comment", "AcquisitionDate", "Name", "AnatomicalOrientation", "DistanceUnits"),
    *("BinaryData", "BinaryDataByteOrderMSB", "ElementByteOrderMSB", "CompressedData", "Modality", "ElementType", "ElementDataFile"),
)
_METAIMAGE_NUMBERS: dict[str, int | None] = {
    **dict.fromkeys(("NDims", "ID", "ParentID", "CompressedDataSize", "HeaderSize", "ElementNumberOfChannels"), 1),
    **dict.fromkeys(("ElementMin", "ElementMax", "ElementNBits", "ElementToIntensityFunctionSlope", "ElementToIntensityFunctionOffset"), 1),
    **dict.fromkeys(("Color", "SequenceID"), 4),
    **dict.fromkeys(("DimSize", "ElementSpacing", "ElementSize", "Offset", "Position", "Origin", "CenterOfRotation"), None),
    **dict.fromkeys(("TransformMatrix", "Rotation", "Orientation"), None),
}
# The library keeps these in buffers of a fixed length.
_LONGEST_METAIMAGE_TEXT, _LONGEST_METAIMAGE_KEY, _LONGEST_METAIMAGE_VALUE = 254, 498, 32_767
_METAIMAGE_LOCAL = ("LOCAL", "Local", "local")
_METAIMAGE_SIGN = re.compile(rb"[=:]")
_BLANK = b" \t\n\v\f\r"
_UNPRINTED = bytes(byte for byte in range(256) if not 0x20 < byte < 0x7F)

_NRRD_FIELDS = {
    spelling: name
    for name in (
        *("content", "number", "type", "block size", "dimension", "space", "space dimension", "sizes", "spacings", "thicknesses"),
        *("axis mins", "axis maxs", "space directions", "centers", "kinds", "labels", "units", "min", "max", "old min", "old max"),
        *("endian", "encoding", "line skip", "byte skip", "sample units", "space units", "space origin", "measurement frame", "data file"),
    )
    for spelling in (name, name.replace(" ", ""))
} | {"centerings": "centers"}
_NRRD_LINE = re.compile(rb"([^\r\n]*)(?:\r\n|\r|\n|\Z)")
_NRRD_PATTERN = re.compile(r"%[^A-Za-z%]*d")
_NUMBER_IN_NAME = re.compile(r"[^%]*%0?\d{0,2}d[^%]*")


class Unsound(Exception):
    """Why a file can't be used: a sentence or two, and what to do about it where that is not the usual thing."""

    def __init__(self, reason: str, solution: str | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.solution = solution


@dataclass(frozen=True)
class Header:
    """A header's fields, and what follows them.

    ``files`` are the names of the files that hold the voxels, None where these follow in the header's own file, at the byte ``start``.
    ``is_list`` tells a list of names from a pattern and a single one.
    """

    fields: dict[str, str]
    files: list[str] | None
    start: int
    is_list: bool = False


def metaimage_header(path: Path) -> Header:
    """What a MetaImage's header says, up to the field that ends it; of other programs' own fields, none is kept.

    Raises:
        Unsound: it has no end, a line that the image library can't hold, a field twice, or a pattern of names that can't be followed.
        OSError: the file can't be opened.
    """
    with path.open("rb") as file:
        content = file.read(_LONGEST_HEADER)
    fields: dict[str, str] = {}
    start = 0
    for _ in range(_MOST_LINES):
        if "ElementDataFile" in fields:
            return _with_metaimage_files(fields, content, start)
        # A name without a sign takes the next line's value: so reads what is left of a text of several lines.
        sign = _METAIMAGE_SIGN.search(content, start)
        if sign is None:
            break
        end = content.find(b"\n", sign.start())
        end = len(content) if end < 0 else end
        name = re.split(rb"[\r\n\0]", content[start : sign.start()].lstrip(_BLANK), maxsplit=1)[0].rstrip(b" \t")
        value = content[sign.end() : end].lstrip(b"=: \t").partition(b"\0")[0].rstrip(_UNPRINTED)
        _keep_metaimage_field(fields, name, value)
        start = min(end + 1, len(content))
    raise Unsound("Its header does not end with the field ElementDataFile, as that of every MetaImage does.")


def _keep_metaimage_field(fields: dict[str, str], raw_name: bytes, raw_value: bytes) -> None:
    name, value = _text(raw_name), _text(raw_value)
    if name in _METAIMAGE_TEXT or name in _METAIMAGE_NUMBERS:
        if name in fields:
            raise Unsound(f"Its header holds the field {name!r} twice.")
        if name in _METAIMAGE_TEXT and name != "ElementDataFile" and len(raw_value) > _LONGEST_METAIMAGE_TEXT:
            raise Unsound(f"Its header holds a field {name!r} that is too long.")
        # Numbers that are missing the library takes from the next lines.
        count = _METAIMAGE_NUMBERS.get(name)
        if count is not None and not (len(words := value.split()) >= count and all(is_finite(word) for word in words[:count])):
            raise Unsound(f"Its header gives {name!r} as {value[:60]!r}.")
        fields[name] = value
    elif len(raw_name) > _LONGEST_METAIMAGE_KEY or len(raw_value) > _LONGEST_METAIMAGE_VALUE:
        raise Unsound(f"Its header holds a value that is too long for the image library, of the name {name[:60]!r}.")
    elif not is_text(name):
        raise Unsound("Its header names a value by something that is no text in UTF-8.")


def _with_metaimage_files(fields: dict[str, str], content: bytes, start: int) -> Header:
    name = fields["ElementDataFile"]
    if name in _METAIMAGE_LOCAL:
        return Header(fields, None, start)
    if name.startswith("LIST"):
        *lines, rest = content[start:].split(b"\n")
        if rest.strip():
            raise Unsound("Its list of files ends without a line end, and the image library would leave the last one out.", ONE_FILE)
        return Header(fields, [_text(line.partition(b"\0")[0].rstrip(_UNPRINTED)) for line in lines], start, is_list=True)
    if "%" in name:
        slices = fields.get("DimSize", "").split()[-1:]
        count = int(slices[0]) if slices and re.fullmatch(r"\d{1,9}", slices[0]) else None
        return Header(fields, _numbered(name.split(), count), start)
    return Header(fields, [name], start)


def nrrd_header(path: Path) -> Header:
    """What an NRRD's header says, up to the empty line that ends it; keys of other programs are left out.

    Raises:
        Unsound: it has no end, a line that is no field, a field twice, or a pattern of names that can't be followed.
        OSError: the file can't be opened.
    """
    with path.open("rb") as opened:
        content = opened.read(_LONGEST_HEADER)
    if not re.match(rb"NRRD000\d", content):
        raise Unsound("Its content is not of the format that its name says.")
    fields: dict[str, str] = {}
    # Lines, and where the next one begins; a carriage return alone ends a line too.
    found = ((match[1], match.end()) for match in _NRRD_LINE.finditer(content) if match.start() < len(content))
    lines = itertools.islice(found, _MOST_LINES)
    start = next(lines)[1]
    for line, start in lines:  # noqa: B007 (the last one counts)
        if not line:
            break
        # Comments need not be text.
        if line.startswith(b"#"):
            continue
        _keep_nrrd_field(fields, line.partition(b"\0")[0])
        if fields.get("data file", "").startswith("LIST"):
            listed = [_text(rest) for rest, _ in lines]
            for file in listed:
                _require_in_folder(file)
            return Header(fields, listed, len(content), is_list=True)
    else:
        if start < len(content) or len(content) == _LONGEST_HEADER:
            raise Unsound("Its header has no end.")
    name = fields.get("data file")
    if name is None:
        return Header(fields, None, start)
    _require_in_folder(name)
    if _NRRD_PATTERN.search(name):
        return Header(fields, _numbered(name.split(), None), start)
    return Header(fields, [name], start)


def _keep_nrrd_field(fields: dict[str, str], raw: bytes) -> None:
    line = _text(raw)
    sign = re.search(": |:=", line)
    name = line if sign is None else line[: sign.start()]
    if sign is not None and sign[0] == ":=":
        if not is_text(name):
            raise Unsound("Its header names a value by something that is no text in UTF-8.")
        return
    field = _NRRD_FIELDS.get(name.lower())
    if sign is None or field is None:
        raise Unsound(f"Its header holds a line that is no field: {line[:60]!r}.")
    if field in fields:
        raise Unsound(f"Its header holds the field {field!r} twice.")
    value = line[sign.end() :].lstrip(" \t")
    # Blanks at the end belong to the name of a file.
    fields[field] = value if field == "data file" else value.rstrip()


def _require_in_folder(name: str) -> None:
    # The image library reads what is typed for the one, and leaves the header's folder for the other.
    if name == "-" or name[1:2] == ":":
        raise Unsound(f"Its header says that its voxels are in {name[:80]!r}, which is no file in its own folder.", ONE_FILE)


def _numbered(words: Sequence[str], count: int | None) -> list[str]:
    """The names that "name%03d.raw first last step" stands for; the numbers may be missing where it is known how many there have to be."""
    numbers = [int(word) for word in words[1:4] if re.fullmatch(r"-?\d{1,6}", word)]
    first, last, step = numbers if len(numbers) == 3 else (1, count or 0, 1)
    if not _NUMBER_IN_NAME.fullmatch(words[0]) or (len(numbers) != 3 and (numbers or count is None)) or step == 0:
        raise Unsound(
            f"Its header names the files of its voxels by the pattern {' '.join(words)[:120]!r}, which can't be followed.", ONE_FILE
        )
    found = range(first, last + (1 if step > 0 else -1), step)
    if not found or len(found) > _MOST_FILES or (count is not None and len(found) != count):
        raise Unsound(f"Its header names {len(found)} files for {'the' if count is None else count} slices.", ONE_FILE)
    return [words[0] % number for number in found]


def is_finite(word: str) -> bool:
    """Whether a word is a number that voxels can have as their place or size."""
    try:
        return math.isfinite(float(word))
    except ValueError:
        return False


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")
