"""What lies at a point or in a marked region, what is nearest to it, and where a structure lies; from the segmentation's voxels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import SimpleITK as sitk

from ..errors import InputError
from ..imaging.grids import index_to_world
from ..imaging.segmentation import Segmentation, Structure

Point = tuple[float, float, float]

# The nearest structure is looked for in a box around the point that grows by this factor until it holds one.
_FIRST_MM = 8.0
_GROWTH = 2.0
# A kilometre: no scanner's coordinates reach so far, and much larger numbers can't be counted with.
_FARTHEST_MM = 1e6


def check_point(point: Point) -> Point:
    """The point (LPS, mm), as it is.

    Raises:
        InputError: it is not a place: a coordinate is no number, infinite, or beyond any scanner's.
    """
    if all(-_FARTHEST_MM <= value <= _FARTHEST_MM for value in point):
        return point
    raise InputError(
        f"The point ({', '.join(f'{value:g}' for value in point)}) is not a place.",
        f"Coordinates are numbers of millimetres, of at most {_FARTHEST_MM:.0f}.",
        "Give the three coordinates of a point in the image.",
    )


def voxel_at(grid: sitk.Image, point: Point) -> tuple[int, int, int] | None:
    """The index (x, y, z) of the voxel that holds a point (LPS, mm); None outside of the image."""
    index = grid.TransformPhysicalPointToIndex(check_point(point))
    inside = all(0 <= value < size for value, size in zip(index, grid.GetSize(), strict=True))
    return (int(index[0]), int(index[1]), int(index[2])) if inside else None


def structures_at(segmentation: Segmentation, point: Point) -> tuple[Structure, ...]:
    """All structures that hold a point (LPS, mm), of every layer."""
    index = voxel_at(segmentation.labelmap, point)
    if index is None:
        return ()
    labels = [int(layer[index]) for layer in segmentation.layers]
    return tuple(structure for structure in segmentation.structures if labels[structure.layer] == structure.label)


def nearest(segmentation: Segmentation, point: Point) -> tuple[Structure, float] | None:
    """The structure with the voxel that is nearest to a point (LPS, mm), and the distance to that voxel's centre in mm.

    None where no structure has a voxel.
    """
    grid = segmentation.labelmap
    spacing, size = np.array(grid.GetSpacing()), np.array(grid.GetSize())
    at = np.array(grid.TransformPhysicalPointToContinuousIndex(check_point(point)))
    # From a point outside of the image, the box has to reach it first.
    reach = _FIRST_MM + float(np.linalg.norm((np.clip(at, 0, size - 1) - at) * spacing))
    while True:
        low = np.clip(np.floor(at - reach / spacing), 0, size - 1).astype(int)
        high = np.clip(np.ceil(at + reach / spacing), 0, size - 1).astype(int) + 1
        found = _nearest_in(segmentation, at, spacing, low, high)
        everything = not low.any() and bool((high == size).all())
        # A voxel in a corner of the box may be farther than one outside of it.
        if everything or (found is not None and found[1] <= reach):
            return found
        reach *= _GROWTH


def _nearest_in(
    segmentation: Segmentation, at: np.ndarray, spacing: np.ndarray, low: np.ndarray, high: np.ndarray
) -> tuple[Structure, float] | None:
    best: tuple[Structure, float] | None = None
    box = tuple(slice(int(low[axis]), int(high[axis])) for axis in (2, 1, 0))
    for number, layer in enumerate(segmentation.layers):
        known = {structure.label: structure for structure in segmentation.structures if structure.layer == number}
        labels = sitk.GetArrayViewFromImage(layer)[box]
        voxels = np.argwhere(np.isin(labels, list(known)))
        if not len(voxels):
            continue
        distances = np.linalg.norm((voxels[:, ::-1] + low - at) * spacing, axis=1)
        first = int(np.argmin(distances))
        if best is None or distances[first] < best[1]:
            best = known[int(labels[tuple(voxels[first])])], float(distances[first])
    return best


def distance_outside(grid: sitk.Image, point: Point) -> float:
    """How far a point (LPS, mm) lies outside of an image, in mm; 0 inside."""
    at, size = np.array(grid.TransformPhysicalPointToContinuousIndex(check_point(point))), np.array(grid.GetSize())
    return float(np.linalg.norm((np.clip(at, -0.5, size - 0.5) - at) * np.array(grid.GetSpacing())))


def shares(segmentation: Segmentation, region: np.ndarray) -> list[tuple[Structure, float]]:
    """The structures in a region (z, y, x; booleans on the segmentation's grid) with the share of its voxels they hold, most first."""
    size = int(region.sum())
    if not size:
        return []
    out = []
    for number, layer in enumerate(segmentation.layers):
        labels, counts = np.unique(sitk.GetArrayViewFromImage(layer)[region], return_counts=True)
        inside = dict(zip(labels.tolist(), counts.tolist(), strict=True))
        own = [structure for structure in segmentation.structures if structure.layer == number and structure.label in inside]
        out += [(structure, inside[structure.label] / size) for structure in own]
    return sorted(out, key=lambda item: -item[1])


def centre(grid: sitk.Image, voxels: np.ndarray) -> Point | None:
    """The centre of gravity (LPS, mm) of true voxels (z, y, x) on a grid; None where there are none."""
    total = int(voxels.sum())
    if not total:
        return None
    index = [float((voxels.sum(axis=others, dtype=np.int64) * np.arange(size)).sum() / total) for size, others in _profiles(voxels)]
    x, y, z = (index_to_world(grid) @ (*index, 1.0))[:3].tolist()
    return x, y, z


def union(segmentation: Segmentation, structures: Sequence[Structure]) -> np.ndarray:
    """The voxels of several structures together: booleans (z, y, x)."""
    voxels = np.zeros(segmentation.labelmap.GetSize()[::-1], bool)
    for number, layer in enumerate(segmentation.layers):
        labels = [structure.label for structure in structures if structure.layer == number]
        if labels:
            voxels |= np.isin(sitk.GetArrayViewFromImage(layer), labels)
    return voxels


def _profiles(voxels: np.ndarray) -> list[tuple[int, tuple[int, ...]]]:
    """For x, y and z: the size of an array (z, y, x) along it, and the array's other axes."""
    return [(voxels.shape[axis], tuple(other for other in range(3) if other != axis)) for axis in (2, 1, 0)]
