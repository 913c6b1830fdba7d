"""What a user has corrected of one structure, and how that changes the rest of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk

from ..errors import InputError
from ..imaging.frame import canonical
from ..imaging.grids import index_to_world, same_grid, with_grid_of

Corner = tuple[float, float, float]


@dataclass(frozen=True)
class Correction:
    """A user's correction of one structure in the target.

    ``structure`` is a segment id or a name of the reference's. ``mask`` is the whole structure as it is now, painted slices included, on
    the target's own grid: voxels that are not 0 belong to it. ``slices`` are all planes that were painted since the structure was last
    computed from nothing, as (axis, index): axis 0, 1, 2 is the image's own i, j, k (x, y, z of a SimpleITK index), whatever direction it
    has. They come back voxel by voxel as they are in ``mask``; an empty plane says that the structure is not there. ``box_mm`` is where the
    user has moved its box to, two opposite corners in patient space (LPS, mm). One of ``slices`` and ``box_mm`` is needed.
    """

    structure: str
    mask: sitk.Image | None = None
    slices: tuple[tuple[int, int], ...] = ()
    box_mm: tuple[Corner, Corner] | None = None


@dataclass(frozen=True)
class Painted:
    """A correction's planes in the target's canonical frame: ``truth`` booleans (z, y, x), ``planes`` as (array axis, index)."""

    truth: np.ndarray
    planes: tuple[tuple[int, int], ...]


def check_correction(correction: Correction, target: sitk.Image) -> Correction:
    """The correction with its mask on exactly the target's grid.

    Raises:
        InputError: there is neither a painted slice nor a box, the mask is missing or on another grid, or a slice does not exist.
    """
    if not correction.slices and correction.box_mm is None:
        raise InputError(
            f"Nothing of {correction.structure!r} was changed.",
            "A correction needs at least one painted slice or a moved box.",
            "Paint on a slice of the structure, or move its box, and update again.",
        )
    box = correction.box_mm
    if box is not None and not (np.isfinite(box).all() and np.ptp(box, axis=0).min() > 0):
        raise InputError(
            f"The box {box!r} holds nothing.", "Its corners are positions in mm and differ along every axis.", "Draw the box again."
        )
    if not correction.slices:
        return correction
    if correction.mask is None or not same_grid(correction.mask, target):
        raise InputError(
            f"The corrected mask of {correction.structure!r} is not on the target's grid.",
            f"The target has {target.GetSize()} voxels, the mask {None if correction.mask is None else correction.mask.GetSize()}.",
            "Export the segment on the target's reference geometry.",
        )
    for axis, index in correction.slices:
        if axis not in (0, 1, 2) or not 0 <= index < target.GetSize()[axis]:
            raise InputError(
                f"There is no slice {index} along axis {axis}.",
                f"The target has {target.GetSize()} voxels along its axes 0, 1 and 2.",
                "Name slices by the target's own voxel indices, from 0 on.",
            )
    slices = tuple(dict.fromkeys((int(axis), int(index)) for axis, index in correction.slices))
    return Correction(correction.structure, with_grid_of(correction.mask != 0, target), slices, correction.box_mm)


def painted(correction: Correction, target: sitk.Image) -> Painted:
    """A checked correction's planes in the canonical frame."""
    assert correction.mask is not None
    frame = canonical(correction.mask, target)
    # Columns: where the target's own axes lie among the canonical ones. Both are the same lines in space, so this is a permutation.
    turn = np.linalg.inv(index_to_world(frame)[:3, :3]) @ index_to_world(target)[:3, :3]
    planes = []
    for axis, index in correction.slices:
        across = int(np.argmax(np.abs(turn[:, axis])))
        size = target.GetSize()[axis]
        planes.append((2 - across, index if turn[across, axis] > 0 else size - 1 - index))
    return Painted(sitk.GetArrayFromImage(frame) > 0, tuple(planes))


def restore(labels: np.ndarray, correction: Correction, label: int) -> None:
    """Put the painted planes into an array (z, y, x) on the target's own grid, voxel by voxel; nothing else is touched."""
    assert correction.mask is not None or not correction.slices
    mask = None if correction.mask is None else sitk.GetArrayViewFromImage(correction.mask) > 0
    for axis, index in correction.slices:
        plane: list[slice | int] = [slice(None)] * 3
        plane[2 - axis] = index
        assert mask is not None
        labels[tuple(plane)] = np.where(mask[tuple(plane)], label, 0)


def painted_share(labels: np.ndarray, correction: Correction) -> float:
    """Share of a structure's voxels that lie on painted planes, for labels (z, y, x) on the target's own grid."""
    on_planes = np.zeros(labels.shape, bool)
    for axis, index in correction.slices:
        plane: list[slice | int] = [slice(None)] * 3
        plane[2 - axis] = index
        on_planes[tuple(plane)] = True
    inside = labels > 0
    return float((inside & on_planes).sum() / max(int(inside.sum()), 1))
