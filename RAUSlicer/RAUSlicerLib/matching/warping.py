"""Carries a reference's structures to a target through a transform."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import SimpleITK as sitk

from ..imaging.names import same_structure
from ..imaging.segmentation import Reference, Structure
from ..progress import CancelToken, ProgressCallback, ProgressEvent
from ..results import SoftMask


def warp_mask(mask: sitk.Image, transform: sitk.Transform, target: sitk.Image) -> np.ndarray:
    """A 0/1 mask of the reference on the target's grid.

    Args:
        mask: Mask on the reference's grid.
        transform: Maps target points to reference points (LPS, mm).
        target: Gives the grid.

    Returns:
        Probabilities, float32, shape (z, y, x) of the target.
    """
    return sitk.GetArrayFromImage(sitk.Resample(sitk.Cast(mask, sitk.sitkFloat32), target, transform, sitk.sitkLinear, 0.0))


def warp_structures(
    reference: Reference,
    structures: Sequence[Structure],
    transform: sitk.Transform,
    target: sitk.Image,
    progress: ProgressCallback,
    cancel: CancelToken,
) -> dict[Structure, SoftMask]:
    """Several structures on the target's grid, each kept in its own box; those outside of the target's field of view come out empty.

    ``structures`` may come from another reference: they are found by name in this one, and left out where it lacks them. Structures that
    are not reached before a cancel are left out.
    """
    segmentation = reference.segmentation
    # One label map tells where each structure lands; the costly linear interpolation is then done in that box alone.
    landed = [sitk.GetArrayFromImage(sitk.Resample(layer, target, transform, sitk.sitkNearestNeighbor, 0)) for layer in segmentation.layers]
    warped: dict[Structure, SoftMask] = {}
    for number, structure in enumerate(structures):
        if cancel.cancelled:
            break
        own = same_structure(segmentation, structure)
        if own is not None:
            box = _box(landed[own.layer] == own.label, margin=2)
            grid = target[box[2], box[1], box[0]]
            values = warp_mask(segmentation.mask(own), transform, grid)
            warped[structure] = SoftMask(values, (box[0].start, box[1].start, box[2].start), target)
        progress(ProgressEvent("warping", (number + 1) / len(structures), structure.name))
    return warped


def merge(masks: Sequence[SoftMask], weights: Sequence[float]) -> SoftMask:
    """The weighted mean of masks on one grid; weights need not add up to one."""
    low = np.min([mask.start for mask in masks], axis=0)
    high = np.max([np.add(mask.start, mask.values.shape) for mask in masks], axis=0)
    total = np.zeros(high - low, dtype=np.float32)
    for mask, weight in zip(masks, weights, strict=True):
        total[inside(mask, low)] += np.float32(weight / sum(weights)) * mask.values
    return SoftMask(total, (int(low[0]), int(low[1]), int(low[2])), masks[0].grid)


def inside(mask: SoftMask, start: Sequence[int] | np.ndarray = (0, 0, 0)) -> tuple[slice, slice, slice]:
    """Where a mask's values lie in an array whose first voxel is ``start`` (z, y, x) of the grid."""
    z, y, x = (
        slice(int(first - offset), int(first - offset + n)) for first, offset, n in zip(mask.start, start, mask.values.shape, strict=True)
    )
    return z, y, x


def _box(mask: np.ndarray, margin: int) -> tuple[slice, slice, slice]:
    """Slices (z, y, x) around the true voxels and ``margin`` beyond; one voxel where there are none."""
    if not mask.any():
        return slice(0, 1), slice(0, 1), slice(0, 1)
    sides = []
    for axis in range(3):
        hits = np.flatnonzero(mask.any(axis=tuple(other for other in range(3) if other != axis)))
        sides.append(slice(max(int(hits[0]) - margin, 0), min(int(hits[-1]) + 1 + margin, mask.shape[axis])))
    return sides[0], sides[1], sides[2]
