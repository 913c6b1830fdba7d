"""Cuts planes out of a volume in radiological convention, with sizes in mm and orientation letters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk

from ..imaging.intensity import tamed
from ..imaging.segmentation import Segmentation


@dataclass(frozen=True)
class PicturePlane:
    """One anatomical plane of an array (z, y, x) whose axes run to superior, posterior, left.

    ``axis`` is the array axis that the plane cuts. ``letters`` stand at the left, right, top and bottom edge of the picture.
    ``flip`` says that rows run upwards (superior must be on top).
    """

    name: str
    axis: int
    letters: tuple[str, str, str, str]
    flip: bool


AXIAL = PicturePlane("Axial", 0, ("R", "L", "A", "P"), flip=False)
CORONAL = PicturePlane("Coronal", 1, ("R", "L", "S", "I"), flip=True)
SAGITTAL = PicturePlane("Sagittal", 2, ("A", "P", "S", "I"), flip=True)


@dataclass(frozen=True)
class Oriented:
    """A volume and its label layers, reordered so that the array axes (z, y, x) run to superior, posterior, left.

    ``spacing`` is in mm, in array order; wild voxels of the volume are cut off. An oblique volume keeps its own voxel axes; each goes by
    the nearest anatomical direction.
    """

    volume: np.ndarray
    layers: tuple[np.ndarray, ...]
    spacing: tuple[float, float, float]

    @classmethod
    def of(cls, volume: sitk.Image, segmentation: Segmentation) -> Oriented:
        oriented = sitk.DICOMOrient(volume, "LPS")
        x, y, z = oriented.GetSpacing()
        layers = tuple(sitk.GetArrayFromImage(sitk.DICOMOrient(layer, "LPS")) for layer in segmentation.layers)
        return cls(tamed(sitk.GetArrayFromImage(oriented)), layers, (z, y, x))

    def center(self) -> tuple[int, int, int]:
        """Index (z, y, x) of the middle of all structures; of the volume where there are none."""
        labelled = np.any([layer > 0 for layer in self.layers], axis=0)
        if not labelled.any():
            z, y, x = (size // 2 for size in self.volume.shape)
            return z, y, x
        middle = []
        for axis in range(3):
            profile = labelled.sum(axis=tuple(other for other in range(3) if other != axis))
            middle.append(int(np.searchsorted(np.cumsum(profile), profile.sum() / 2)))
        return middle[0], middle[1], middle[2]

    def planes(self) -> tuple[PicturePlane, ...]:
        """The planes in which the volume is more than a line: three of a volume, one of a radiograph."""
        flat = [axis for axis, size in enumerate(self.volume.shape) if size == 1]
        planes = tuple(plane for plane in (AXIAL, CORONAL, SAGITTAL) if all(axis == plane.axis for axis in flat))
        return planes or (AXIAL,)

    def extent(self, plane: PicturePlane) -> tuple[float, float]:
        """Width and height of a plane in mm."""
        sizes = [size * step for axis, (size, step) in enumerate(zip(self.volume.shape, self.spacing, strict=True)) if axis != plane.axis]
        return sizes[1], sizes[0]

    def cut(self, array: np.ndarray, plane: PicturePlane, index: int) -> np.ndarray:
        """A slice of the volume or of a layer as it is to be drawn: first row on top."""
        image = np.take(array, index, axis=plane.axis)
        return image[::-1] if plane.flip else image

    def window(self) -> tuple[float, float]:
        """Grey values to show as black and white, from the 1st and 99.5th percentile of what is not background."""
        values = self.volume[np.isfinite(self.volume)]
        inside = values[values > values.min()] if values.size else values
        if inside.size == 0:
            return 0.0, 1.0
        low, high = np.percentile(inside, (1, 99.5))
        # A stripped volume's background is 0 and must stay black; the headroom keeps bright tissue from glaring under the colours.
        black = 0.0 if values.min() == 0 else float(low)
        return black, black + 1.12 * ((float(high) - black) or 1.0)


def visible(cuts: tuple[np.ndarray, ...], labels: Mapping[tuple[int, int], object]) -> list[tuple[int, int]]:
    """The (layer, label) pairs of ``labels`` that occur in the cut."""
    found = [(layer, int(label)) for layer, cut in enumerate(cuts) for label in np.unique(cut) if label]
    return [key for key in found if key in labels]
