"""Which slices of a segment the user has painted since a run wrote it."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk
import slicer

from .segmentations import label_on_grid, segment_mask

Plane = tuple[int, int]
_BINARY = "Binary labelmap"


class Baselines:
    """What runs wrote last, segment by segment, to compare with what the user has made of it.

    They live in memory only: after a scene is loaded, the comparison is with what was loaded.
    """

    def __init__(self) -> None:
        self._kept: dict[tuple[str, str], _Snapshot] = {}

    def take(self, node, ids: Iterable[str]) -> dict:
        """Remember segments as they are now, and return what was remembered of them before, for ``put_back``."""
        before, layers = {}, {}
        for id_ in ids:
            segment = node.GetSegmentation().GetSegment(id_)
            image = segment.GetRepresentation(_BINARY)
            if image is not None and image not in layers:
                # One copy a layer: 116 structures of a brain cost no more than one.
                layers[image] = slicer.vtkOrientedImageData()
                layers[image].DeepCopy(image)
            key = (node.GetID(), id_)
            before[key] = self._kept.get(key)
            self._kept[key] = _Snapshot(weakref.ref(node), layers.get(image), segment.GetLabelValue())
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

    def painted(self, node, target, id_: str) -> tuple[sitk.Image, tuple[Plane, ...]]:
        """The segment's mask on the target's grid as it is now, and the planes that hold every voxel that was changed."""
        self.take_missing(node, [id_])
        kept = self._kept[node.GetID(), id_]
        now = segment_mask(node, id_, target)
        array = sitk.GetArrayFromImage(now)
        if kept.layer is not None:
            array = array != sitk.GetArrayFromImage(label_on_grid(kept.layer, kept.label, node, target))
        return now, covering_planes(array)

    def clear(self) -> None:
        self._kept.clear()

    def _knows(self, node, id_: str) -> bool:
        kept = self._kept.get((node.GetID(), id_))
        return kept is not None and kept.node() is node


@dataclass(frozen=True)
class _Snapshot:
    """A label in a copy of a layer; the layer is None where the segment had no voxels."""

    node: weakref.ref
    layer: slicer.vtkOrientedImageData | None
    label: int


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
