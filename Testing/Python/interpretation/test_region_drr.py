"""Projections of CTs: sides, up and down, and the shadows of labels."""

import numpy as np
import pytest
import SimpleITK as sitk

from RAUSlicerLib.interpretation.region.drr import FLOOR, project


@pytest.fixture(scope="module")
def body() -> tuple[sitk.Image, sitk.Image]:
    """Soft tissue with a dense block up on the patient's left and a small one down on the right; 2 x 2 x 3 mm, LPS."""
    hu = np.full((30, 24, 40), 40.0, np.float32)
    labels = np.zeros(hu.shape, np.uint8)
    hu[20:26, 8:16, 28:36], labels[20:26, 8:16, 28:36] = 250, 1
    hu[4:8, 8:16, 6:10], labels[4:8, 8:16, 6:10] = 250, 2
    images = []
    for values in (hu, labels):
        image = sitk.GetImageFromArray(values)
        image.SetSpacing((2.0, 2.0, 3.0))
        image.SetOrigin((10.0, -30.0, 500.0))
        images.append(image)
    return images[0], images[1]


def _middle(mask: np.ndarray) -> np.ndarray:
    return np.argwhere(mask).mean(0) / mask.shape


def test_the_patients_left_is_on_the_right_and_the_head_above(body: tuple[sitk.Image, sitk.Image]) -> None:
    view = project(*body)
    assert view.spacing == 2.5 and view.image.shape == (36, 32)
    row, column = _middle(view.masks[1])
    assert row < 0.4 and column > 0.6
    row, column = _middle(view.masks[2])
    assert row > 0.6 and column < 0.4
    assert view.image[view.masks[1]].mean() > 1.2 * view.image[~view.masks[1] & ~view.masks[2]].mean()


def test_the_order_of_the_files_axes_does_not_matter(body: tuple[sitk.Image, sitk.Image]) -> None:
    plain = project(*body)
    turned = project(*(sitk.DICOMOrient(image, "RAS") for image in body))
    np.testing.assert_allclose(turned.image, plain.image, atol=1e-2)
    assert np.array_equal(turned.masks[1], plain.masks[1])


def test_a_turn_moves_the_shadow_of_what_lies_in_front(body: tuple[sitk.Image, sitk.Image]) -> None:
    volume, labels = body
    values = np.zeros((30, 24, 40), np.uint8)
    values[12:18, 0:4, 18:22] = 3
    front = sitk.GetImageFromArray(values)
    front.CopyInformation(labels)
    columns = [_middle(project(volume, front, turn=turn).masks[3])[1] for turn in (-10.0, 0.0, 10.0)]
    assert abs(columns[0] - columns[1]) > 0.03 and (columns[0] - columns[1]) * (columns[2] - columns[1]) < 0


def test_what_is_clipped_below_casts_no_shadow(body: tuple[sitk.Image, sitk.Image]) -> None:
    volume, labels = body
    air = sitk.GetImageFromArray(np.full((30, 24, 40), FLOOR - 800, np.float32))
    air.CopyInformation(volume)
    assert project(air, labels).image.max() == 0
