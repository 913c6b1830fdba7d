"""Where structures lie and how far they reach, in patient space; reads each label map once, however many structures it holds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from ..imaging.grids import index_to_world
from ..imaging.segmentation import Segmentation, Structure

Box = tuple[slice, slice, slice]

# find_objects makes a list as long as the largest label.
_LARGEST_DIRECT_LABEL = 1 << 16
# Enough of a structure's voxels to tell which share of them lies somewhere.
_SAMPLE = 2000


@dataclass(frozen=True, eq=False)
class Shape:
    """A structure that has voxels.

    ``box`` (z, y, x) holds all of them. ``centroid`` and ``extents`` are along the axes of the patient (LPS: left, posterior, superior), in
    mm; extents reach from outer face to outer face of the voxels. ``surface`` (n, 3) are the outermost voxels of every row and ``sample``
    (n, 3) are some of all voxels: their centres in patient space. ``is_cut`` says that it touches the border of the volume.
    """

    voxels: int
    box: Box
    centroid: np.ndarray
    extents: np.ndarray
    surface: np.ndarray
    sample: np.ndarray
    is_cut: bool


def shapes(
    segmentation: Segmentation, structures: Iterable[Structure], checkpoint: Callable[[], None] = lambda: None
) -> dict[Structure, Shape]:
    """The shapes of those structures that have a voxel, in the given order; ``checkpoint`` is called before each and may raise to stop."""
    structures = tuple(structures)
    boxes: dict[int, Mapping[int, Box]] = {}
    for layer in {structure.layer for structure in structures}:
        boxes[layer] = label_boxes(sitk.GetArrayViewFromImage(segmentation.layers[layer]))
    affine = index_to_world(segmentation.labelmap)
    size = segmentation.labelmap.GetSize()[::-1]
    out = {}
    for structure in structures:
        checkpoint()
        box = boxes[structure.layer].get(structure.label)
        if box is not None:
            out[structure] = _shape(voxels_in(segmentation, structure, box), box, affine, size)
    return out


def label_boxes(labels: np.ndarray) -> dict[int, Box]:
    """The smallest box that holds all voxels of a label, for each but 0; labels may be of any size."""
    if labels.max(initial=0) <= _LARGEST_DIRECT_LABEL:
        return {number: box for number, box in enumerate(ndimage.find_objects(labels), start=1) if box is not None}
    values, numbers = np.unique(labels, return_inverse=True)
    boxes = ndimage.find_objects(numbers.reshape(labels.shape) + 1)
    return {int(value): box for value, box in zip(values, boxes, strict=True) if value}


def voxels_in(segmentation: Segmentation, structure: Structure, box: Box) -> np.ndarray:
    """The part of ``Segmentation.array`` in a box, without making the whole."""
    labels: np.ndarray = sitk.GetArrayViewFromImage(segmentation.layers[structure.layer])[box]
    return labels == structure.label


def _shape(mask: np.ndarray, box: Box, affine: np.ndarray, size: tuple[int, ...]) -> Shape:
    start = np.array([side.start for side in box])
    planes = mask.sum(axis=2, dtype=np.int64)
    profiles = (planes.sum(axis=1), planes.sum(axis=0), mask.sum(axis=(0, 1), dtype=np.int64))
    voxels = int(planes.sum())
    middle = np.array([profile @ np.arange(len(profile)) / voxels for profile in profiles]) + start
    surface = _world(_row_ends(mask, planes) + start, affine)
    flat = np.flatnonzero(mask)
    sample = np.stack(np.unravel_index(flat[:: max(1, len(flat) // _SAMPLE)], mask.shape), axis=1) + start
    # A single slice is cut by its faces, and that says nothing.
    is_cut = any(extent > 1 and (side.start == 0 or side.stop == extent) for side, extent in zip(box, size, strict=True))
    return Shape(
        voxels,
        box,
        _world(middle[None], affine)[0],
        np.ptp(surface, axis=0) + np.abs(affine[:3, :3]).sum(axis=1),
        surface,
        _world(sample, affine),
        is_cut,
    )


def _row_ends(mask: np.ndarray, planes: np.ndarray) -> np.ndarray:
    """The first and the last voxel (z, y, x) of every row: no voxel of the structure lies outside of their convex hull."""
    z, y = np.nonzero(planes)
    rows = mask[z, y]
    first = rows.argmax(axis=1)
    last = rows.shape[1] - 1 - rows[:, ::-1].argmax(axis=1)
    return np.concatenate([np.stack([z, y, x], axis=1) for x in (first, last)])


def _world(indices: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """Patient space (LPS, mm) of indices (n, 3) in the order (z, y, x)."""
    return indices[:, ::-1] @ affine[:3, :3].T + affine[:3, 3]
