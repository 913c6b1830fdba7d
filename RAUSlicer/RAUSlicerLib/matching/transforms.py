"""A match as a transform between the two patients' spaces, and the other way round."""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk
import torch
from torch import Tensor

from .correspondence import positions


def field_transform(field: Tensor, target_grid: sitk.Image, reference_grid: sitk.Image) -> sitk.DisplacementFieldTransform:
    """The world transform (target to reference points) of a field (D, H, W, 3) of (z, y, x) mm along the reference grid's axes."""
    matched = _to_world(field.cpu().numpy(), reference_grid)
    own = _to_world(positions(tuple(target_grid.GetSize()[::-1]), tuple(target_grid.GetSpacing()[::-1])).numpy(), target_grid)
    image = sitk.GetImageFromArray(matched - own, isVector=True)
    image.CopyInformation(target_grid)
    return sitk.DisplacementFieldTransform(image)


def _to_world(along_axes: np.ndarray, grid: sitk.Image) -> np.ndarray:
    direction = np.array(grid.GetDirection()).reshape(3, 3)
    return along_axes[..., ::-1].astype(np.float64) @ direction.T + np.array(grid.GetOrigin())


def transform_field(transform: sitk.Transform, target_grid: sitk.Image, reference_grid: sitk.Image) -> Tensor:
    """The field (D, H, W, 3), as in `field_transform`, of a world transform (target to reference points)."""
    shifts = sitk.TransformToDisplacementField(
        transform,
        sitk.sitkVectorFloat64,
        target_grid.GetSize(),
        target_grid.GetOrigin(),
        target_grid.GetSpacing(),
        target_grid.GetDirection(),
    )
    own = _to_world(positions(tuple(target_grid.GetSize()[::-1]), tuple(target_grid.GetSpacing()[::-1])).numpy(), target_grid)
    direction = np.array(reference_grid.GetDirection()).reshape(3, 3)
    along = (sitk.GetArrayViewFromImage(shifts) + own - np.array(reference_grid.GetOrigin())) @ direction
    return torch.from_numpy(along[..., ::-1].astype(np.float32).copy())


def nearest_affine(field: Tensor, target_grid: sitk.Image, reference_grid: sitk.Image) -> sitk.AffineTransform:
    """The world transform (target to reference points) that is affine and comes closest to a field, in least squares over its voxels."""
    own = _to_world(positions(tuple(target_grid.GetSize()[::-1]), tuple(target_grid.GetSpacing()[::-1])).numpy(), target_grid)
    points, places = own.reshape(-1, 3), _to_world(field.cpu().numpy(), reference_grid).reshape(-1, 3)
    # Of the mean: far from the origin of the world the sums would lose their digits. A volume of one slice keeps its own depth.
    centre, there = points.mean(0), places.mean(0)
    points, places = points - centre, places - there
    depth = 1e-6 * max(float((points**2).mean()), 1.0)
    linear = np.linalg.solve(points.T @ points / len(points) + depth * np.eye(3), points.T @ places / len(points) + depth * np.eye(3)).T
    return sitk.AffineTransform(linear.ravel().tolist(), (there - linear @ centre).tolist())
