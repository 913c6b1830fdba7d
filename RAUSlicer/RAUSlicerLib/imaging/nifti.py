"""Reads NIfTI: checks the header and the length before ITK does, and tells where a header gives an image no place, or two.

ITK fills voxels that a truncated file lacks with zeros, takes voxel sizes that are no number for something else, reads neither NIfTI-2 nor
axes that are a little askew, and chooses between the two geometries of a header without a word.
"""

from __future__ import annotations

import gzip
import io
import logging
import math
import struct
import zlib
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from ..support.header_fields import Unsound
from .grids import apart, index_to_world, nearest_geometry, placed
from .headers import require_packed, require_room
from .places import TwoPlaces, set_two_places

_log = logging.getLogger(__name__)

# Above this, in voxels, two geometries are told apart; below lies what writing and reading again does to numbers.
NOTICEABLE_VOXELS = 0.1
# Axes are askew that move a voxel by more than the first where right-angled ones are taken for them, and can't be used beyond the second.
_ASKEW_VOXELS, _MOST_ASKEW_VOXELS = 1e-3, 0.5

_FARTHEST_MM = 1e9

_HEADER_1, _HEADER_2 = 348, 540
# What follows a header before the voxels: names of structures, notes of programs.
_LONGEST_EXTENSIONS = 1 << 24
# More than the announced voxels, and this, is no padding.
_PADDING = 1 << 20

_SCALARS = {
    **{2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8"},
    **{256: "i1", 512: "u2", 768: "u4", 1024: "i8", 1280: "u8"},
}
_OTHERS = {32: 8, 128: 3, 1536: 16, 1792: 16, 2048: 32, 2304: 4}
_MM = {1: 1000.0, 3: 1e-3}


@dataclass(frozen=True)
class _Header:
    """``offset`` and ``length`` of the voxels are in bytes, ``steps`` from one to the next in mm; ``forms`` are the header's geometries by
    name, from voxel index to LPS in mm.

    ``lost`` are names of geometries that hold something other than numbers; ``scanner`` says that the sform is the scanner's own.
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

    @property
    def length(self) -> int:
        voxel = np.dtype(_SCALARS[self.datatype]).itemsize if self.datatype in _SCALARS else _OTHERS[self.datatype]
        return math.prod(self.sizes) * voxel


def read_nifti(path: Path) -> sitk.Image:
    """Read a single-file NIfTI, compressed or not whatever its name says. What is odd about it is logged as a warning.

    Raises:
        Unsound: it is truncated, damaged, or describes voxels or a place that can't be used.
        OSError: the file can't be opened.
        RuntimeError: ITK does not read it.
    """
    header = _inspect(path)
    if header is None:
        return sitk.ReadImage(str(path))
    # Of a place that is no number, ITK does not get to an end.
    if header.version == 1 and not header.lost and (path.name.lower().endswith(".gz") or not _is_gzip(path)):
        try:
            return _placed(sitk.ReadImage(str(path)), header, path, read_by_itk=True)
        except RuntimeError as error:
            if "orthonormal" not in str(error) or not header.forms:
                raise
            return _placed(_decode(path, header), header, path, askew_voxels=0.0)
    return _placed(_decode(path, header), header, path)


def extensions_of(path: Path) -> bytes:
    """What a NIfTI's header is followed by before the voxels begin; nothing where there is nothing, or no sound file."""
    try:
        header = _inspect(path, whole=False)
    except (Unsound, OSError):
        return b""
    return b"" if header is None else header.extensions


def _inspect(path: Path, whole: bool = True) -> _Header | None:
    """The header of a sound file, None of one that is no NIfTI, which ITK says better; without ``whole`` the voxels are not looked at."""
    compressed = _is_gzip(path)
    size = path.stat().st_size
    with gzip.open(path, "rb") if compressed else path.open("rb") as file:
        try:
            start = _read(file, _HEADER_2)
            header = _parse(start)
            if header is None:
                return None
            require_room(header.length)
            end = header.offset + header.length
            if compressed:
                require_packed(end, size)
            elif end > size:
                raise Unsound(f"It ends after {size} of the {end} bytes that its header announces.")
            if header.offset - len(start) <= _LONGEST_EXTENSIONS:
                start += _read(file, max(0, header.offset - len(start)))
            if whole and isinstance(file, gzip.GzipFile):
                _check_length(file, len(start), end)
        except (EOFError, zlib.error, gzip.BadGzipFile, struct.error) as error:
            raise Unsound("It is damaged, or ends before all of its voxels are there.") from error
    return replace(header, extensions=start[_HEADER_2 if header.version == 2 else _HEADER_1 : header.offset])


def _check_length(file: gzip.GzipFile, done: int, end: int) -> None:
    """Unpack what is left of a file, and no more than it announces and some padding."""
    most = 2 * end + _PADDING
    while done <= most and (chunk := _read(file, 1 << 20)):
        done += len(chunk)
    if done < end:
        raise Unsound(f"It ends after {done} of the {end} bytes that its header announces.")
    if done > most:
        raise Unsound(f"It unpacks to far more than the {end} bytes that its header announces.")


def _read(file: gzip.GzipFile | io.BufferedReader, count: int) -> bytes:
    """So many of a file's bytes, fewer at its end; what follows compressed data and is none ends it too, as every reader of gzip has it."""
    pieces = []
    while count > 0:
        try:
            piece = file.read1(count)
        except gzip.BadGzipFile as error:
            if "Not a gzipped file" not in str(error):
                raise
            break
        if not piece:
            break
        pieces.append(piece)
        count -= len(piece)
    return b"".join(pieces)


def _is_gzip(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(2) == b"\x1f\x8b"


def _parse(start: bytes) -> _Header | None:
    """The header in a file's first bytes, in either byte order; None if it is not NIfTI."""
    for order in "<>":
        kind = struct.unpack_from(order + "i", start, 0)[0]
        if kind == _HEADER_1:
            if start[344:347] == b"ni1":
                raise Unsound(
                    "It is the header of a pair of files (.hdr and .img).", "Convert it to one file, .nii.gz, or load it in 3D Slicer."
                )
            if start[344:347] != b"n+1":
                return None
            rank, *dims = struct.unpack_from(order + "8h", start, 40)
            (datatype,) = struct.unpack_from(order + "h", start, 70)
            qfac, *spacing = struct.unpack_from(order + "8f", start, 76)
            offset, slope, inter = struct.unpack_from(order + "3f", start, 108)
            units = start[123]
            codes = struct.unpack_from(order + "2h", start, 252)
            numbers = struct.unpack_from(order + "18f", start, 256)
        elif kind == _HEADER_2:
            if start[4:7] != b"n+2":
                return None
            (datatype,) = struct.unpack_from(order + "h", start, 12)
            rank, *dims = struct.unpack_from(order + "8q", start, 16)
            qfac, *spacing = struct.unpack_from(order + "8d", start, 104)
            (offset,) = struct.unpack_from(order + "q", start, 168)
            slope, inter = struct.unpack_from(order + "2d", start, 176)
            codes = struct.unpack_from(order + "2i", start, 344)
            numbers = struct.unpack_from(order + "18d", start, 352)
            (units,) = struct.unpack_from(order + "i", start, 500)
        else:
            continue
        return _header(kind, order, rank, dims, datatype, (qfac, *spacing), (offset, slope, inter), units, codes, numbers)
    return None


def _header(
    kind: int,
    order: str,
    rank: int,
    dims: list[int],
    datatype: int,
    pixdim: tuple[float, ...],
    scaling: tuple[float, float, float],
    units: int,
    codes: tuple[int, ...],
    numbers: tuple[float, ...],
) -> _Header:
    offset, slope, inter = scaling
    if not 1 <= rank <= 7:
        raise Unsound(f"Its header says that the image has {rank} dimensions.")
    if min(dims[:rank]) < 0:
        raise Unsound(f"Its header says that the image has {' x '.join(str(n) for n in dims[:rank])} voxels.")
    if datatype not in _SCALARS and datatype not in _OTHERS:
        raise Unsound(f"Its header says that voxels are of the type {datatype}, which NIfTI does not know.")
    sizes = tuple(max(n, 1) for n in dims[:rank])
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
    return _Header(
        2 if kind == _HEADER_2 else 1,
        order,
        sizes,
        (x, y, z),
        datatype,
        slope,
        inter,
        max(int(offset), kind),
        forms,
        tuple(lost),
        codes[1] == 1,
    )


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


def _decode(path: Path, header: _Header) -> sitk.Image:
    """The voxels, of a file whose header is sound, in no particular place."""
    if header.datatype not in _SCALARS:
        raise Unsound("Its voxels are colours or complex numbers.", "Save one real number a voxel, and as NIfTI-1.")
    sizes = list(header.sizes)
    while len(sizes) > 3 and sizes[-1] == 1:
        sizes.pop()
    if len(sizes) > 3:
        raise Unsound(f"It holds {math.prod(sizes[3:])} volumes.", "Save one of its volumes as a file of its own and use that.")
    with gzip.open(path, "rb") if _is_gzip(path) else path.open("rb") as file:
        file.seek(header.offset)
        values = np.frombuffer(_read(file, header.length), np.dtype(header.order + _SCALARS[header.datatype]))
    values = values.astype(values.dtype.newbyteorder("="))
    slope = header.slope if math.isfinite(header.slope) and header.slope else 1.0
    inter = header.inter if math.isfinite(header.inter) else 0.0
    if (slope, inter) != (1.0, 0.0):
        # As ITK does it.
        values = (values * slope + inter).astype(np.float64 if values.dtype == np.float64 else np.float32)
    return sitk.GetImageFromArray(values.reshape([*sizes, 1, 1][2::-1]))


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
        _log.warning(
            "The header of %r does not say how the image lies in the patient (it has no qform and no sform): left and right may be "
            "exchanged, and so may front and back.",
            path.name,
        )
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
