"""Small volumes with a known anatomy, for the tests of the pictures."""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk

from RAUSlicerLib.imaging.segmentation import Segmentation, Structure

LEFT_BLOCK_MM = (20.0, -10.0, 5.0)
RED = (1.0, 0.0, 0.0)
GREEN = (0.0, 1.0, 0.0)


def grid(
    orientation: str = "LPS", size: tuple[int, int, int] = (40, 48, 32), spacing: tuple[float, float, float] = (2.0, 2.0, 3.0)
) -> sitk.Image:
    """An empty volume around the world's origin; its voxel axes are those of LPS, reordered and flipped to ``orientation``."""
    image = sitk.Image(size, sitk.sitkUInt8)
    image.SetSpacing(spacing)
    image.SetOrigin([-(n - 1) * step / 2 for n, step in zip(size, spacing, strict=True)])
    return sitk.DICOMOrient(image, orientation)


def with_ball(image: sitk.Image, center: tuple[float, float, float], radius: float, value: int = 1) -> sitk.Image:
    """The image with a ball drawn in, center and radius in mm (LPS)."""
    indices = np.stack(np.meshgrid(*(np.arange(n) for n in image.GetSize()), indexing="ij"), axis=-1).reshape(-1, 3)
    steps = np.reshape(image.GetDirection(), (3, 3)) * np.asarray(image.GetSpacing())
    points = indices @ steps.T + np.asarray(image.GetOrigin())
    inside = np.linalg.norm(points - np.asarray(center), axis=1) <= radius
    array = sitk.GetArrayFromImage(image)
    flat = np.where(inside.reshape(image.GetSize()).transpose(2, 1, 0), value, array).astype(array.dtype)
    drawn = sitk.GetImageFromArray(flat)
    drawn.CopyInformation(image)
    return drawn


def ball_on_the_left(orientation: str = "LPS", color: tuple[float, float, float] | None = RED) -> tuple[sitk.Image, Segmentation]:
    """A volume with a bright ball in the patient's left front, and its segmentation."""
    volume = with_ball(with_ball(grid(orientation), (0, 0, 0), 38, 60), LEFT_BLOCK_MM, 12, 200)
    labelmap = with_ball(grid(orientation), LEFT_BLOCK_MM, 12)
    return volume, Segmentation(labelmap, (Structure(1, "Ball", color),))
