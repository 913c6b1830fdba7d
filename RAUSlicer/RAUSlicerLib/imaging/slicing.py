"""The slices SAM2 sees: the target's, and the reference's brought to the same level, tilt and scale."""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk

from .frame import foreground_box

# Share of a slice's width that the foreground fills.
FILL = 0.92


def slice_grid(image: sitk.Image, values: np.ndarray, size: int) -> sitk.Image:
    """An empty grid of square axial slices (``size`` pixels a side) over the foreground of a canonical image.

    Pixels are square; slices lie on the image's own where these are thick, and about two pixels apart where they are thin.
    """
    depth, rows, columns = foreground_box(values)
    sx, sy, sz = image.GetSpacing()
    pixel = max((rows.stop - rows.start) * sy, (columns.stop - columns.start) * sx) / (FILL * size)
    pixel = max(pixel, 1e-3)
    step = max(1, round(2 * pixel / sz))
    levels = range(depth.start, depth.stop, step)
    # One more slice above, so that the last native slices lie between two of the grid, and interpolation knows both.
    count = len(levels) + (1 if levels and levels[-1] < depth.stop - 1 and levels[-1] + step < image.GetSize()[2] else 0)
    middle = ((columns.start + columns.stop - 1) / 2 * sx, (rows.start + rows.stop - 1) / 2 * sy)
    corner = [(middle[axis] - pixel * (size - 1) / 2) / (sx, sy)[axis] for axis in range(2)]
    grid = sitk.Image([size, size, max(count, 1)], sitk.sitkUInt8)
    grid.SetSpacing((pixel, pixel, sz * step))
    grid.SetDirection(image.GetDirection())
    grid.SetOrigin(image.TransformContinuousIndexToPhysicalPoint([*corner, float(depth.start)]))
    return grid


def grid_map(linear: np.ndarray, shift: np.ndarray, target: sitk.Image, reference: sitk.Image) -> sitk.AffineTransform:
    """The world transform (target to reference points) of an affine map between two grids' own axes.

    ``linear`` (3, 3) and ``shift`` (3,) map (z, y, x) mm from the first voxel of the target's grid to the same of the reference's.
    """
    swap = np.eye(3)[::-1]
    inner = swap @ linear @ swap
    from_target = np.array(target.GetDirection()).reshape(3, 3)
    to_reference = np.array(reference.GetDirection()).reshape(3, 3)
    matrix = to_reference @ inner @ from_target.T
    offset = np.array(reference.GetOrigin()) + to_reference @ (swap @ shift) - matrix @ np.array(target.GetOrigin())
    transform = sitk.AffineTransform(3)
    transform.SetMatrix(matrix.ravel().tolist())
    transform.SetTranslation(offset.tolist())
    return transform


def bring(image: sitk.Image, grid: sitk.Image, transform: sitk.Transform, *, nearest: bool = False) -> np.ndarray:
    """A reference image on the target's slices, shape (slices, size, size)."""
    interpolator = sitk.sitkNearestNeighbor if nearest else sitk.sitkLinear
    return sitk.GetArrayFromImage(sitk.Resample(image, grid, transform, interpolator, 0.0))
