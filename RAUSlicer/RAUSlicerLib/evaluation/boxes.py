"""Boxes around structures, in voxels and in mm. Methods need them too, so nothing heavy is imported here."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

# Two opposite corners of an axis-aligned box in patient space (LPS, mm).
Box = tuple[tuple[float, float, float], tuple[float, float, float]]


def box_iou(first: np.ndarray, second: np.ndarray) -> float:
    """Intersection over union of the boxes around two masks of one shape, both with at least one voxel."""
    one, other = (np.array([(side.start, side.stop) for side in index_box(mask)]).T for mask in (first, second))
    return corner_iou(one, other)


def mask_box(mask: np.ndarray, grid: sitk.Image) -> Box | None:
    """The axis-aligned box in patient space around the whole voxels of a mask (z, y, x); None if it has none."""
    if not mask.any():
        return None
    sides = [(side.start - 0.5, side.stop - 0.5) for side in index_box(mask)[::-1]]
    return box_around([grid.TransformContinuousIndexToPhysicalPoint(corner) for corner in product(*sides)])


def box_around(points: Sequence[Sequence[float]]) -> Box:
    """The axis-aligned box around points (LPS, mm)."""
    low, high = np.min(points, axis=0), np.max(points, axis=0)
    return (float(low[0]), float(low[1]), float(low[2])), (float(high[0]), float(high[1]), float(high[2]))


def corner_iou(first: np.ndarray, second: np.ndarray) -> float:
    """Intersection over union of two boxes (2, D), lower and upper corner; 0 where both are points."""
    shared = np.clip(np.minimum(first[1], second[1]) - np.maximum(first[0], second[0]), 0, None).prod()
    either = (first[1] - first[0]).prod() + (second[1] - second[0]).prod() - shared
    return float(shared / either) if either > 0 else 0.0


def index_box(mask: np.ndarray) -> tuple[slice, ...]:
    """Slices around the true voxels of a mask, one for each of its axes; there is at least one true voxel."""
    box: tuple[slice, ...] = ndimage.find_objects(mask.astype(np.uint8))[0]
    return box
