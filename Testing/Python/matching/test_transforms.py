"""A match as a transform, exact on tilted grids; and sums of masks."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from RAUSlicerLib.matching.correspondence import positions
from RAUSlicerLib.matching.transforms import field_transform
from RAUSlicerLib.results import SoftMask, weighted


def _tilted(size: tuple[int, int, int], spacing: float, angle: float, origin: tuple[float, float, float]) -> sitk.Image:
    grid = sitk.Image(size, sitk.sitkUInt8)
    grid.SetSpacing((spacing,) * 3)
    c, s = float(np.cos(angle)), float(np.sin(angle))
    grid.SetDirection((c, -s, 0, s, c, 0, 0, 0, 1))
    grid.SetOrigin(origin)
    return grid


def test_a_field_sends_each_voxel_centre_to_its_place_in_the_reference() -> None:
    target = _tilted((6, 5, 4), 2.0, 0.3, (10.0, -20.0, 5.0))
    reference = _tilted((8, 8, 8), 2.0, -0.5, (-3.0, 40.0, 0.0))
    field = positions((4, 5, 6), (2.0, 2.0, 2.0)) + torch.tensor([1.0, 2.0, 0.5])

    transform = field_transform(field, target, reference)

    for index in ((0, 0, 0), (3, 2, 1), (5, 4, 3)):
        place = field[index[2], index[1], index[0]].numpy()[::-1] / 2.0
        expected = reference.TransformContinuousIndexToPhysicalPoint(place.astype(float).tolist())
        assert transform.TransformPoint(target.TransformIndexToPhysicalPoint(index)) == pytest.approx(expected, abs=1e-4)


def test_a_weighted_sum_of_masks_stays_between_nothing_and_certainty() -> None:
    frame = sitk.Image(6, 1, 1, sitk.sitkUInt8)
    first = SoftMask(np.array([[[1.0, 0.8]]], np.float32), (0, 0, 1), frame)
    second = SoftMask(np.array([[[0.6, 0.4]]], np.float32), (0, 0, 2), frame)

    total = weighted([(first, 1.0), (second, 1.0)], frame).spread(frame).ravel()
    rest = weighted([(first, 1.0), (second, -1.0)], frame).spread(frame).ravel()

    assert total.tolist() == pytest.approx([0, 1, 1, 0.4, 0, 0], abs=1e-3)
    assert rest.tolist() == pytest.approx([0, 1, 0.2, 0, 0, 0], abs=1e-3)
