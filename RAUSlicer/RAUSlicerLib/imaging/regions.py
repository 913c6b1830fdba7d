"""Reads a region that somebody marked in a volume: a segmentation, or any image that is not 0 there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import SimpleITK as sitk

from ..errors import InputError
from . import slicer_seg_nrrd
from .checks import align_segmentation
from .dicom import is_dicom
from .files import read_segmentation, read_volume
from .grids import from_array
from .image_file import VOLUME_SUFFIXES, as_volume, has_suffix, read_image, require_exists
from .places import keep_places
from .segmentation import Segmentation, Structure


def read_region(path: Path, volume: sitk.Image) -> tuple[np.ndarray, list[str]]:
    """Where a volume is marked.

    Args:
        path: A segmentation, of which every structure counts, or an image of any numbers; NaN is background, as 0 is.
        volume: The image in which the region lies; a region of another grid is brought onto its own.

    Returns:
        Booleans of shape (z, y, x) on the volume's grid, and sentences for the user.

    Raises:
        InputError: the file can't be read, marks nothing, has lost its place in the patient, or lies outside of the volume.
    """
    found = require_exists(path, "region")
    image = read_image(found) if has_suffix(found, VOLUME_SUFFIXES) else None
    described = image is not None and slicer_seg_nrrd.has_segments(image)
    if described or has_suffix(found, (".png",)) or (image is None and found.is_file() and is_dicom(found)):
        segmentation = read_segmentation(found, volume)
    else:
        segmentation = _marked(read_volume(found) if image is None else as_volume(image, found))
    if not any(sitk.GetArrayViewFromImage(layer).any() for layer in segmentation.layers):
        raise InputError(
            f"The region {str(path)!r} is empty.", "No voxel of it is marked.", "Mark voxels of the target, or choose another file."
        )
    aligned, warnings = align_segmentation(segmentation, volume, what=f"region {str(path)!r}", expect_empty=True)
    return np.any([sitk.GetArrayViewFromImage(layer) != 0 for layer in aligned.layers], axis=0), warnings


def _marked(image: sitk.Image) -> Segmentation:
    array = sitk.GetArrayViewFromImage(image)
    # NaN is not 0, but what programs write where there is nothing.
    marked = from_array(((array != 0) & ~np.isnan(array)).astype(np.uint8), image)
    return Segmentation(keep_places(image, marked), (Structure(1, "the marked region"),))
