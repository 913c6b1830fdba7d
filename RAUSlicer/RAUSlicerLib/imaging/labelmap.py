"""Label maps in plain image files: reading them with the names of their structures, and merging a segmentation's layers into one."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from ..errors import InputError, OutputError
from .grids import from_array
from .label_names import find_names
from .label_values import value_counts
from .palette import label_color
from .places import keep_places
from .segmentation import Segmentation, Structure

_log = logging.getLogger(__name__)

_MOST_LABELS = 1000
# What a label may be off a whole number: far more than rounding, far less than what interpolation makes.
_ROUNDING = 0.01


def segmentation_of(image: sitk.Image, path: Path, names: Mapping[int, str] | None = None) -> Segmentation:
    """The segmentation that a label image holds, in the smallest integer type that keeps its values.

    Without ``names`` they are as ``find_names`` has them.

    Raises:
        InputError: voxels are fractions, negative, or too many different values to be labels; the message repeats ``path``.
    """
    labelmap = as_labels(image, path)
    labels = present_labels(labelmap)
    if len(labels) > _MOST_LABELS:
        raise _not_labels(path, f"{len(labels)} different values")
    names = find_names(path, labels) if names is None else names
    return Segmentation(labelmap, tuple(Structure(label, names.get(label, f"label {label}"), label_color(label)) for label in labels))


def as_labels(image: sitk.Image, path: Path) -> sitk.Image:
    """The image's whole numbers in the smallest unsigned type that holds them; of the metadata only a second place is kept.

    Numbers that are whole but for rounding, as some programs store them, are made whole, which is logged as a warning.

    Raises:
        InputError: voxels are fractions, undefined, negative or above 32 bits; the message repeats ``path``.
    """
    array = sitk.GetArrayViewFromImage(image)
    if array.size == 0:
        return sitk.Cast(image, sitk.sitkUInt8)
    off = 0.0
    if array.dtype.kind == "f":
        if not np.isfinite(array).all():
            raise _not_labels(path, "fractions or undefined values")
        whole = np.rint(array)
        off = float(np.abs(array - whole).max())
        if off > _ROUNDING:
            raise _not_labels(path, "fractions or undefined values")
        array = whole
    if array.min() < 0:
        raise _not_labels(path, f"negative values, down to {int(array.min())}")
    if array.max() > np.iinfo(np.uint32).max:
        raise _not_labels(path, f"values up to {int(array.max())}")
    integers = from_array(array.astype(smallest_type(int(array.max()))), image)
    if off:
        _log.warning("The labels in %r are off whole numbers by up to %.2g; the nearest whole ones were taken.", path.name, off)
    return keep_places(image, integers)


def present_labels(labelmap: sitk.Image) -> list[int]:
    """The values other than 0 that occur, ascending."""
    return [int(label) for label in label_counts(labelmap)]


def label_counts(labelmap: sitk.Image) -> dict[int, int]:
    """How many voxels each value other than 0 has."""
    return value_counts(sitk.GetArrayViewFromImage(labelmap))


def merge_layers(segmentation: Segmentation, path: Path) -> sitk.Image:
    """One label map that holds every structure under its own label value.

    Raises:
        OutputError: structures overlap or share a label value, so that one label map would lose some.
    """
    if not segmentation.overlays:
        return segmentation.labelmap
    labels = [structure.label for structure in segmentation.structures]
    merged = np.zeros_like(sitk.GetArrayViewFromImage(segmentation.labelmap), dtype=smallest_type(max(labels, default=0)))
    overlap = False
    for layer in segmentation.layers:
        array = sitk.GetArrayViewFromImage(layer)
        overlap = overlap or bool(np.any((merged != 0) & (array != 0)))
        merged = np.where(array != 0, array, merged).astype(merged.dtype)
    if overlap or len(set(labels)) < len(labels):
        raise OutputError(
            f"The segmentation can't be written as one label map to {str(path)!r}.",
            "Some of its structures overlap or share a label value, and a label map holds one structure a voxel.",
            "Choose an output name that ends in .seg.nrrd, which keeps overlapping structures.",
        )
    return from_array(merged, segmentation.labelmap)


def smallest_type(largest: int) -> type[np.unsignedinteger]:
    """The smallest unsigned integer type that holds a value of up to 32 bits."""
    return next((dtype for dtype in (np.uint8, np.uint16) if largest <= np.iinfo(dtype).max), np.uint32)


def _not_labels(path: Path, found: str) -> InputError:
    return InputError(
        f"The segmentation {str(path)!r} is not a label map: it holds {found}.",
        "A label map has a whole number a voxel: 0 for background and one value a structure.",
        "Check that the segmentation and the image were not exchanged; export the segmentation as a label map with values from 0 to "
        "4294967295, or as .seg.nrrd.",
    )
