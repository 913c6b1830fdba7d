"""Voxel grids: whether two images lie on the same one, and how to bring a label map from one to another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk

# File formats round positions (NIfTI keeps single precision, DICOM decimal strings). A twentieth of a voxel is far above such rounding
# and far below anything that would move a label to its neighbour.
_TOLERANCE_VOXELS = 0.05


def index_to_world(image: sitk.Image) -> np.ndarray:
    """Affine matrix, shape (4, 4), from voxel index (x, y, z) to patient space (LPS, mm)."""
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * np.asarray(image.GetSpacing())
    affine[:3, 3] = image.GetOrigin()
    return affine


@dataclass(frozen=True)
class Distance:
    """How far the voxel lies apart for which two geometries differ most, in mm and in voxels of the first."""

    mm: float
    voxels: float


def apart(size: Sequence[int], a: np.ndarray, b: np.ndarray) -> Distance:
    """How far two geometries, affine matrices as of ``index_to_world``, put the voxels of an image of this size apart."""
    corners = _corner_indices(size)
    moved = (b - a) @ corners
    return Distance(float(np.linalg.norm(moved, axis=0).max()), float(np.abs(np.linalg.solve(a, moved)).max()))


def nearest_geometry(affine: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Origin, spacing and direction (3, 3), with axes at right angles, that come nearest to an affine matrix."""
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    left, _, right = np.linalg.svd(affine[:3, :3] / spacing)
    return affine[:3, 3], spacing, left @ right


def placed(image: sitk.Image, affine: np.ndarray) -> sitk.Image:
    """The same voxels where an affine matrix from voxel index to patient space puts them, or as near to that as right angles allow."""
    origin, spacing, direction = nearest_geometry(affine)
    moved = sitk.Image(image)
    moved.SetOrigin(origin.tolist())
    moved.SetSpacing(spacing.tolist())
    moved.SetDirection(direction.ravel().tolist())
    return moved


def with_geometry(array: np.ndarray, origin: np.ndarray, spacing: Sequence[float], direction: np.ndarray) -> sitk.Image:
    """An array of shape (z, y, x) as an image; the columns of ``direction`` (3, 3) are the axes x, y and z."""
    image = sitk.GetImageFromArray(array)
    image.SetOrigin(origin.tolist())
    image.SetSpacing(list(spacing))
    image.SetDirection(direction.ravel().tolist())
    return image


def same_grid(a: sitk.Image, b: sitk.Image) -> bool:
    """Whether two 3D images have the same size and the same voxel positions, up to the rounding of file formats."""
    if a.GetSize() != b.GetSize():
        return False
    corners = _corner_indices(a.GetSize())
    distances = np.linalg.norm((index_to_world(a) - index_to_world(b)) @ corners, axis=0)
    return bool(distances.max() <= _TOLERANCE_VOXELS * min(*a.GetSpacing(), *b.GetSpacing()))


def same_lattice(a: sitk.Image, b: sitk.Image) -> bool:
    """Whether every voxel centre of ``a`` coincides with a voxel centre of ``b``, were ``b`` continued beyond its borders.

    True for a cropped, padded or flipped copy of a grid: bringing labels from one to the other then loses nothing but what lies outside.
    """
    a_to_b = np.linalg.inv(index_to_world(b)) @ index_to_world(a)
    nearest = np.rint(a_to_b)
    permutes_axes = np.array_equal(np.abs(nearest[:3, :3]).sum(axis=0), np.ones(3)) and np.array_equal(
        np.abs(nearest[:3, :3]).sum(axis=1), np.ones(3)
    )
    return bool(permutes_axes and np.abs((a_to_b - nearest) @ _corner_indices(a.GetSize())).max() <= _TOLERANCE_VOXELS)


def part_of_lattice(a: sitk.Image, b: sitk.Image) -> bool:
    """Whether one of two images is the other one, cropped, and perhaps flipped."""
    return same_lattice(a, b) and (_holds(a, b) or _holds(b, a))


def with_grid_of(image: sitk.Image, grid: sitk.Image) -> sitk.Image:
    """The same voxels with exactly the origin, spacing and direction of ``grid``, which must have the same size."""
    copy = sitk.Image(image)
    copy.CopyInformation(grid)
    return copy


def from_array(values: np.ndarray, grid: sitk.Image) -> sitk.Image:
    """An array of shape (z, y, x) as an image with a grid's geometry."""
    image = sitk.GetImageFromArray(values)
    image.CopyInformation(grid)
    return image


def resample_labels(labelmap: sitk.Image, grid: sitk.Image) -> sitk.Image:
    """The label map on another grid: every voxel takes the label of the nearest voxel, 0 outside."""
    return sitk.Resample(labelmap, grid, sitk.Transform(), sitk.sitkNearestNeighbor, 0, labelmap.GetPixelID())


def _holds(outer: sitk.Image, inner: sitk.Image) -> bool:
    corners = (np.linalg.inv(index_to_world(outer)) @ index_to_world(inner) @ _corner_indices(inner.GetSize()))[:3]
    last = np.asarray(outer.GetSize())[:, None] - 1
    return bool((corners >= -_TOLERANCE_VOXELS).all() and (corners <= last + _TOLERANCE_VOXELS).all())


def _corner_indices(size: Sequence[int]) -> np.ndarray:
    """Homogeneous indices of the eight corner voxels, shape (4, 8)."""
    last = np.asarray(size) - 1
    return np.array([[x, y, z, 1] for x in (0, last[0]) for y in (0, last[1]) for z in (0, last[2])], dtype=float).T
