"""Volumes in DICOM: a folder with the slices of a series, a multi-frame file, or a single radiograph."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import SimpleITK as sitk

from ..errors import InputError
from ..support.notices import hushed, silent
from .dicom_pixels import broken_pixels, read_planes
from .dicom_planes import Plane, is_dicom, look_into, text
from .dicom_series import find_series, look_through
from .dicom_stack import stack
from .grids import with_geometry
from .image_file import unreadable
from .radiograph import as_gray_volume

__all__ = ["MODALITY_KEY", "is_dicom", "read_dicom_file", "read_dicom_folder", "source_planes"]

MODALITY_KEY = "0008|0060"

_log = logging.getLogger(__name__)


def source_planes(path: Path) -> tuple[Plane, ...]:
    """The stored planes that a DICOM file or folder is read from: the k-th lies at the volume's slice k.

    A radiograph is one plane without a position. Nothing but headers is read, and nothing is warned of: reading the pixels does that.
    """
    with silent():
        planes, what = _folder_planes(path) if path.is_dir() else _file_planes(path)
        return tuple(planes) if _is_radiograph(planes) else stack(planes, what).planes


@hushed()
def read_dicom_folder(folder: Path) -> sitk.Image:
    """Read a folder of DICOM slices as a volume in rescaled units (HU for CT).

    Subfolders are searched for slices of the same series, and for any if the folder holds none itself. Of several series the one with
    most voxels is taken, with a logged warning.

    Raises:
        InputError: no images, several patients, damaged, missing or unevenly spaced slices, several images at a position, tilted gantry,
            pixels that can't be decoded.
    """
    return _read(*_folder_planes(folder))


@hushed()
def read_dicom_file(path: Path) -> sitk.Image:
    """Read one DICOM file: a radiograph or slice as a volume of one slice, a multi-frame file as a volume.

    Dark-on-bright images (MONOCHROME1) come out inverted, as ITK does it: dense tissue is bright as everywhere else. Images in units
    (CT, PET) keep their values.

    Raises:
        InputError: the file holds no image, a segmentation, a film, several volumes in one, or damaged pixel data.
    """
    planes, what = _file_planes(path)
    image = _read(planes, what)
    if planes[0].position is not None:
        _warn_of_siblings(planes)
    return image


def _folder_planes(folder: Path) -> tuple[list[Plane], str]:
    return find_series(folder), f"series in the folder {str(folder)!r}"


def _file_planes(path: Path) -> tuple[list[Plane], str]:
    file = look_into(path)
    if file is None:
        raise unreadable(path, "It is not a DICOM file, or its header is damaged.")
    if file.fault is not None:
        raise file.fault
    if not file.planes:
        raise InputError(
            f"The DICOM file {str(path)!r} holds no image.",
            f"Its modality is {text(file.header, 'Modality') or 'not stated'}.",
            "Give the image series; a DICOM segmentation goes where a segmentation is asked for.",
        )
    return list(file.planes), f"DICOM file {str(path)!r}"


def _is_radiograph(planes: Sequence[Plane]) -> bool:
    """Whether this is a single image without a place in space, or one whose pixels are measured at the detector."""
    return len(planes) == 1 and (planes[0].position is None or (planes[0].spacing is None and "ImagerPixelSpacing" in planes[0].header))


def _read(planes: Sequence[Plane], what: str) -> sitk.Image:
    if _is_radiograph(planes):
        try:
            image = as_gray_volume(sitk.ReadImage([str(planes[0].path)], imageIO="GDCMImageIO"))
        except RuntimeError as error:
            raise broken_pixels(planes[0].path) from error
    else:
        placed = stack(planes, what)
        image = with_geometry(read_planes(placed.planes), placed.origin, placed.spacing, placed.axes.T)
    return _with_modality(image, planes[0])


def _with_modality(image: sitk.Image, plane: Plane) -> sitk.Image:
    """Of the metadata only the modality is kept: the rest may identify the patient."""
    for key in image.GetMetaDataKeys():
        image.EraseMetaData(key)
    if modality := text(plane.header, "Modality"):
        image.SetMetaData(MODALITY_KEY, modality)
    return image


def _warn_of_siblings(planes: Sequence[Plane]) -> None:
    path, header = planes[0].path, planes[0].header
    try:
        siblings = [
            file for file in look_through(path.parent.iterdir()) if file.planes and file.series == text(header, "SeriesInstanceUID")
        ]
    except OSError:
        siblings = []
    total = text(header, "InConcatenationTotalNumber")
    if len(siblings) > 1:
        what = "slices" if len(planes) == 1 else "files of its series"
        _log.warning("The file is one of %d %s in its folder and the only one read; give the folder to read all.", len(siblings), what)
    elif total.isdigit() and int(total) > 1:
        _log.warning("The file is one of %s parts of an image (a concatenation) and the only one read.", total)
