"""Slices are drawn in radiological convention whatever the order of the voxels."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk

from RAUSlicerLib.imaging.segmentation import Segmentation
from RAUSlicerLib.pictures.slices import AXIAL, CORONAL, SAGITTAL, Oriented

from .cases import ball_on_the_left, grid

ORIENTATIONS = ("LPS", "RAS", "LAI", "PIR", "SAL", "RPI")


def half(mask: np.ndarray) -> tuple[str, str]:
    """In which half of a picture the mask lies: (left or right, top or bottom)."""
    rows, columns = np.nonzero(mask)
    return (
        "left" if columns.mean() < (mask.shape[1] - 1) / 2 else "right",
        "top" if rows.mean() < (mask.shape[0] - 1) / 2 else "bottom",
    )


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_left_is_on_the_right_and_front_and_head_are_on_top(orientation: str) -> None:
    volume, segmentation = ball_on_the_left(orientation)
    side = Oriented.of(volume, segmentation)
    z, y, x = side.center()
    layer = side.layers[0]

    axial, coronal, sagittal = (side.cut(layer, plane, index) > 0 for plane, index in ((AXIAL, z), (CORONAL, y), (SAGITTAL, x)))

    assert half(axial) == ("right", "top")
    assert half(coronal) == ("right", "top")
    assert half(sagittal) == ("left", "top")


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_structures_stay_on_their_image(orientation: str) -> None:
    volume, segmentation = ball_on_the_left(orientation)

    side = Oriented.of(volume, segmentation)

    assert np.all(side.volume[side.layers[0] == 1] == 200)


def test_sizes_are_in_millimetres() -> None:
    side = Oriented.of(*ball_on_the_left("SAL"))

    assert side.extent(AXIAL) == (80, 96)
    assert side.extent(CORONAL) == (80, 96)
    assert side.extent(SAGITTAL) == (96, 96)


def test_center_is_the_middle_of_the_structures() -> None:
    volume, segmentation = ball_on_the_left()

    z, y, x = Oriented.of(volume, segmentation).center()

    world = volume.TransformIndexToPhysicalPoint((x, y, z))
    assert np.allclose(world, (20, -10, 5), atol=1.6)


def test_center_without_structures_is_that_of_the_volume() -> None:
    volume = grid()

    assert Oriented.of(volume, Segmentation(grid(), ())).center() == (16, 24, 20)


def test_a_radiograph_has_one_plane() -> None:
    radiograph = sitk.Image((30, 20, 1), sitk.sitkUInt8)

    planes = Oriented.of(radiograph, Segmentation(radiograph, ())).planes()

    assert planes == (AXIAL,)


def test_a_single_sagittal_slice_is_shown_as_such() -> None:
    slice_only = sitk.Image((1, 20, 30), sitk.sitkUInt8)

    planes = Oriented.of(slice_only, Segmentation(slice_only, ())).planes()

    assert planes == (SAGITTAL,)


def test_window_keeps_a_zero_background_black_and_ignores_outliers() -> None:
    volume, segmentation = ball_on_the_left()
    array = sitk.GetArrayFromImage(volume).astype(np.float32)
    array[0, 0, 0] = 1e6
    bright = sitk.GetImageFromArray(array)
    bright.CopyInformation(volume)

    black, white = Oriented.of(bright, segmentation).window()

    assert black == 0
    assert 200 <= white <= 260


def test_window_of_a_constant_volume_is_not_empty() -> None:
    black, white = Oriented.of(grid(), Segmentation(grid(), ())).window()

    assert white > black
