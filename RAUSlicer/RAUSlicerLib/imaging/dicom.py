"""Volumes in DICOM: a folder with the slices of a series, a multi-frame file, or a single radiograph."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
import SimpleITK as sitk
from pydicom.errors import InvalidDicomError

from ..errors import InputError
from .image_file import as_volume, unreadable
from .radiograph import as_gray_volume

MODALITY_KEY = "0008|0060"

_log = logging.getLogger(__name__)

_TAGS = [
    "SeriesInstanceUID",
    "SOPInstanceUID",
    "Modality",
    "Rows",
    "Columns",
    "NumberOfFrames",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "PixelSpacing",
    "SliceThickness",
    "SpacingBetweenSlices",
    "RescaleSlope",
    "RescaleIntercept",
]

# Objects with pixels that are not intensities.
_NOT_IMAGES = ("SEG", "RTDOSE")

# In units of the distance between slices.
_MISSING_SLICE_GAP = 1.5
_UNEVEN_WARNING, _UNEVEN_ERROR = 0.05, 0.5
_SHEAR = 0.05


@dataclass(frozen=True)
class _Slice:
    """One file of a series. ``position`` and the rows of ``axes`` (row, column, normal direction) are in patient space (LPS, mm)."""

    path: Path
    header: pydicom.Dataset
    position: np.ndarray | None
    axes: np.ndarray | None

    @property
    def group(self) -> tuple[object, ...]:
        """What the slices of one volume have in common."""
        orientation = None if self.axes is None else tuple(np.round(self.axes[:2].ravel(), 3) + 0.0)
        return self.header.get("SeriesInstanceUID"), self.header.get("Rows"), self.header.get("Columns"), orientation

    @property
    def frames(self) -> int:
        return int(self.header.get("NumberOfFrames") or 1)


def is_dicom(path: Path) -> bool:
    """Whether a file is a DICOM file, by the mark in its preamble."""
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"


def series_files(folder: Path) -> list[Path]:
    """The files of a folder's largest series, in the order in which ``read_dicom_folder`` stacks them."""
    return [slice_.path for slice_ in _largest_series(folder)]


def read_dicom_folder(folder: Path) -> sitk.Image:
    """Read a folder of DICOM slices as a volume in rescaled units (HU for CT); subfolders are searched if it holds no slices itself.

    Of several series the one with most voxels is taken, with a logged warning.

    Raises:
        InputError: no images, missing or unevenly spaced slices, several images at a position, tilted gantry, damaged pixel data.
    """
    slices = _largest_series(folder)
    first = slices[0]
    if len(slices) == 1:
        return read_dicom_file(first.path)
    if first.position is None or first.axes is None:
        raise InputError(
            f"The {len(slices)} images in the folder {str(folder)!r} don't form a volume.",
            "They are radiographs, films or captures, which do not say where in the patient they lie.",
            "Give one of the files instead of the folder.",
        )
    spacing = _slice_spacing(slices, folder)
    image = _read_stack(slices, folder)
    rows_mm, columns_mm = _pixel_spacing(first)
    image.SetOrigin(first.position.tolist())
    image.SetSpacing((columns_mm, rows_mm, spacing))
    image.SetDirection(first.axes.T.ravel().tolist())
    return _with_modality(image, first.header)


def read_dicom_file(path: Path) -> sitk.Image:
    """Read one DICOM file: a radiograph or slice as a volume of one slice, a multi-frame file as a volume.

    Dark-on-bright radiographs (MONOCHROME1) come out inverted, which is ITK's doing: dense tissue is bright as everywhere else.

    Raises:
        InputError: the file holds no image, a segmentation, a film, or damaged pixel data.
    """
    slice_ = _header(path)
    if slice_ is None:
        raise unreadable(path, "It is not a DICOM file, or its header is damaged.")
    if not _is_image(slice_):
        raise InputError(
            f"The DICOM file {str(path)!r} holds no image.",
            f"Its modality is {slice_.header.get('Modality', 'not stated')}.",
            "Give the image series; a DICOM segmentation goes where a segmentation is asked for.",
        )
    if slice_.frames > 1:
        return _with_modality(_read_multiframe(path), slice_.header)
    image = as_gray_volume(_read_pixels([path], path))
    siblings = [other for other in _scan(path.parent.iterdir()) if slice_.position is not None and other.group == slice_.group]
    if len(siblings) > 1:
        _log.warning("The file is one of %d slices in its folder and the only one read; give the folder to read all.", len(siblings))
    return _with_modality(image, slice_.header)


def image_of(volume: hd.Volume) -> sitk.Image:
    """A volume of highdicom, whose first axis is the frames, as an image with columns, rows and frames as x, y and z, right-handed."""
    columns = [volume.affine[:3, axis] for axis in (2, 1, 0)]
    array, origin = volume.array, volume.affine[:3, 3]
    if np.linalg.det(np.stack(columns, axis=1)) < 0:
        origin = origin + columns[2] * (array.shape[0] - 1)
        array, columns[2] = array[::-1], -columns[2]
    image = sitk.GetImageFromArray(np.ascontiguousarray(array))
    spacing = [float(np.linalg.norm(column)) for column in columns]
    image.SetSpacing(spacing)
    image.SetOrigin(origin.tolist())
    image.SetDirection((np.stack(columns, axis=1) / spacing).ravel().tolist())
    return image


def _largest_series(folder: Path) -> list[_Slice]:
    try:
        slices = _scan(folder.iterdir()) or _scan(folder.rglob("*"))
    except OSError as error:
        raise unreadable(folder, error.strerror or "The operating system refuses to open the folder.") from error
    if not slices:
        raise InputError(
            f"The folder {str(folder)!r} holds no DICOM images.",
            "A folder is read as a DICOM series; other formats are read file by file.",
            "Give the folder that holds the slices, or the path of one image file.",
        )
    groups: dict[tuple[object, ...], dict[object, _Slice]] = defaultdict(dict)
    for slice_ in slices:
        # A slice may have been exported twice under two file names.
        groups[slice_.group].setdefault(slice_.header.get("SOPInstanceUID") or slice_.path, slice_)
    ranked = sorted(
        (list(group.values()) for group in groups.values()),
        key=lambda group: sum(s.frames for s in group) * int(group[0].header.Rows) * int(group[0].header.Columns),
        reverse=True,
    )
    if len(ranked) > 1:
        _log.warning("The folder holds %d image series; the largest one, of %d files, is read.", len(ranked), len(ranked[0]))
    return sorted(ranked[0], key=_height)


def _is_image(slice_: _Slice) -> bool:
    return "Rows" in slice_.header and slice_.header.get("Modality") not in _NOT_IMAGES


def _height(slice_: _Slice) -> float:
    return 0.0 if slice_.position is None or slice_.axes is None else float(slice_.position @ slice_.axes[2])


def _scan(paths: Iterable[Path]) -> list[_Slice]:
    headers = (_header(path) for path in sorted(path for path in paths if path.is_file()))
    return [header for header in headers if header is not None and _is_image(header)]


def _header(path: Path) -> _Slice | None:
    """The tags that place a file in a volume; None for what is not DICOM."""
    try:
        header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=_TAGS)
    except InvalidDicomError:
        return None
    except (OSError, EOFError, ValueError, KeyError, AttributeError) as error:
        raise unreadable(path, "Its DICOM header is damaged.") from error
    position, orientation = header.get("ImagePositionPatient"), header.get("ImageOrientationPatient")
    if not position or not orientation:
        return _Slice(path, header, None, None)
    row, column = np.array(orientation[:3], dtype=float), np.array(orientation[3:], dtype=float)
    return _Slice(path, header, np.array(position, dtype=float), np.stack([row, column, np.cross(row, column)]))


def _pixel_spacing(slice_: _Slice) -> tuple[float, float]:
    """Distance of rows and of columns, mm."""
    spacing = slice_.header.get("PixelSpacing")
    if not spacing or min(spacing) <= 0:
        raise InputError(
            f"The DICOM file {str(slice_.path)!r} does not say how far apart its pixels are.",
            f"Its pixel spacing is {spacing}.",
            "Export the series again from the archive or scanner, with its geometry.",
        )
    return float(spacing[0]), float(spacing[1])


def _slice_spacing(slices: Sequence[_Slice], folder: Path) -> float:
    """Distance between the slices of a regular stack, mm; anything else would put labels in the wrong place."""
    positions = np.array([slice_.position for slice_ in slices])
    assert slices[0].axes is not None
    normal = slices[0].axes[2]
    heights = positions @ normal
    gaps = np.diff(heights)
    typical = float(np.median(gaps))
    if gaps.min() < 0.01 * max(typical, 1e-3):
        raise InputError(
            f"The series in {str(folder)!r} has several images at the same position.",
            "It holds several volumes (time points, echoes or reconstructions) in one series.",
            "Load it in 3D Slicer, choose one volume and save it as a file of its own.",
        )
    if gaps.max() > _MISSING_SLICE_GAP * typical:
        raise InputError(
            f"The series in {str(folder)!r} lacks slices: a gap of {gaps.max():g} mm between slices that are {typical:g} mm apart.",
            "Positions beyond the gap would be wrong.",
            "Copy the series again completely; if it was never complete, resample it in 3D Slicer and save it as a file.",
        )
    sideways = positions - positions[0] - np.outer(heights - heights[0], normal)
    shift = float(np.linalg.norm(sideways, axis=1).max())
    if shift > _SHEAR * typical:
        raise InputError(
            f"The slices in {str(folder)!r} are shifted sideways against each other, by up to {shift:g} mm.",
            "The scanner's gantry was tilted, so the slices form a sheared block.",
            "Load it in 3D Slicer, which regularizes such series, and save the volume as a file.",
        )
    spacing = float(heights[-1] - heights[0]) / (len(slices) - 1)
    unevenness = float(np.abs(heights - np.linspace(heights[0], heights[-1], len(slices))).max())
    if unevenness > _UNEVEN_ERROR * spacing:
        raise InputError(
            f"The slices in {str(folder)!r} are unevenly spaced: positions are off by up to {unevenness:g} mm.",
            "A volume has evenly spaced slices; labels would be in the wrong place.",
            "Load it in 3D Slicer, which regularizes such series, and save the volume as a file.",
        )
    if unevenness > _UNEVEN_WARNING * spacing:
        _log.warning("Slices are unevenly spaced: positions are off by up to %.2g mm.", unevenness)
    return spacing


def _read_stack(slices: Sequence[_Slice], folder: Path) -> sitk.Image:
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames([str(slice_.path) for slice_ in slices])
    if len({(s.header.get("RescaleSlope"), s.header.get("RescaleIntercept")) for s in slices}) > 1:
        # Otherwise the first slice decides the type of voxel, and another slice's fractions would be cut off.
        reader.SetOutputPixelType(sitk.sitkFloat32)
    try:
        return as_volume(reader.Execute(), folder)
    except RuntimeError as error:
        raise _broken_pixels(folder) from error


def _read_pixels(paths: Sequence[Path], shown: Path) -> sitk.Image:
    try:
        return sitk.ReadImage([str(path) for path in paths], imageIO="GDCMImageIO")
    except RuntimeError as error:
        raise _broken_pixels(shown) from error


def _read_multiframe(path: Path) -> sitk.Image:
    """Through highdicom, which knows the functional groups that place the frames of an enhanced image; ITK reads only some of them."""
    try:
        return as_volume(image_of(hd.imread(path).get_volume(dtype=np.float32)), path)
    except (RuntimeError, ValueError, AttributeError, KeyError, NotImplementedError) as error:
        raise InputError(
            f"The frames of the DICOM file {str(path)!r} don't form a volume.",
            "It is a film, or its frames do not say where in the patient they lie, or they are compressed in a way that can't be read.",
            "Load it in 3D Slicer and save the volume as a file.",
        ) from error


def _broken_pixels(path: Path) -> InputError:
    return unreadable(path, "The pixels of a DICOM file are damaged, incomplete or compressed in an unknown way.")


def _with_modality(image: sitk.Image, header: pydicom.Dataset) -> sitk.Image:
    """Of the metadata only the modality is kept: the rest may identify the patient."""
    for key in image.GetMetaDataKeys():
        image.EraseMetaData(key)
    if header.get("Modality"):
        image.SetMetaData(MODALITY_KEY, str(header.Modality))
    return image
