"""Looks at the headers of MetaImage, NRRD and picture files before ITK does, which a wrong one makes crash or read what it must not."""

from __future__ import annotations

import math
import os
import re
import stat
import warnings
import zlib
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from ..support.header_fields import ONE_FILE, Header, Unsound, is_finite, metaimage_header, nrrd_header

# Deflate makes at most 1032 bytes of one.
_DEFLATE = 1032
_CHUNK = 1 << 20
_MOST_DIMENSIONS = 5
_LONGEST_WORD, _LONGEST_VALUE = 100, 500
_FARTHEST_MM = 1e9
# So far an axis has at least to run in the direction that letters give it; they can't say more of an oblique one.
_ALONG = 0.1

_METAIMAGE_BYTES = {
    **dict.fromkeys(("MET_CHAR", "MET_UCHAR"), 1),
    **dict.fromkeys(("MET_SHORT", "MET_USHORT"), 2),
    **dict.fromkeys(("MET_INT", "MET_UINT", "MET_LONG", "MET_ULONG", "MET_FLOAT"), 4),
    **dict.fromkeys(("MET_LONG_LONG", "MET_ULONG_LONG", "MET_DOUBLE"), 8),
}
# These hold one number an axis, the first ones, or one for each pair of axes.
_METAIMAGE_VECTORS = ("ElementSpacing", "ElementSize", "Offset", "Position", "Origin", "CenterOfRotation")
_METAIMAGE_MATRICES = ("TransformMatrix", "Rotation", "Orientation")

_NRRD_BYTES = {
    **dict.fromkeys(("signed char", "int8", "int8_t", "uchar", "unsigned char", "uint8", "uint8_t"), 1),
    **dict.fromkeys(("short", "short int", "signed short", "signed short int", "int16", "int16_t"), 2),
    **dict.fromkeys(("ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"), 2),
    **dict.fromkeys(("int", "signed int", "int32", "int32_t", "uint", "unsigned int", "uint32", "uint32_t", "float"), 4),
    **dict.fromkeys(("longlong", "long long", "long long int", "signed long long", "signed long long int", "int64", "int64_t"), 8),
    **dict.fromkeys(("ulonglong", "unsigned long long", "unsigned long long int", "uint64", "uint64_t", "double"), 8),
}
_NRRD_ENCODINGS = ("raw", "txt", "text", "ascii", "hex", "gz", "gzip", "bz2", "bzip2")
# These are kept as they are; of others the image library may complain, in a buffer of a fixed length.
_NRRD_ANY_LENGTH = ("content", "sample units")
# Those whose axes are a patient's.
_NRRD_SPACES = tuple(
    name + time
    for names, times in (
        (("right-anterior-superior", "left-anterior-superior", "left-posterior-superior"), ("", "-time")),
        (("ras", "las", "lps"), ("", "t")),
    )
    for name in names
    for time in times
)


def require_room(count: int, announced: str = "Its header announces") -> None:
    """Raise Unsound where this many bytes of voxels can't be held by this machine."""
    try:
        most = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        most = 1 << 37
    if count > most:
        raise Unsound(f"{announced} {count / 1e9:,.0f} GB of voxels, more than the memory of this machine; it is damaged or too large.")


def require_packed(count: int, packed: int) -> None:
    """Raise Unsound where no ``packed`` bytes can be the compressed form of ``count`` bytes."""
    if count > _DEFLATE * packed + _CHUNK:
        raise Unsound(f"Its header announces {count} bytes of voxels, but the file is too small to hold them.")


def check_metaimage(path: Path) -> str | None:
    """Make sure that ITK can read a MetaImage and that its voxels are there.

    Returns why it can't be told how the image lies in the patient, None where that can.

    Raises:
        Unsound: a needed field is missing, double, or no number; voxels are missing, damaged, or where they must not be.
        OSError: a file can't be opened.
    """
    header = metaimage_header(path)
    fields = header.fields
    dimensions = _whole(fields, "NDims", 1, _MOST_DIMENSIONS)
    sizes = _numbers(fields, "DimSize", dimensions, whole=True)
    if min(sizes) < 1:
        raise Unsound(f"Its header says that the image has {fields['DimSize']!r} voxels.")
    for key in ("ElementSpacing", "ElementSize"):
        if key in fields and not all(is_finite(word) and float(word) for word in fields[key].split()):
            raise Unsound(f"Its header gives voxels a size of {fields[key]} mm.")
    for key in fields:
        if key in _METAIMAGE_VECTORS or key in _METAIMAGE_MATRICES:
            _numbers(fields, key, dimensions if key in _METAIMAGE_VECTORS else dimensions**2)
    kind = fields.get("ElementType", "").removesuffix("_ARRAY")
    if kind not in _METAIMAGE_BYTES:
        raise Unsound(f"Its header says that voxels are of the type {fields.get('ElementType')!r}.")
    channels = _whole(fields, "ElementNumberOfChannels", 1, 1 << 10, 1)
    skipped = _whole(fields, "HeaderSize", -1, 1 << 40, 0)
    packed = _whole(fields, "CompressedDataSize", 0, 1 << 50, 0)
    values = math.prod(int(n) for n in sizes) * channels
    length = values * _METAIMAGE_BYTES[kind]
    require_room(length)
    files = _metaimage_files(path, header, [int(n) for n in sizes])
    compressed = _is_true(fields.get("CompressedData", "False"))
    text = not _is_true(fields.get("BinaryData", "False"))
    share = length // len(files)
    if compressed and len(files) > 1:
        raise Unsound("Its voxels are in several files and compressed.", ONE_FILE)
    if skipped and header.files is None:
        _require_begin(path, header.start, skipped, share if not (compressed or text) else None)
    if skipped < 0 and compressed:
        raise Unsound("Its header says that its voxels are at the end of their file, and compressed: where they begin can't be told.")
    for data in files:
        # Of text, a digit and a space is the least that a value takes.
        begin = header.start if header.files is None else max(skipped, 0)
        available = data.stat().st_size - begin
        if compressed:
            end = _check_deflated(data, begin, packed or None, length)
            # Without it, or where it is too large, ITK takes for voxels whatever lies in memory.
            if ((header.files is None or skipped) and not packed) or packed > available:
                field = f"CompressedDataSize = {available if end is None else end}"
                raise Unsound(
                    f"Its header does not say how many bytes its compressed voxels take, or more than there are: CompressedDataSize is "
                    f"{fields.get('CompressedDataSize', 'missing')}.",
                    f"Put the line {field!r} into its header, before the last line, or save it again in another format.",
                )
        elif available < (2 * (values // len(files)) - 1 if text else share):
            raise Unsound(f"It ends after {max(available, 0)} of the {share} bytes of voxels that its header announces.")
    return _no_metaimage_place(fields, dimensions)


def _require_begin(path: Path, start: int, skipped: int, length: int | None) -> None:
    """Raise Unsound where the field HeaderSize of a file that holds its own voxels leads elsewhere than behind the header."""
    begin = skipped if skipped > 0 else -1 if length is None else path.stat().st_size - length
    if begin != start:
        raise Unsound(
            f"Its header says by HeaderSize = {skipped} that its voxels begin elsewhere than behind the header, where they are.",
            "Remove the line HeaderSize from its header, or save it again in another format.",
        )


def _no_metaimage_place(fields: dict[str, str], dimensions: int) -> str | None:
    """Why it can't be told how a MetaImage lies in the patient, None where that can. Letters say where its axes come from."""
    if dimensions < 3:
        return None
    letters = fields.get("AnatomicalOrientation", "").strip().upper()
    known = bool(re.fullmatch("[RLAPIS]{3}", letters)) and len({"RLAPIS".index(letter) // 2 for letter in letters}) == 3
    matrix = next((fields[key].split() for key in _METAIMAGE_MATRICES if key in fields), None)
    if matrix is None:
        if letters == "RAI":
            return None
        return "it has no TransformMatrix" + (f", and its AnatomicalOrientation is {letters}" if known else "")
    for axis, letter in enumerate(letters if known else ""):
        place, turned = divmod("RLAPIS".index(letter), 2)
        if float(matrix[axis * dimensions + place]) * (-1 if turned else 1) < _ALONG:
            return f"its TransformMatrix and its AnatomicalOrientation, {letters}, contradict each other"
    return None


def _metaimage_files(path: Path, header: Header, sizes: Sequence[int]) -> list[Path]:
    if header.files is None:
        return [path]
    if header.is_list:
        words = header.fields["ElementDataFile"].split()
        axes = int(words[1][0]) if len(words) > 1 and re.fullmatch(r"\dD?", words[1], re.IGNORECASE) else len(sizes) - 1
        if not 0 < axes < len(sizes) or len(header.files) != math.prod(sizes[axes:]):
            raise Unsound(
                f"Its header lists {len(header.files)} files for an image of {' x '.join(str(n) for n in sizes)} voxels.", ONE_FILE
            )
    return [_data_file(path, name) for name in header.files]


def check_nrrd(path: Path) -> str | None:
    """The same of an NRRD."""
    header = nrrd_header(path)
    fields = header.fields
    dimensions = _whole(fields, "dimension", 1, _MOST_DIMENSIONS)
    sizes = [int(n) for n in _numbers(fields, "sizes", dimensions, whole=True)]
    if min(sizes) < 1:
        raise Unsound(f"Its header says that the image has {fields['sizes']!r} voxels.")
    for key in ("space directions", "space origin", "measurement frame"):
        found = re.findall(r"[^\s(),]+", fields.get(key, ""))
        if not all(word.lower() == "none" or is_finite(word) for word in found):
            raise Unsound(f"Its header gives {key!r} as {fields[key][:120]!r}, which are no numbers.")
        if any(word.lower() != "none" and abs(float(word)) > _FARTHEST_MM for word in found):
            raise Unsound(f"Its header gives {key!r} as {fields[key][:120]!r}: no image is so large or lies so far away.")
    _require_directions(fields, dimensions)
    if fields.get("type", "").lower() not in _NRRD_BYTES:
        raise Unsound(f"Its header says that voxels are of the type {fields.get('type')!r}.")
    # The image library copies words, and lines that it complains of, into buffers of a fixed length.
    words = [fields.get(key, "") for key in ("type", "encoding", "endian", "space")]
    words += [word for key in ("kinds", "centers") for word in fields.get(key, "").split()]
    # One quoted text an axis, in which a quote may be escaped, and nothing between them.
    labels = re.sub(r"\\.", "x", fields.get("labels", "")).split('"')
    are_labels = len(labels) == 2 * dimensions + 1 and not "".join(labels[::2]).strip()
    any_length = (*_NRRD_ANY_LENGTH, "labels") if are_labels else _NRRD_ANY_LENGTH
    longest = max(len(value) for key, value in fields.items() if key not in any_length)
    if max(len(word) for word in words) > _LONGEST_WORD or longest > _LONGEST_VALUE:
        raise Unsound("Its header holds a field that is too long to be one of the format's.")
    encoding = fields.get("encoding", "").lower()
    if encoding not in _NRRD_ENCODINGS:
        raise Unsound(f"Its header says that voxels are encoded as {fields.get('encoding')!r}.")
    if encoding.startswith("bz"):
        raise Unsound(
            "Its voxels are compressed with bzip2, which the image library can't unpack.",
            "Save it again with the encoding gzip or raw, with the program that wrote it.",
        )
    skipped, lines = (_whole(fields, key, least, 1 << 40, 0) for key, least in (("byte skip", -1), ("line skip", 0)))
    values = math.prod(sizes)
    length = values * _NRRD_BYTES[fields["type"].lower()]
    require_room(length)
    if header.files is not None and not header.files:
        raise Unsound("Its header lists no file that holds the voxels.", ONE_FILE)
    files = [path] if header.files is None else [_data_file(path, name) for name in header.files]
    for data in files:
        available = data.stat().st_size - (header.start if header.files is None else 0)
        share = length // len(files)
        if encoding == "raw" and available < share + max(skipped, 0):
            raise Unsound(f"It ends after {max(available - max(skipped, 0), 0)} of the {share} bytes of voxels that its header announces.")
        if encoding.startswith("gz"):
            require_packed(share, available)
            if skipped:
                _require_short_skip(data, header.start if header.files is None else 0, skipped, lines, share)
        if encoding in ("txt", "text", "ascii", "hex") and available < 2 * (values // len(files)) - 1:
            raise Unsound(f"It is too short for the {values // len(files)} voxels that its header announces.")
    return _no_nrrd_place(fields, dimensions)


def _require_directions(fields: dict[str, str], dimensions: int) -> None:
    """Raise Unsound where an axis of space has no direction: ITK takes any."""
    directions = re.findall(r"\([^)]*\)|none", fields.get("space directions", ""), re.IGNORECASE)
    kinds = fields.get("kinds", "").lower().split()
    kinds = kinds if len(kinds) == len(directions) else [""] * len(directions)
    axes = max((len(direction.split(",")) for direction in directions if direction[0] == "("), default=0)
    for direction, kind in zip(directions, kinds, strict=True):
        if direction.lower() == "none" and (kind in ("domain", "space") or (dimensions <= axes and kind in ("", "???", "none"))):
            raise Unsound(f"Its header gives no direction for an axis: 'space directions' is {fields['space directions'][:120]!r}.")


def _require_short_skip(data: Path, start: int, skipped: int, lines: int, length: int) -> None:
    """Raise Unsound where more than the voxels and some padding would be unpacked to find where, behind it, ``length`` bytes begin."""
    most = 2 * length + _CHUNK
    long = skipped > most or (skipped < 0 and lines > 0)
    if skipped < 0 and not long:
        stream, done, left = zlib.decompressobj(47), 0, b""
        try:
            with data.open("rb") as file:
                file.seek(start)
                while done <= most and not stream.eof and (piece := left or file.read(_CHUNK)):
                    done += len(stream.decompress(piece, _CHUNK))
                    left = stream.unconsumed_tail
        except zlib.error as error:
            raise Unsound("Its voxels are compressed, and damaged.") from error
        long = done > most
    if long:
        raise Unsound(
            f"Its header says by 'byte skip: {skipped}' that far more than its voxels has to be unpacked to reach them.", ONE_FILE
        )


def _no_nrrd_place(fields: dict[str, str], dimensions: int) -> str | None:
    """Why it can't be told how an NRRD lies in the patient, None where that can."""
    if dimensions < 3:
        return None
    space = fields.get("space", "")
    if space.lower() not in _NRRD_SPACES:
        return f"its space is {space[:40]!r}" if space else "it names no space"
    return None if "space directions" in fields else "it has no space directions"


def check_picture(path: Path) -> None:
    """The same of a PNG or JPEG, which has no place: of a cut JPEG, ITK makes a picture that is grey from there on."""
    with path.open("rb") as file, warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        try:
            with Image.open(file, formats=("PNG", "JPEG")) as picture:
                width, height = picture.size
                # Of bits, and of colors by number, a byte may hold eight.
                require_packed(width * height // 8, path.stat().st_size)
                picture.load()
        except UnidentifiedImageError as error:
            raise Unsound("Its content is not of the format that its name says.") from error
        except Image.DecompressionBombError as error:
            raise Unsound("Its header announces more pixels than any radiograph has.") from error
        except (OSError, SyntaxError, ValueError, EOFError, zlib.error) as error:
            raise Unsound("It is damaged, or ends before all of its pixels are there.") from error


def require_file(path: Path) -> None:
    """Raise Unsound unless a path that exists leads to a file: a device or a pipe may have no end.

    Raises:
        OSError: the operating system refuses the path.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise Unsound("It is no file but a folder, a device or a pipe.", "Give the path of a file on a disk.")


def _data_file(header: Path, name: str) -> Path:
    """The file that a header says its voxels are in; it has to lie in the header's own folder or below it."""
    folder = header.parent.resolve()
    try:
        data = (header.parent / name).resolve()
        if not name or not data.is_relative_to(folder):
            raise Unsound(
                f"Its header says that its voxels are in {name!r}, which is outside of its own folder.",
                "If you trust the file, put both files into one folder and name the data file in the header without a folder; "
                "or load the image in 3D Slicer and save it as one file.",
            )
        if not data.exists():
            raise Unsound(f"Its voxels are in the file {name!r}, which is not there.", "Copy both files into one folder.")
        require_file(data)
    except (OSError, ValueError, RuntimeError) as error:
        raise Unsound(f"Its header says that its voxels are in {name[:80]!r}, which can't be opened.") from error
    return data


def _check_deflated(path: Path, start: int, packed: int | None, length: int) -> int | None:
    """Raise Unsound unless a file's bytes from ``start`` unpack to ``length`` bytes; return how many they are if that is where they end."""
    available = path.stat().st_size - start
    require_packed(length, available)
    left, done, taken = available if packed is None else packed, 0, 0
    stream = zlib.decompressobj(47)
    with path.open("rb") as file:
        file.seek(start)
        try:
            while done < length and not stream.eof:
                data = stream.unconsumed_tail or file.read(min(_CHUNK, left))
                if not stream.unconsumed_tail:
                    left -= len(data)
                    taken += len(data)
                if not data:
                    done += len(stream.flush())
                    break
                done += len(stream.decompress(data, _CHUNK))
        except zlib.error as error:
            raise Unsound("Its voxels are compressed, and damaged.") from error
    if done < length:
        raise Unsound(f"Its voxels unpack to {done} of the {length} bytes that its header announces.")
    return taken - len(stream.unused_data) if stream.eof else None


def _whole(fields: dict[str, str], key: str, least: int, most: int, default: int | None = None) -> int:
    text = fields.get(key)
    if text is None and default is not None:
        return default
    if text is None or not re.fullmatch(r"[+-]?\d{1,18}", text) or not least <= int(text) <= most:
        raise Unsound(f"Its header gives {key!r} as {text if text is None else text[:60]!r}.")
    return int(text)


def _numbers(fields: dict[str, str], key: str, count: int, whole: bool = False) -> list[float]:
    words = fields.get(key, "").split()
    if len(words) != count or not all(re.fullmatch(r"\+?\d{1,15}", word) if whole else is_finite(word) for word in words):
        raise Unsound(f"Its header gives {key!r} as {fields.get(key, '')[:120]!r} instead of {count} numbers.")
    return [float(word) for word in words]


def _is_true(text: str) -> bool:
    return text[:1] in ("T", "t", "1")
