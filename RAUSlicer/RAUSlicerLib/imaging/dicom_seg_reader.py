"""Reads DICOM Segmentation objects (SEG) of any maker: frames are placed by where they say they lie, never by their order."""

from __future__ import annotations

import logging
import struct
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
import SimpleITK as sitk
from pydicom.pixels import iter_pixels
from pydicom.sr.coding import Code

from ..errors import InputError
from ..support.notices import hushed
from .dicom_planes import Plane, functional_group, planes_of, read_dataset, text
from .dicom_stack import on_slices
from .grids import with_geometry
from .image_file import unreadable
from .labelmap import smallest_type
from .palette import label_color
from .segmentation import Segmentation, Structure
from .terminology import TISSUE, UNCLASSIFIED, Terminology, serialize_terminology

_SEG_CLASSES = ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7")
# All that a damaged file makes the libraries raise.
_DAMAGE = (RuntimeError, ValueError, AttributeError, LookupError, TypeError, OSError, EOFError, ArithmeticError, struct.error, zlib.error)

# In units of the distance between slices: what is taken for rounding, for uneven slices, and what can't be told apart any more.
_ROUNDED, _UNEVEN, _AMBIGUOUS = 0.05, 0.25, 0.5
# In pixels: two frames lie in one plane, and above one another.
_SAME_PLANE, _ABOVE = 0.02, 0.5
# Cosines of one direction, and relative spacing of one grid.
_TURNED, _STRETCHED = 2e-3, 1e-3
_MOST_SLICES = 10_000

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Stack:
    """Where the frames lie: ``origin`` is the first slice's (LPS, mm), ``axes`` are row, column and normal direction, ``step`` is in mm.

    ``slices`` is the slice of each frame, ``spacing`` the distance of rows and of columns (mm).
    """

    origin: np.ndarray
    axes: np.ndarray
    spacing: tuple[float, float]
    step: float
    slices: np.ndarray

    def shape(self, dataset: pydicom.Dataset) -> tuple[int, int, int]:
        return int(self.slices.max()) + 1, int(dataset.Rows), int(dataset.Columns)

    def image(self, array: np.ndarray) -> sitk.Image:
        return with_geometry(array, self.origin, (self.spacing[1], self.spacing[0], self.step), self.axes.T)


def is_dicom_seg(path: Path) -> bool:
    """Whether a DICOM file is a Segmentation object. Raises InputError: it can't be read."""
    with hushed(told=False):
        return text(read_dataset(path, specific_tags=["SOPClassUID"], stop_before_pixels=True), "SOPClassUID") in _SEG_CLASSES


def read_dicom_seg(path: Path, volume: sitk.Image | None = None) -> Segmentation:
    """Read a DICOM SEG; segment numbers become label values.

    The grid is that of the stored frames, often a part of the segmented series: frames without any segment may be left out. What many
    makers leave out of a segment's description is made up for.

    Args:
        path: The file.
        volume: The segmented image. Where frames lie on its slices they are taken for these, also if the slices are unevenly spaced or
            the file does not say how far apart they are.

    Raises:
        InputError: the file is damaged, holds probabilities instead of labels, or does not say where its frames lie.
    """
    with hushed(told=False):
        dataset = read_dataset(path)
    return parse_dicom_seg(dataset, path, volume)


def parse_dicom_seg(dataset: pydicom.Dataset, path: Path, volume: sitk.Image | None = None) -> Segmentation:
    """The segmentation in a dataset that was read from ``path``: see ``read_dicom_seg``."""
    try:
        with hushed(told=False):
            stack = _stack(dataset, path, volume)
            layers, structures = _read(dataset, path, stack)
    except _DAMAGE as error:
        raise unreadable(path, "It is a damaged or incomplete DICOM segmentation.") from error
    return Segmentation(layers[0], structures, tuple(layers[1:]))


def _stack(dataset: pydicom.Dataset, path: Path, volume: sitk.Image | None) -> _Stack:
    frames = planes_of(dataset, path)
    if any(frame.position is None or frame.spacing is None for frame in frames):
        raise _misplaced(path, "Its frames don't all say where in the patient they and their pixels lie.")
    spacings = np.array([frame.spacing for frame in frames])
    rows_mm, columns_mm = spacings[0].tolist()
    if spacings.min() <= 0:
        raise ValueError("pixels without size")
    if np.abs(spacings / spacings[0] - 1).max() > _STRETCHED:
        raise _misplaced(path, "Its frames have pixels of several sizes.")
    positions, cosines = np.array([frame.position for frame in frames]), np.array([frame.axes for frame in frames])[:, :2]
    if np.abs(cosines - cosines[0]).max() > _TURNED:
        raise _misplaced(path, "Its frames are turned against each other.")
    row, column = cosines[0] / np.linalg.norm(cosines[0], axis=1, keepdims=True)
    axes = np.stack([row, column, np.cross(row, column)])
    pixel = min(rows_mm, columns_mm)
    offsets = (positions - positions[0]) @ axes.T
    if np.abs(offsets[:, :2]).max() > _ABOVE * pixel:
        raise _misplaced(path, "Its frames are shifted sideways against each other.")
    planes, plane_of = _planes(offsets[:, 2], _SAME_PLANE * pixel)
    stated, thickness = _positive(frames[0].between), _positive(frames[0].thickness)
    lattice = None if volume is None else _of_volume(frames, planes, plane_of, axes, stated, volume)
    lattice = lattice or _even(planes, stated, thickness, pixel)
    if lattice is None:
        raise _misplaced(path, "Its slices are so unevenly spaced that they are on no grid.")
    start, step, numbers = lattice
    numbers = numbers - numbers.min()
    if numbers.max() >= _MOST_SLICES:
        raise ValueError(f"{numbers.max() + 1} slices")
    _tell_how_far_off(planes - start - step * numbers, step)
    return _Stack(positions[0] + start * axes[2], axes, (rows_mm, columns_mm), step, numbers[plane_of])


def _tell_how_far_off(off: np.ndarray, step: float) -> None:
    """Warn where planes lie beside the slices (mm) that they are taken for."""
    most = float(np.abs(off).max())
    if most <= _ROUNDED * step:
        return
    far = f"{most:.2g} mm, {most / step:.2g} of the distance of slices"
    if np.ptp(off) <= _ROUNDED * step:
        _log.warning("The segmentation lies between the slices of its image, %s off; each of its slices is taken for the nearest one.", far)
    else:
        _log.warning("The segmentation's slices are unevenly spaced: they lie up to %s, beside those they are taken for.", far)


def _planes(heights: np.ndarray, tolerance: float) -> tuple[np.ndarray, np.ndarray]:
    """The different heights, ascending, and the one that each height is."""
    order = np.argsort(heights, kind="stable")
    number = np.concatenate([[0], np.cumsum(np.diff(heights[order]) > tolerance)]).astype(int)
    plane_of = np.empty(len(heights), int)
    plane_of[order] = number
    return np.array([heights[plane_of == plane].mean() for plane in range(number[-1] + 1)]), plane_of


_Lattice = tuple[float, float, np.ndarray]
"""Height of the first plane and distance of the planes (mm), and the number of each height on them, up to a constant."""


def _of_volume(
    frames: Sequence[Plane], heights: np.ndarray, plane_of: np.ndarray, axes: np.ndarray, stated: float, volume: sitk.Image
) -> _Lattice | None:
    """The frames' planes as slices of the segmented image; None where they are not its slices.

    ``heights`` (mm) are those of the planes over the first frame, along the normal, ascending; ``plane_of`` is the plane of each frame,
    ``axes`` are row, column and normal direction, ``stated`` is the file's distance of planes (mm), 0 where it says nothing.
    """
    placed = on_slices(frames, volume)
    *pixel, step = volume.GetSpacing()
    if placed is None or np.abs(placed.beside[:, :2]).max() > _AMBIGUOUS * min(pixel):
        return None
    # A left-handed image counts its slices down.
    upwards = 1 if np.reshape(volume.GetDirection(), (3, 3))[:, 2] @ axes[2] > 0 else -1
    numbers = np.zeros(len(heights), int)
    numbers[plane_of] = upwards * placed.slices
    off = float(np.abs(placed.beside[:, 2]).max()) / step
    other_step = stated > 0 and abs(stated / step - 1) > _ROUNDED
    if len(np.unique(numbers)) < len(numbers) or (off > _ROUNDED and other_step) or _is_coarser(heights, stated, step):
        return None
    first = plane_of[0]
    bottom = -upwards * float(placed.beside[0, 2]) - step * int(numbers[first])
    return bottom + step * int(numbers.min()), step, numbers


def _is_coarser(heights: np.ndarray, stated: float, step: float) -> bool:
    """Whether planes are as far apart as the file says, and that is farther than the image's slices: their masks are as thick."""
    gaps = np.diff(heights)
    return bool(stated > (1 + _AMBIGUOUS) * step and len(gaps) > 1 and np.abs(gaps / stated - np.rint(gaps / stated)).max() <= _ROUNDED)


def _even(planes: np.ndarray, stated: float, thickness: float, pixel: float) -> _Lattice | None:
    """Even steps that the planes fit; what the file says of steps, else slices' thickness, else the smallest gap."""
    gaps = np.diff(planes)
    if not len(gaps):
        return float(planes[0]), stated or thickness or pixel, np.zeros(1, int)
    for step, allowed in ((stated, _AMBIGUOUS), (thickness, _ROUNDED), (float(gaps.min()), _UNEVEN), (float(np.median(gaps)), _AMBIGUOUS)):
        if step <= 0 or (planes[-1] - planes[0]) / step > _MOST_SLICES:
            continue
        # The widest arc that no plane's phase falls into lies around the middle between two grid planes.
        phases = np.sort(planes / step % 1)
        free = np.diff([*phases, phases[0] + 1])
        widest = int(free.argmax())
        phase = phases[widest] + free[widest] / 2 + 0.5
        numbers = np.rint(planes / step - phase).astype(int)
        off = np.abs(planes / step - phase - numbers).max()
        if off <= allowed and len(np.unique(numbers)) == len(numbers):
            return float((numbers.min() + phase) * step), step, numbers
    return None


def _read(dataset: pydicom.Dataset, path: Path, stack: _Stack) -> tuple[list[sitk.Image], tuple[Structure, ...]]:
    """Label maps and structures; each segment goes into the first label map in which its voxels are free."""
    described = {int(item.SegmentNumber): item for item in dataset.SegmentSequence}
    of_kind = _labels if dataset.get("SegmentationType") == "LABELMAP" else _masks
    arrays, layer_of = of_kind(dataset, described, stack, path)
    nameless = sorted(set(layer_of) - set(described))
    if nameless:
        _log.warning("The DICOM segmentation does not describe segment %s; it is read without a name.", ", ".join(map(str, nameless)))
    structures = tuple(_structure(described.get(number), number, layer_of[number]) for number in sorted(layer_of))
    return [stack.image(array) for array in arrays], structures


_Described = dict[int, pydicom.Dataset]
_Arrays = tuple[list[np.ndarray], dict[int, int]]
"""Label arrays, and the one that holds each segment."""


def _labels(dataset: pydicom.Dataset, described: _Described, stack: _Stack, path: Path) -> _Arrays:
    """Of a SEG whose voxels are segment numbers."""
    if len(np.unique(stack.slices)) < len(stack.slices):
        raise _twice(path)
    background = int(dataset.get("PixelPaddingValue") or 0)
    array = np.full(stack.shape(dataset), background, np.uint16)
    for index, frame in enumerate(_pixels(dataset, path)(range(len(stack.slices)))):
        array[stack.slices[index]] = frame
    numbers = {int(value) for value in np.unique(array)} | set(described)
    if background:
        # The label 0 is no structure here: what has it gets a number that is free.
        free = max(numbers) + 1
        array[array == 0] = free
        array[array == background] = 0
        if 0 in described:
            described[free] = described.pop(0)
        numbers = {int(value) for value in np.unique(array)} | set(described)
    described.pop(background, None)
    return [array.astype(smallest_type(int(array.max())))], dict.fromkeys(sorted(numbers - {0, background}), 0)


def _masks(dataset: pydicom.Dataset, described: _Described, stack: _Stack, path: Path) -> _Arrays:
    """Of a SEG with a mask a frame."""
    pixels, shape = _pixels(dataset, path), stack.shape(dataset)
    frames_of: dict[int, list[int]] = defaultdict(list)
    for index, frame in enumerate(dataset.PerFrameFunctionalGroupsSequence):
        try:
            number = int(functional_group(dataset, frame, "SegmentIdentificationSequence").ReferencedSegmentNumber)
        except LookupError:
            (number,) = described
        frames_of[number].append(index)
    numbers = sorted({*frames_of, *described})
    largest = int(dataset.get("MaximumFractionalValue") or 255) if dataset.get("SegmentationType") == "FRACTIONAL" else 0
    dtype = smallest_type(max(numbers))
    arrays = [np.zeros(shape, dtype)]
    layer_of: dict[int, int] = {}
    for number in numbers:
        indices = frames_of[number]
        places = stack.slices[indices]
        if len(np.unique(places)) < len(places):
            raise _twice(path)
        masks = []
        for frame in pixels(indices):
            mask = frame != 0
            if largest and (frame[mask] != largest).any():
                raise InputError(
                    f"The DICOM segmentation {str(path)!r} holds probabilities instead of labels.",
                    "It is of the type FRACTIONAL and has values between nothing and everything.",
                    "Load it in 3D Slicer, threshold it and save it as .seg.nrrd.",
                )
            masks.append(mask)
        pairs = list(zip(places, masks, strict=True))
        free = (k for k, array in enumerate(arrays) if not any(array[place][mask].any() for place, mask in pairs))
        layer = next(free, len(arrays))
        if layer == len(arrays):
            arrays.append(np.zeros(shape, dtype))
        for place, mask in pairs:
            arrays[layer][place][mask] = number
        layer_of[number] = layer
    return arrays, layer_of


def _pixels(dataset: pydicom.Dataset, path: Path) -> Callable[[Sequence[int]], Iterator[np.ndarray]]:
    """Gives the frames of the wanted indices, shape (rows, columns)."""
    rows, columns = int(dataset.Rows), int(dataset.Columns)
    if int(dataset.BitsAllocated) == 1 and not dataset.file_meta.TransferSyntaxUID.is_compressed:
        # Frames begin in the middle of a byte, where pydicom reads whole bytes.
        packed = np.frombuffer(dataset.PixelData, np.uint8)
        size = rows * columns
        if len(packed) * 8 < size * int(dataset.NumberOfFrames):
            raise ValueError("pixels are missing")

        def unpacked(indices: Sequence[int]) -> Iterator[np.ndarray]:
            for index in indices:
                first, last = index * size // 8, -(-(index + 1) * size // 8)
                bits = np.unpackbits(packed[first:last], bitorder="little")[index * size - 8 * first :]
                yield bits[:size].reshape(rows, columns)

        return unpacked

    def decoded(indices: Sequence[int]) -> Iterator[np.ndarray]:
        if not len(indices):
            return
        try:
            yield from iter_pixels(dataset, indices=list(indices), raw=True)
        except (RuntimeError, NotImplementedError) as error:
            # pydicom needs further packages for some kinds of compression.
            raise unreadable(path, "Its pixels are damaged, or compressed in a way that can't be read.") from error

    return decoded


def _structure(description: pydicom.Dataset | None, number: int, layer: int) -> Structure:
    item = description if description is not None else pydicom.Dataset()
    type_items = item.get("SegmentedPropertyTypeCodeSequence")
    regions = item.get("AnatomicRegionSequence")
    type_ = _first_code(type_items)
    terminology = UNCLASSIFIED
    if type_ is not None:
        terminology = Terminology(
            category=_first_code(item.get("SegmentedPropertyCategoryCodeSequence")) or TISSUE,
            type=type_,
            modifier=_first_code(type_items[0].get("SegmentedPropertyTypeModifierCodeSequence")),
            region=_first_code(regions),
            region_modifier=_first_code(regions[0].get("AnatomicRegionModifierSequence")) if regions else None,
        )
    return Structure(number, _name(item, type_, number), _color(item, number), serialize_terminology(terminology), layer=layer)


def _name(item: pydicom.Dataset, type_: Code | None, number: int) -> str:
    label, description = (str(item.get(keyword) or "").strip() for keyword in ("SegmentLabel", "SegmentDescription"))
    # A label holds 64 characters; the description may hold all of a longer name.
    if label and description.startswith(label) and len(label) >= 60:
        return description
    return label or description or (type_.meaning if type_ is not None and type_ != TISSUE else "") or f"segment {number}"


def _color(item: pydicom.Dataset, number: int) -> tuple[float, float, float]:
    try:
        red, green, blue = hd.color.CIELabColor.from_dicom_value(tuple(item.RecommendedDisplayCIELabValue)).to_rgb()
    except (AttributeError, TypeError, ValueError):
        return label_color(number)
    return red / 255, green / 255, blue / 255


def _first_code(sequence: Sequence[pydicom.Dataset] | None) -> Code | None:
    """The first code of a sequence; None where it is empty or lacks a value or scheme."""
    if not sequence:
        return None
    item = sequence[0]
    value = item.get("CodeValue") or item.get("LongCodeValue") or item.get("URNCodeValue")
    scheme = item.get("CodingSchemeDesignator") or ("URN" if item.get("URNCodeValue") else None)
    return Code(str(value), str(scheme), str(item.get("CodeMeaning") or value)) if value and scheme else None


def _positive(value: float | None) -> float:
    return value if value is not None and value > 0 else 0.0


def _misplaced(path: Path, reason: str) -> InputError:
    return InputError(
        f"The DICOM segmentation {str(path)!r} can't be placed. {reason}",
        "A segmentation is needed whose frames are slices of one volume.",
        "Load it in 3D Slicer together with its image and save it as .seg.nrrd.",
    )


def _twice(path: Path) -> InputError:
    return InputError(
        f"The DICOM segmentation {str(path)!r} has several masks of one segment in one place.",
        "It holds several time points, or was put together from parts.",
        "Load it in 3D Slicer, choose one and save it as .seg.nrrd.",
    )
