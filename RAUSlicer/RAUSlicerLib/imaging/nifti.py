"""Reads NIfTI: checks header and length, takes the voxels as they are, and tells where a header gives an image no place, or two.

ITK fills voxels that a truncated file lacks with zeros and those that are no number too, takes them from another file beside it, takes
voxel sizes that are no number for something else, reads neither NIfTI-2 nor axes that are a little askew, and chooses between the two
geometries of a header without a word. So it is asked for no more than the geometry.
"""

from __future__ import annotations

import gzip
import io
import logging
import math
import struct
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from ..support.header_fields import ONE_FILE, Unsound
from ..support.scratch import ScratchFolder
from .grids import apart, index_to_world, nearest_geometry, placed
from .headers import require_packed, require_room
from .places import TwoPlaces, set_no_place, set_two_places

_log = logging.getLogger(__name__)

# Above this, in voxels, two geometries are told apart; below lies what writing and reading again does to numbers.
NOTICEABLE_VOXELS = 0.1
# Axes are askew that move a voxel by more than the first where right-angled ones are taken for them, and can't be used beyond the second.
_ASKEW_VOXELS, _MOST_ASKEW_VOXELS = 1e-3, 0.5

_FARTHEST_MM = 1e9

_HEADER_1, _HEADER_2 = 348, 540
# Of each version, by the length of its header: the form of each field, and where it begins.
_LAYOUTS = {
    _HEADER_1: {
        **{"dims": ("8h", 40), "datatype": ("h", 70), "pixdim": ("8f", 76), "offset": ("f", 108), "scaling": ("2f", 112)},
        **{"units": ("B", 123), "codes": ("2h", 252), "numbers": ("18f", 256)},
    },
    _HEADER_2: {
        **{"datatype": ("h", 12), "dims": ("8q", 16), "pixdim": ("8d", 104), "offset": ("q", 168), "scaling": ("2d", 176)},
        **{"codes": ("2i", 344), "numbers": ("18d", 352), "units": ("i", 500)},
    },
}
# What follows a header before the voxels: names of structures, notes of programs.
_LONGEST_EXTENSIONS = 1 << 24
# More than the announced voxels, and this, is no padding.
_PADDING = 1 << 20

_SCALARS = {**{2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8"}, **{256: "i1", 512: "u2", 768: "u4", 1024: "i8", 1280: "u8"}}
_OTHERS = {32: 8, 128: 3, 1536: 16, 1792: 16, 2048: 32, 2304: 4}
_LONG_NUMBERS = (1536, 2048)
_MM = {1: 1000.0, 3: 1e-3}

_PIECE = 1 << 20


@dataclass(frozen=True)
class _Header:
    """``offset`` and ``length`` of the voxels are in bytes, ``steps`` from one to the next in mm; ``forms`` are the header's geometries by
    name, from voxel index to LPS in mm.

    ``lost`` are names of geometries that hold something other than numbers; ``scanner`` says that the sform is the scanner's own.
    ``content`` are its bytes up to the length of a header of version 1.
    """

    version: int
    order: str
    sizes: tuple[int, ...]
    steps: tuple[float, float, float]
    datatype: int
    slope: float
    inter: float
    offset: int
    forms: dict[str, np.ndarray]
    lost: tuple[str, ...]
    scanner: bool
    extensions: bytes = b""
    content: bytes = b""

    @property
    def length(self) -> int:
        voxel = np.dtype(_SCALARS[self.datatype]).itemsize if self.datatype in _SCALARS else _OTHERS[self.datatype]
        return math.prod(self.sizes) * voxel


def read_nifti(path: Path) -> sitk.Image:
    """Read a single-file NIfTI, compressed or not whatever its name says. What is odd about it is logged as a warning.

    ITK is never given the file, only a copy of its header: it would read "scan.nii.gz" with the voxels of a "scan.nii" beside it, and set
    voxels to 0 that are no numbers.

    Raises:
        Unsound: it is truncated, damaged, or describes voxels or a place that can't be used.
        OSError: the file can't be opened.
        RuntimeError: ITK does not take the place that the header gives it.
    """
    with _opened(path) as (file, header):
        values = _values(file, header)
    if header.version == 1 and not header.lost:
        # Of a place that is no number, ITK does not get to an end.
        try:
            image = _where_itk_puts_it(values, header)
            if image is not None:
                return _placed(image, header, path, read_by_itk=True)
        except RuntimeError as error:
            if "orthonormal" not in str(error) or not header.forms:
                raise
            return _placed(_image(values, header), header, path, askew_voxels=0.0)
    return _placed(_image(values, header), header, path)


def extensions_of(path: Path) -> bytes:
    """What a NIfTI's header is followed by before the voxels begin; nothing where there is nothing, or no sound file."""
    try:
        with _opened(path) as (_, header):
            return header.extensions
    except (Unsound, OSError):
        return b""


@contextmanager
def _opened(path: Path) -> Iterator[tuple[gzip.GzipFile | io.BufferedReader, _Header]]:
    """A file whose header is sound, and which is long enough for it as far as that can be told without unpacking it."""
    compressed = _is_gzip(path)
    size = path.stat().st_size
    with gzip.open(path, "rb") if compressed else path.open("rb") as file:
        try:
            start = _read(file, _HEADER_2)
            header = _parse(start)
            require_room(header.length)
            end = header.offset + header.length
            if compressed:
                require_packed(end, size)
            elif end > size:
                raise Unsound(f"It ends after {size} of the {end} bytes that its header announces.")
            if header.offset - len(start) <= _LONGEST_EXTENSIONS:
                start += _read(file, max(0, header.offset - len(start)))
            extensions = start[_HEADER_2 if header.version == 2 else _HEADER_1 : header.offset]
            yield file, replace(header, extensions=extensions, content=start[:_HEADER_1])
        except (EOFError, zlib.error, gzip.BadGzipFile, struct.error) as error:
            raise Unsound("It is damaged, or ends before all of its voxels are there.") from error


def _values(file: gzip.GzipFile | io.BufferedReader, header: _Header) -> np.ndarray:
    """The voxels, scaled as the header says, in the order of the file, one after the other; the file is read to its end."""
    if header.datatype in _LONG_NUMBERS:
        raise Unsound("Its voxels are numbers of 128 bits, which few programs can read.", "Save it with voxels of 32-bit floating point.")
    if header.datatype not in _SCALARS:
        raise Unsound("Its voxels are colours or complex numbers.", "Save one real number a voxel.")
    if (count := math.prod(header.sizes[3:])) > 1:
        raise Unsound(
            f"It has {len(header.sizes)} dimensions: {' x '.join(str(n) for n in header.sizes)}. It is a series of {count} volumes, or has "
            f"{count} values a voxel.",
            "Save one of its volumes as a file of its own and use that.",
        )
    values = np.empty(math.prod(header.sizes), np.dtype(header.order + _SCALARS[header.datatype]))
    room = values.view(np.uint8)
    file.seek(header.offset)
    done = 0
    for piece in _pieces(file, len(room)):
        room[done : done + len(piece)] = np.frombuffer(piece, np.uint8)
        done += len(piece)
    if isinstance(file, gzip.GzipFile):
        _check_length(file, header.offset + done, header.offset + header.length)
    if not values.dtype.isnative:
        values = values.byteswap(inplace=True).view(values.dtype.newbyteorder("="))
    slope = header.slope if math.isfinite(header.slope) and header.slope else 1.0
    inter = header.inter if math.isfinite(header.inter) else 0.0
    return values if (slope, inter) == (1.0, 0.0) else _scaled(values, slope, inter)


def _scaled(values: np.ndarray, slope: float, inter: float) -> np.ndarray:
    """Voxels as ITK scales them: in double precision, before and after in single unless they are double. By pieces, to save memory."""
    scaled = np.empty(values.shape, np.float64 if values.dtype == np.float64 else np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        for start in range(0, len(values), _PIECE):
            scaled[start : start + _PIECE] = values[start : start + _PIECE].astype(scaled.dtype).astype(np.float64) * slope + inter
    return scaled


def _check_length(file: gzip.GzipFile, done: int, end: int) -> None:
    """Unpack what is left of a file, and no more than it announces and some padding."""
    most = 2 * end + _PADDING
    for piece in _pieces(file, most + 1 - done):
        done += len(piece)
    if done < end:
        raise Unsound(f"It ends after {done} of the {end} bytes that its header announces.")
    if done > most:
        raise Unsound(f"It unpacks to far more than the {end} bytes that its header announces.")


def _read(file: gzip.GzipFile | io.BufferedReader, count: int) -> bytes:
    return b"".join(_pieces(file, count))


def _pieces(file: gzip.GzipFile | io.BufferedReader, count: int) -> Iterator[bytes]:
    """So many of a file's bytes, fewer at its end; what follows compressed data and is none ends it too, as every reader of gzip has it."""
    while count > 0:
        try:
            piece = file.read1(min(count, _PIECE))
        except gzip.BadGzipFile as error:
            if "Not a gzipped file" not in str(error):
                raise
            return
        if not piece:
            return
        yield piece
        count -= len(piece)


def _is_gzip(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(2) == b"\x1f\x8b"


def _parse(start: bytes) -> _Header:
    """The header in a file's first bytes, in either byte order; that of ANALYZE, from which NIfTI grew, is one without scale and place."""
    for order in "<>":
        kind = struct.unpack_from(order + "i", start, 0)[0]
        if kind not in _LAYOUTS or (kind == _HEADER_2 and start[4:7] != b"n+2"):
            continue
        if kind == _HEADER_1 and start[344:347] == b"ni1":
            raise Unsound(
                "It is the header of a pair of files (.hdr and .img).", "Convert it to one file, .nii.gz, or load it in 3D Slicer."
            )
        fields = {name: struct.unpack_from(order + form, start, at) for name, (form, at) in _LAYOUTS[kind].items()}
        if kind == _HEADER_1 and start[344:347] != b"n+1":
            if not fields["offset"][0] >= _HEADER_1:
                raise Unsound("It is the header of a pair of files (.hdr and .img), and holds no voxels.", ONE_FILE)
            fields |= {"scaling": (1.0, 0.0), "units": (0,), "codes": (0, 0)}
        return _header(kind, order, fields)
    raise Unsound("Its content is not of the format that its name says.")


def _header(kind: int, order: str, fields: dict[str, tuple[Any, ...]]) -> _Header:
    (rank, *dims), pixdim, codes, numbers = (fields[name] for name in ("dims", "pixdim", "codes", "numbers"))
    (datatype,), (offset,), (slope, inter), (units,) = (fields[name] for name in ("datatype", "offset", "scaling", "units"))
    if not 1 <= rank <= 7:
        raise Unsound(f"Its header says that the image has {rank} dimensions.")
    if min(dims[:rank]) < 0:
        raise Unsound(f"Its header says that the image has {' x '.join(str(n) for n in dims[:rank])} voxels.")
    if datatype not in _SCALARS and datatype not in _OTHERS:
        raise Unsound(f"Its header says that voxels are of the type {datatype}, which NIfTI does not know.")
    sizes = tuple(max(n, 1) for n in dims[:rank])
    # Some programs mark a turned axis by a size below 0; what that means only an sform says.
    if codes[1] > 0:
        pixdim = (pixdim[0], *map(abs, pixdim[1:]))
    spacing = pixdim[1 : 1 + len(sizes[:3])]
    if not all(math.isfinite(mm) and mm > 0 for n, mm in zip(sizes[:3], spacing, strict=True) if n > 1):
        raise Unsound(f"Its header says that voxels are {' x '.join(f'{mm:g}' for mm in spacing)} mm large.")
    if not (math.isfinite(offset) and offset <= 1 << 40):
        raise Unsound(f"Its header says that the voxels begin at byte {offset:g}.")
    scale = _MM.get(units & 7, 1.0)
    forms: dict[str, np.ndarray] = {}
    lost = []
    # A single slice may have any thickness.
    x, y, z = (scale * (mm if math.isfinite(mm) and mm > 0 else 1.0) for mm in (*pixdim[1 : 1 + min(rank, 3)], 1.0, 1.0)[:3])
    for name, code, affine in (
        ("qform", codes[0], _of_quaternion(numbers[:6], (x, y, z), pixdim[0], scale)),
        ("sform", codes[1], np.vstack([np.reshape(numbers[6:], (3, 4)) * scale, (0, 0, 0, 1)])),
    ):
        if code > 0:
            for axis in range(3):
                if axis >= len(sizes) or sizes[axis] == 1:
                    affine = _with_some_direction(affine, axis)
            if np.isfinite(affine).all() and np.abs(affine).max() < _FARTHEST_MM and abs(np.linalg.det(affine)) > 1e-12:
                forms[name] = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine
            else:
                lost.append(name)
    if lost and not forms:
        raise Unsound(f"Its header gives it a place ({' and '.join(lost)}) that is no number, or axes that lie in one plane.")
    version, begin = 2 if kind == _HEADER_2 else 1, max(int(offset), kind)
    return _Header(version, order, sizes, (x, y, z), datatype, slope, inter, begin, forms, tuple(lost), codes[1] == 1)


def _of_quaternion(numbers: tuple[float, ...], spacing: tuple[float, ...], qfac: float, scale: float) -> np.ndarray:
    """The affine (RAS, mm) of the fields quatern_b, c, d and qoffset_x, y, z, as the standard defines it."""
    b, c, d, *offset = numbers
    a = 1.0 - (b * b + c * c + d * d)
    if a < 1e-7:
        norm = math.sqrt(b * b + c * c + d * d) if math.isfinite(a) else math.nan
        a, b, c, d = 0.0, b / norm, c / norm, d / norm
    else:
        a = math.sqrt(a)
    rotation = np.array(
        [
            [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
            [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
            [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - c * c - b * b],
        ]
    )
    affine = np.eye(4)
    affine[:3, :3] = rotation * np.array(spacing) * (1, 1, -1 if qfac < 0 else 1)
    affine[:3, 3] = np.array(offset) * scale
    return affine


def _with_some_direction(affine: np.ndarray, axis: int) -> np.ndarray:
    """The affine, with a direction across the other two for an axis of one voxel that has none."""
    if np.isfinite(affine[:3, axis]).all() and np.linalg.norm(affine[:3, axis]) > 0:
        return affine
    affine = affine.copy()
    first, second = (affine[:3, other] for other in range(3) if other != axis)
    across = np.cross(first, second)
    affine[:3, axis] = across / (np.linalg.norm(across) or 1.0)
    return affine


def _image(values: np.ndarray, header: _Header) -> sitk.Image:
    """The voxels as a 3D image in no particular place."""
    return sitk.GetImageFromArray(values.reshape([*header.sizes, 1, 1][2::-1]))


def _where_itk_puts_it(values: np.ndarray, header: _Header) -> sitk.Image | None:
    """The voxels as an image of two or three dimensions with the geometry that ITK reads from the header; None where it is not to be had.

    Raises:
        RuntimeError: ITK refuses the header.
    """
    content = bytearray(header.content)
    # Sizes below 0 turn axes round for ITK, which only the forms may.
    struct.pack_into(header.order + "3f", content, 80, *map(abs, struct.unpack_from(header.order + "3f", content, 80)))
    struct.pack_into(header.order + "f", content, 108, _HEADER_1 + 4)
    try:
        with ScratchFolder(Path(tempfile.gettempdir())) as folder:
            copy = folder / "header.nii"
            copy.write_bytes(bytes(content) + bytes(4))
            reader = sitk.ImageFileReader()
            reader.SetImageIO("NiftiImageIO")
            reader.SetFileName(str(copy))
            reader.ReadImageInformation()
    except OSError:
        return None
    rank = reader.GetDimension()
    axes = min(rank, 3)
    if axes < 2 or math.prod(reader.GetSize()[:axes]) != values.size:
        return None
    image = sitk.GetImageFromArray(values.reshape(reader.GetSize()[:axes][::-1]))
    image.SetSpacing(reader.GetSpacing()[:axes])
    image.SetOrigin(reader.GetOrigin()[:axes])
    image.SetDirection(np.reshape(reader.GetDirection(), (rank, rank))[:axes, :axes].ravel().tolist())
    return image


def _placed(
    image: sitk.Image, header: _Header, path: Path, *, read_by_itk: bool = False, askew_voxels: float = _ASKEW_VOXELS
) -> sitk.Image:
    """The image in the place that its header gives it; what is to be told of that is logged as a warning.

    Of two places, the one is taken that ITK takes, and with it 3D Slicer: the result is looked at there.
    """
    if not (math.isfinite(header.slope) and math.isfinite(header.inter)):
        _log.warning("The header of %r scales intensities by something that is no number; they are taken as they are stored.", path.name)
    if image.GetDimension() != 3:
        return image
    size = image.GetSize()
    if not header.forms:
        if not read_by_itk:
            image.SetSpacing(header.steps)
        set_no_place(image, path.name, "it has no qform and no sform")
        return image
    if read_by_itk:
        here = index_to_world(image)
        used = min(header.forms, key=lambda name: apart(size, here, header.forms[name]).voxels)
        if apart(size, here, header.forms[used]).voxels > NOTICEABLE_VOXELS:
            used = "voxel sizes (pixdim)"
    else:
        used = _preferred(header, size)
        image = placed(image, header.forms[used])
        here = index_to_world(image)
        askew = apart(size, here, header.forms[used])
        if askew.voxels > _MOST_ASKEW_VOXELS:
            raise Unsound(
                f"Its header describes axes that are not at right angles to each other; right-angled ones would move voxels by up to "
                f"{askew.mm:.3g} mm.",
                "Resample it to a regular grid, for example in the Resample modules of 3D Slicer.",
            )
        if askew.voxels > askew_voxels:
            _log.warning(
                "The axes of %r are not quite at right angles to each other; the nearest that are have been taken, which moves "
                "voxels by up to %.2g mm (%.2g of a voxel).",
                path.name,
                askew.mm,
                askew.voxels,
            )
    for name in header.lost:
        _log.warning("The %s in the header of %r holds no place; the %s was used.", name, path.name, used)
    for name, affine in header.forms.items():
        distance = apart(size, here, affine)
        if name != used and distance.voxels > NOTICEABLE_VOXELS:
            set_two_places(image, TwoPlaces(used, name, affine, distance.mm, distance.voxels))
    return image


def _preferred(header: _Header, size: tuple[int, ...]) -> str:
    """Which of its geometries an image is read by: of two that disagree, the scanner's, and a right-angled one before one that is not."""
    if len(header.forms) == 1:
        return next(iter(header.forms))
    upright = np.eye(4)
    origin, spacing, direction = nearest_geometry(header.forms["sform"])
    upright[:3, :3], upright[:3, 3] = direction * spacing, origin
    if apart(size, upright, header.forms["sform"]).voxels > _ASKEW_VOXELS:
        return "qform"
    agree = apart(size, header.forms["qform"], header.forms["sform"]).voxels <= NOTICEABLE_VOXELS
    return "sform" if header.scanner or agree else "qform"
