"""Label maps in plain image files: reading them with names from a labels.json, and merging a segmentation's layers into one."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from ..errors import InputError, OutputError
from .palette import label_color
from .segmentation import Segmentation, Structure

NAMES_FILE = "labels.json"

_MOST_LABELS = 1000
_log = logging.getLogger(__name__)


def read_names(folder: Path) -> dict[int, str]:
    """Names by label value from a folder's ``labels.json``; a file of another form is ignored with a logged warning."""
    path = folder / NAMES_FILE
    if not path.is_file():
        return {}
    try:
        names = {int(value): name for value, name in json.loads(path.read_text(encoding="utf-8-sig")).items()}
    except (OSError, ValueError, AttributeError, TypeError):
        names = {}
    if not names or not all(isinstance(name, str) for name in names.values()):
        _log.warning("The %s beside the segmentation is not of the form {value: name} and is ignored.", NAMES_FILE)
        return {}
    return names


def segmentation_of(image: sitk.Image, path: Path, names: dict[int, str]) -> Segmentation:
    """The segmentation that a label image holds, in the smallest integer type that keeps its values.

    Raises:
        InputError: voxels are fractions, negative, or too many different values to be labels; the message repeats ``path``.
    """
    labelmap = as_labels(image, path)
    labels = present_labels(labelmap)
    if len(labels) > _MOST_LABELS:
        raise _not_labels(path, f"{len(labels)} different values")
    return Segmentation(labelmap, tuple(Structure(label, names.get(label, f"label {label}"), label_color(label)) for label in labels))


def as_labels(image: sitk.Image, path: Path) -> sitk.Image:
    """The image's whole numbers in the smallest unsigned type that holds them, without metadata.

    Raises:
        InputError: voxels are fractions, undefined, negative or above 32 bits; the message repeats ``path``.
    """
    array = sitk.GetArrayViewFromImage(image)
    if array.size == 0:
        return sitk.Cast(image, sitk.sitkUInt8)
    if array.dtype.kind == "f" and not (np.isfinite(array).all() and np.array_equal(array, np.rint(array))):
        raise _not_labels(path, "fractions or undefined values")
    if array.min() < 0:
        raise _not_labels(path, f"negative values, down to {int(array.min())}")
    if array.max() > np.iinfo(np.uint32).max:
        raise _not_labels(path, f"values up to {int(array.max())}")
    integers = sitk.GetImageFromArray(array.astype(smallest_type(int(array.max()))))
    integers.CopyInformation(image)
    return integers


def present_labels(labelmap: sitk.Image) -> list[int]:
    """The values other than 0 that occur, ascending."""
    return [int(label) for label in label_counts(labelmap)]


def label_counts(labelmap: sitk.Image) -> dict[int, int]:
    """How many voxels each value other than 0 has."""
    array = sitk.GetArrayViewFromImage(labelmap)
    if array.size == 0:
        return {}
    largest = int(array.max())
    if largest < 1 << 16:
        # Counting into bins needs no sort and is some ten times faster than np.unique; by slices, because it copies to 64 bits.
        counts = sum((np.bincount(plane.ravel(), minlength=largest + 1) for plane in array), np.zeros(largest + 1, np.int64))
        return {int(label): int(counts[label]) for label in np.flatnonzero(counts) if label}
    values, occurrences = np.unique(array, return_counts=True)
    return {int(value): int(count) for value, count in zip(values, occurrences, strict=True) if value}


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
    image = sitk.GetImageFromArray(merged)
    image.CopyInformation(segmentation.labelmap)
    return image


def smallest_type(largest: int) -> type[np.unsignedinteger]:
    """The smallest unsigned integer type that holds a value of up to 32 bits."""
    return next((dtype for dtype in (np.uint8, np.uint16) if largest <= np.iinfo(dtype).max), np.uint32)


def _not_labels(path: Path, found: str) -> InputError:
    return InputError(
        f"The segmentation {str(path)!r} is not a label map: it holds {found}.",
        "A label map has a whole number a voxel: 0 for background and one value a structure.",
        "Check that the segmentation and the image were not exchanged; export the segmentation as a label map or as .seg.nrrd.",
    )
