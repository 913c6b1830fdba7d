"""The canonical frame: axes in a known order, a working grid of a known scale, and the exact way back to the target's voxels.

A canonical volume has its array axes nearest to left-right, anterior-posterior and foot-head (LPS). Orientation is judged by the volume's
own axes, never by its origin: the world positions of two patients do not correspond, and a tilted scan must give what the same voxels give
untilted.
"""

from __future__ import annotations

import math

import numpy as np
import SimpleITK as sitk

from .intensity import normalize

# Voxels along the longer in-plane side of the reference's foreground. The networks were trained at this scale.
WORKING_EXTENT = 128


def canonical(image: sitk.Image) -> sitk.Image:
    """The same voxels with axes in LPS order (flipped and permuted, never interpolated)."""
    return sitk.DICOMOrient(image, "LPS")


def foreground(values: np.ndarray) -> np.ndarray:
    """Voxels that are not air, for normalized intensities of shape (z, y, x)."""
    return values > 0.06


def foreground_box(values: np.ndarray) -> tuple[slice, slice, slice]:
    """Slices (z, y, x) that hold all but stray foreground voxels of normalized intensities."""
    inside = foreground(values)
    box = []
    for axis in range(3):
        profile = inside.sum(axis=tuple(a for a in range(3) if a != axis)).astype(np.float64)
        if profile.sum() == 0:
            box.append(slice(0, values.shape[axis]))
            continue
        mass = np.cumsum(profile) / profile.sum()
        box.append(slice(int(np.searchsorted(mass, 0.001)), int(np.searchsorted(mass, 0.999)) + 1))
    return box[0], box[1], box[2]


def working_spacing(image: sitk.Image, values: np.ndarray) -> float:
    """Isotropic spacing in mm at which a reference is matched: the in-plane extent of its foreground fixes it."""
    _, rows, columns = foreground_box(values)
    sx, sy, _ = image.GetSpacing()
    extent = max((rows.stop - rows.start) * sy, (columns.stop - columns.start) * sx)
    return min(max(extent / WORKING_EXTENT, 0.2), 4.0)


def grid_over(image: sitk.Image, spacing: float, box: tuple[slice, slice, slice], margin: int = 4) -> sitk.Image:
    """An empty grid in a canonical image's axes that covers a box (z, y, x) of its voxels with ``margin`` grid voxels around it.

    The margin does not reach beyond the image.
    """
    start, size = [], []
    for axis in range(3):
        span = box[2 - axis]
        step, native = spacing, image.GetSpacing()[axis]
        low = max(span.start * native - margin * step, 0.0)
        high = min((span.stop - 1) * native + margin * step, (image.GetSize()[axis] - 1) * native)
        start.append(low / native)
        size.append(math.floor((high - low) / step + 1e-6) + 1)
    grid = sitk.Image(size, sitk.sitkUInt8)
    grid.SetSpacing((spacing,) * 3)
    grid.SetDirection(image.GetDirection())
    grid.SetOrigin(image.TransformContinuousIndexToPhysicalPoint(start))
    return grid


def resample(image: sitk.Image, grid: sitk.Image, *, nearest: bool = False, outside: float = 0.0) -> sitk.Image:
    """The image on another grid; what lies outside of it gets ``outside``."""
    interpolator = sitk.sitkNearestNeighbor if nearest else sitk.sitkLinear
    return sitk.Resample(image, grid, sitk.Transform(), interpolator, outside)


def from_array(values: np.ndarray, grid: sitk.Image) -> sitk.Image:
    """An array of shape (z, y, x) as an image with a grid's geometry."""
    image = sitk.GetImageFromArray(values)
    image.CopyInformation(grid)
    return image


def normalized(image: sitk.Image) -> sitk.Image:
    """A canonical image with intensities in 0 to 1 (float32)."""
    return from_array(normalize(sitk.GetArrayViewFromImage(image)), image)
