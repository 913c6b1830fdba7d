"""Orders image planes by where they lie, makes sure that they are a volume, and finds the slices of a volume that planes are."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk

from ..errors import InputError
from .dicom_planes import APART, Plane, text

# In units of the distance between slices.
_MISSING_SLICE_GAP = 1.5
_UNEVEN_WARNING, _UNEVEN_ERROR = 0.05, 0.5
_SHEAR = 0.05
# A gantry is tilted by half a degree at least. Less comes from cosines that were rounded, and is told.
_TILT = 2e-3
# How far cosines and pixel spacings may differ, relative to their size: what rounding to three digits leaves.
_ROUNDING = 1.5e-3
# In pixels, at the corner of a slice.
_NOTICEABLE = 0.1
# Planes are a volume's slices if cosines and pixel spacings differ by no more than this.
_TURNED, _STRETCHED = 2e-3, 1e-3

_AS_A_FILE = "Load it in 3D Slicer, choose one volume and save it as a file of its own."
_ONE_FILE = "Give one of its files, if each is a volume; else load it in 3D Slicer, choose one volume and save it as a file of its own."
_REGULARIZE = "Load it in 3D Slicer, which regularizes such series, and save the volume as a file."

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Stack:
    """Planes in the order of a volume's slices; ``axes`` as a plane's, ``spacing`` along rows, columns and slices (x, y, z), mm."""

    planes: tuple[Plane, ...]
    axes: np.ndarray
    spacing: tuple[float, float, float]

    @property
    def origin(self) -> np.ndarray:
        """The position of the first slice, mm (LPS)."""
        position = self.planes[0].position
        assert position is not None
        return position


def stack(planes: Sequence[Plane], what: str) -> Stack:
    """Order the planes of one series along their normal.

    Args:
        planes: In any order.
        what: What they come from, for the messages, e.g. "series in the folder 'x'".

    Raises:
        InputError: planes without a place, of several sizes, directions or volumes, with gaps, sheared or unevenly spaced.
    """
    _require_places(planes, what)
    _require_alike(planes, what)
    axes = _common_axes(planes, what)
    rows_mm, columns_mm = _common_spacing(planes, what)
    ordered = sorted(planes, key=lambda plane: float(plane.position @ axes[2]))
    slices_mm = _distance(ordered, axes[2], what)
    _require_one_reference(planes, what)
    return Stack(tuple(ordered), axes, (columns_mm, rows_mm, slices_mm))


@dataclass(frozen=True)
class OnSlices:
    """Where planes lie on a volume.

    ``slices`` (n,) are the nearest ones of the volume, were it continued beyond its ends. ``beside`` (n, 3) is how far each plane's first
    pixel lies from that of its slice, along the volume's axes x, y and z (mm).
    """

    slices: np.ndarray
    beside: np.ndarray


def on_slices(planes: Sequence[Plane], volume: sitk.Image) -> OnSlices | None:
    """The slices of a volume next to which planes lie; None where planes and slices differ in direction, pixel spacing or size."""
    direction = np.reshape(volume.GetDirection(), (3, 3))
    columns_mm, rows_mm, step = volume.GetSpacing()
    axes, spacings = np.array([plane.axes for plane in planes]), np.array([plane.spacing for plane in planes])
    if any(plane.size != (volume.GetHeight(), volume.GetWidth()) for plane in planes):
        return None
    if np.abs(axes[:, :2] - direction[:, :2].T).max() > _TURNED or np.abs(spacings / (rows_mm, columns_mm) - 1).max() > _STRETCHED:
        return None
    beside = (np.array([plane.position for plane in planes]) - volume.GetOrigin()) @ direction
    slices = np.rint(beside[:, 2] / step).astype(int)
    beside[:, 2] -= step * slices
    return OnSlices(slices, beside)


def _require_places(planes: Sequence[Plane], what: str) -> None:
    lost = [plane for plane in planes if plane.position is None]
    if not lost:
        return
    if len(lost) < len(planes):
        raise InputError(
            f"{len(lost)} of the {len(planes)} images of the {what} don't say where in the patient they lie: {str(lost[0].path)!r} is one.",
            "Their image position or orientation is missing, so a volume of the others would lack slices.",
            "Export the series again from the archive or scanner; if these images don't belong to it, move them out of the folder.",
        )
    if text(planes[0].header, "Modality") == "NM":
        raise InputError(
            f"Where the {len(planes)} images of the {what} lie in the patient can't be read.",
            "In nuclear medicine (NM) a file of many images gives the place of the detector instead; they may be slices or planar views.",
            "If they are slices, load it in 3D Slicer and save the volume as a file.",
        )
    raise InputError(
        f"The {len(planes)} images of the {what} don't form a volume.",
        "They are radiographs, films or captures, which do not say where in the patient they lie.",
        "Give a file with one image, or load them in 3D Slicer and save what forms a volume as a file.",
    )


def _require_alike(planes: Sequence[Plane], what: str) -> None:
    sizes = sorted({plane.size for plane in planes})
    if len(sizes) > 1:
        raise InputError(
            f"The {what} has images of several sizes: {' and '.join(f'{rows} x {columns}' for rows, columns in sizes)} pixels.",
            "They are no slices of one volume.",
            "Move the images that are no slices of the volume out of the folder.",
        )


def _require_one_reference(planes: Sequence[Plane], what: str) -> None:
    """Positions in different frames of reference can't be compared; one for each image is what careless anonymizers leave."""
    count = len({said for plane in planes if (said := text(plane.header, "FrameOfReferenceUID"))})
    if count == len(planes) and count > 1:
        _log.warning("Each slice names a frame of reference of its own; they are taken to be the same.")
    elif count > 1:
        raise InputError(
            f"The {what} has images in {count} frames of reference.",
            "The patient was positioned again in between, so their positions can't be compared.",
            _AS_A_FILE,
        )


def _common_axes(planes: Sequence[Plane], what: str) -> np.ndarray:
    every = np.array([plane.axes for plane in planes])
    axes: np.ndarray = np.median(every, axis=0)
    apart = np.abs(every - axes).max()
    if apart > _ROUNDING:
        # The median of several directions may be none of them.
        groups: list[tuple[np.ndarray, list[Plane]]] = []
        for plane in planes:
            assert plane.axes is not None
            near = next((group for first, group in groups if np.abs(first - plane.axes).max() <= _ROUNDING), None)
            if near is None:
                groups.append((plane.axes, [plane]))
            else:
                near.append(plane)
        counts = ", ".join(str(len(group)) for _, group in groups[:6])
        raise InputError(
            f"The images of the {what} lie in {len(groups)} directions ({counts}{', …' if len(groups) > 6 else ''} images).",
            "They are several stacks, scouts, or turned about an axis, which is no volume of parallel slices.",
            _AS_A_FILE,
        )
    if apart > 1e-12:
        axes[1] -= (axes[0] @ axes[1]) / (axes[0] @ axes[0]) * axes[0]
        axes[2] = np.cross(axes[0], axes[1])
    if apart * max(planes[0].size) > _NOTICEABLE:
        _log.warning("The slices' directions differ by up to %.2g; their median is taken.", apart)
    return axes


def _common_spacing(planes: Sequence[Plane], what: str) -> tuple[float, float]:
    """Distance of rows and of columns, mm."""
    for plane in planes:
        if plane.spacing is None or min(plane.spacing) <= 0:
            raise InputError(
                f"The DICOM file {str(plane.path)!r} does not say how far apart its pixels are.",
                f"Its pixel spacing is {'missing' if plane.spacing is None else ' x '.join(f'{x:g}' for x in plane.spacing)}.",
                "Export the series again from the archive or scanner, with its geometry.",
            )
    every = np.array([plane.spacing for plane in planes])
    spread = np.ptp(every, axis=0) / every.min(axis=0)
    if spread.max() > _ROUNDING:
        differing = every[:, np.argmax(spread)]
        first, last = every[np.argmin(differing)], every[np.argmax(differing)]
        raise InputError(
            f"The pixel spacing changes inside the {what}: {first[0]:g} x {first[1]:g} mm in some images, "
            f"{last[0]:g} x {last[1]:g} mm in others.",
            "A volume has one; with either, labels would be in the wrong place in the others.",
            "Load it in 3D Slicer, choose the images of one spacing and save them as a file, or export the series again.",
        )
    if spread.max() * max(planes[0].size) > _NOTICEABLE:
        _log.warning("The pixel spacing differs between slices by up to %.2g %%; the median is taken.", 100 * spread.max())
    rows_mm, columns_mm = np.median(every, axis=0)
    return float(rows_mm), float(columns_mm)


def _distance(planes: Sequence[Plane], normal: np.ndarray, what: str) -> float:
    """Distance between the slices of a regular stack, mm; anything else would put labels in the wrong place."""
    first = planes[0]
    if len(planes) == 1:
        return first.between or first.thickness or 1.0
    positions = np.array([plane.position for plane in planes])
    heights = positions @ normal
    gaps = np.diff(heights)
    typical = float(np.median(gaps))
    if gaps.min() < 0.01 * max(typical, 1e-3):
        raise _several_volumes(planes, heights, what)
    if gaps.max() > _MISSING_SLICE_GAP * typical:
        raise InputError(
            f"The {what} lacks slices: a gap of {gaps.max():g} mm between slices that are {typical:g} mm apart.",
            _varying(planes, "Positions beyond the gap would be wrong."),
            "Copy the series again completely; if it was never complete, resample it in 3D Slicer and save it as a file.",
        )
    sideways = positions - positions[0] - np.outer(heights - heights[0], normal)
    shift = float(np.linalg.norm(sideways, axis=1).max())
    length = float(heights[-1] - heights[0])
    if shift > _SHEAR * typical:
        if shift > min(_TILT * length, *(first.spacing or (0.0,))):
            raise InputError(
                f"The slices of the {what} are shifted sideways against each other, by up to {shift:g} mm.",
                "The scanner's gantry was tilted, so the slices form a sheared block, or the patient or the slices moved.",
                _REGULARIZE,
            )
        _log.warning("The slices are shifted sideways by up to %.2g mm, as after rounding of their directions.", shift)
    spacing = length / (len(planes) - 1)
    unevenness = float(np.abs(heights - np.linspace(heights[0], heights[-1], len(planes))).max())
    if unevenness > _UNEVEN_ERROR * spacing:
        raise InputError(
            f"The slices of the {what} are unevenly spaced: positions are off by up to {unevenness:g} mm.",
            "A volume has evenly spaced slices; labels would be in the wrong place.",
            _REGULARIZE,
        )
    if unevenness > _UNEVEN_WARNING * spacing:
        _log.warning("Slices are unevenly spaced: positions are off by up to %.2g mm.", unevenness)
    _compare_with_header(first, spacing)
    return spacing


def _compare_with_header(plane: Plane, spacing: float) -> None:
    """Every second slice may be missing, which positions alone can't tell. Some makers write the gap without the slice itself."""
    if plane.between and plane.between >= (plane.thickness or 0.0):
        times = spacing / plane.between
        if times > _MISSING_SLICE_GAP and abs(times - round(times)) < _UNEVEN_WARNING * times:
            _log.warning(
                "The slices lie %g mm apart, but their headers say %g mm: slices may be missing all along.", spacing, plane.between
            )


def _several_volumes(planes: Sequence[Plane], heights: np.ndarray, what: str) -> InputError:
    """Several images at one position; says what tells them apart where the headers do."""
    files = len({plane.path for plane in planes})
    return InputError(
        f"The {what} has several images at the same position: {len(planes)} images at {len(np.unique(heights.round(2)))} positions.",
        _varying(planes, "It holds several volumes (time points, echoes or reconstructions) in one, or slices twice."),
        _ONE_FILE if 1 < files < len(planes) else _AS_A_FILE,
    )


def _varying(planes: Sequence[Plane], otherwise: str) -> str:
    """What differs between planes, in words; ``otherwise`` where the headers name nothing."""
    for keyword, (_sequence, meaning) in APART.items():
        values = list(dict.fromkeys(plane.apart.get(keyword, "") for plane in planes))
        if 1 < len(values) <= len(planes) // 2 + 1:
            shown = ", ".join(value[:32] or "none" for value in sorted(values, key=_numerically)[:5])
            return f"It holds {len(values)} {meaning} in one ({keyword} {shown}{', …' if len(values) > 5 else ''})."
    return otherwise


def _numerically(value: str) -> tuple[float, str]:
    try:
        return float(value), value
    except ValueError:
        return float("inf"), value
