"""Which slices of a segment the user has painted since a run wrote it."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import slicer
import vtk

from .geometry import array_of, geometry_of, transform_between
from .record import BINARY, Plane


class Baselines:
    """What runs wrote last, segment by segment, to compare with what the user has made of it.

    They live in memory only: after a scene is loaded, the comparison is with what was loaded.
    """

    def __init__(self) -> None:
        self._kept: dict[tuple[str, str], _Snapshot] = {}
        self._answers: dict[tuple[str, str], tuple[tuple, tuple[Plane, ...]]] = {}

    def take(self, node, ids: Iterable[str]) -> dict:
        """Remember segments as they are now, and return what was remembered of them before, for ``put_back``."""
        before, layers = {}, {}
        for id_ in ids:
            segment = node.GetSegmentation().GetSegment(id_)
            image = segment.GetRepresentation(BINARY)
            if image is not None and image not in layers:
                # One copy a layer: 116 structures of a brain cost no more than one.
                layers[image] = slicer.vtkOrientedImageData()
                layers[image].DeepCopy(image)
            key = (node.GetID(), id_)
            before[key] = self._kept.get(key)
            time = image.GetMTime() if image is not None else 0
            self._kept[key] = _Snapshot(weakref.ref(node), layers.get(image), segment.GetLabelValue(), time)
        return before

    def take_missing(self, node, ids: Iterable[str]) -> None:
        """Remember those of these segments that are not remembered yet."""
        self.take(node, [id_ for id_ in ids if not self._knows(node, id_)])

    def put_back(self, before: dict) -> None:
        """Remember what ``take`` had replaced."""
        for key, snapshot in before.items():
            self._kept.pop(key, None)
            if snapshot is not None:
                self._kept[key] = snapshot

    def painted(self, node, target, id_: str) -> tuple[Plane, ...]:
        """The planes of the target's grid that hold every voxel of a segment that was changed.

        Comparing takes a moment on a large scan, so the answer is kept until the segment's layer or the geometry changes.
        """
        self.take_missing(node, [id_])
        key = (node.GetID(), id_)
        kept, segment = self._kept[key], node.GetSegmentation().GetSegment(id_)
        image, label = segment.GetRepresentation(BINARY), segment.GetLabelValue()
        time = image.GetMTime() if image is not None else 0
        if (time, label) == (kept.time, kept.label):
            return ()
        state = (time, label, kept, target.GetMTime(), *(_transform_time(one) for one in (node, target)))
        if key not in self._answers or self._answers[key][0] != state:
            self._answers[key] = state, _changed_planes(((image, label), (kept.layer, kept.label)), node, target)
        return self._answers[key][1]

    def clear(self) -> None:
        self._kept.clear()
        self._answers.clear()

    def _knows(self, node, id_: str) -> bool:
        kept = self._kept.get((node.GetID(), id_))
        return kept is not None and kept.node() is node


@dataclass(frozen=True, eq=False)
class _Snapshot:
    """A label in a copy of a layer; the layer is None where the segment had no voxels. ``time`` is the layer's own when it was copied."""

    node: weakref.ref
    layer: slicer.vtkOrientedImageData | None
    label: int
    time: int


def _transform_time(node) -> int:
    transform = node.GetParentTransformNode()
    return transform.GetTransformToWorldMTime() if transform is not None else 0


def _changed_planes(labels: Iterable[tuple], node, target) -> tuple[Plane, ...]:
    """Where two labels of two images differ on the target's grid; only the part of it that holds one of them is looked at."""
    there = [(image, label) for image, label in labels if image is not None and not image.IsEmpty()]
    if target.GetImageData() is None:
        return ()
    grid, transform = geometry_of(target), transform_between(node, target)
    boxes = [_box_on(grid, image, label) for image, label in there] if transform is None else [grid.GetExtent()]
    boxes = [box for box in boxes if box is not None]
    if not boxes:
        return ()
    whole = grid.GetExtent()
    low = [max(min(box[2 * axis] for box in boxes), whole[2 * axis]) for axis in range(3)]
    high = [min(max(box[2 * axis + 1] for box in boxes), whole[2 * axis + 1]) for axis in range(3)]
    if any(first > last for first, last in zip(low, high, strict=True)):
        return ()
    grid.SetExtent(*(bound for pair in zip(low, high, strict=True) for bound in pair))
    masks = [_label_on(grid, image, label, transform) for image, label in there]
    changed = masks[0] if len(masks) == 1 else masks[0] != masks[1]
    # A volume's first voxel has the index 0 in the image library, whatever VTK's extent says.
    return tuple((axis, index + low[axis] - whole[2 * axis]) for axis, index in covering_planes(changed))


def _box_on(grid, image, label: int) -> tuple[int, ...] | None:
    """Extent on the grid around a label's voxels, where the image is seen without a transform between; None where it has none."""
    inside = array_of(image) == label
    occupied = [np.flatnonzero(inside.any(axis=tuple(other for other in range(3) if other != axis))) for axis in (2, 1, 0)]
    if not len(occupied[0]):
        return None
    extent = image.GetExtent()
    to_world, to_grid = vtk.vtkMatrix4x4(), vtk.vtkMatrix4x4()
    image.GetImageToWorldMatrix(to_world)
    grid.GetWorldToImageMatrix(to_grid)
    way = slicer.util.arrayFromVTKMatrix(to_grid) @ slicer.util.arrayFromVTKMatrix(to_world)
    ends = [(found[0] + extent[2 * axis], found[-1] + extent[2 * axis]) for axis, found in enumerate(occupied)]
    corners = np.array([[x, y, z, 1.0] for x in ends[0] for y in ends[1] for z in ends[2]])
    places = (corners @ way.T)[:, :3]
    # One voxel more on each side: voxels of another size reach beyond their centres.
    low, high = np.floor(places.min(axis=0)).astype(int) - 1, np.ceil(places.max(axis=0)).astype(int) + 1
    return tuple(int(bound) for pair in zip(low, high, strict=True) for bound in pair)


def _label_on(grid, image, label: int, transform) -> np.ndarray:
    resampled = slicer.vtkOrientedImageData()
    slicer.vtkOrientedImageDataResample.ResampleOrientedImageToReferenceOrientedImage(image, grid, resampled, False, False, transform, 0)
    return array_of(resampled) == label


def covering_planes(changed: np.ndarray) -> tuple[Plane, ...]:
    """Few planes (axis, index) that together hold all true voxels of an array (z, y, x); axis 0 is x.

    A stroke lies in one plane of the view it was painted in. Planes are taken by how many of the remaining voxels they hold; where the
    planes of a single axis are fewer, as with a brush that paints a ball, these are taken.
    """
    points = np.argwhere(changed)[:, ::-1]
    if not len(points):
        return ()
    single = min((np.unique(points[:, axis]) for axis in range(3)), key=len)
    axis_of_single = min(range(3), key=lambda axis: len(np.unique(points[:, axis])))
    chosen: list[Plane] = []
    while len(points) and len(chosen) < len(single):
        counts = [np.bincount(points[:, axis]) for axis in range(3)]
        axis = int(np.argmax([count.max() for count in counts]))
        index = int(np.argmax(counts[axis]))
        chosen.append((axis, index))
        points = points[points[:, axis] != index]
    if len(points):
        chosen = [(axis_of_single, int(index)) for index in single]
    return tuple(sorted(chosen))
