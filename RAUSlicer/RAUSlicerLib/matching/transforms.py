"""A match as a transform between the two patients' spaces."""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk
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
