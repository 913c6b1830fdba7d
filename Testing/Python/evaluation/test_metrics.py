import math

import numpy as np
import pytest
import SimpleITK as sitk

from RAUSlicerLib.evaluation.boxes import box_iou, corner_iou, mask_box
from RAUSlicerLib.evaluation.metrics import precision_and_recall, score


def cube(start: tuple[int, int, int], side: int = 10) -> np.ndarray:
    mask = np.zeros((30, 30, 30), bool)
    mask[tuple(slice(first, first + side) for first in start)] = True
    return mask


def test_the_same_mask_is_perfect() -> None:
    result = score(cube((5, 5, 5)), cube((5, 5, 5)), (1.0, 1.0, 1.0))
    assert (result.dice, result.hd95_mm, result.box_iou) == (1.0, 0.0, 1.0)


def test_half_an_overlap() -> None:
    result = score(cube((5, 5, 10)), cube((5, 5, 5)), (1.0, 1.0, 1.0))
    assert result.dice == pytest.approx(0.5)
    assert result.box_iou == pytest.approx(1 / 3)


@pytest.mark.parametrize(("start", "expected"), [((9, 5, 5), 4 * 3.0), ((5, 9, 5), 4 * 2.0), ((5, 5, 9), 4 * 0.5)])
def test_distances_are_in_mm_along_the_right_axis(start: tuple[int, int, int], expected: float) -> None:
    # A shift by four voxels; the spacing is given x, y, z and the arrays are z, y, x.
    assert score(cube(start), cube((5, 5, 5)), (0.5, 2.0, 3.0)).hd95_mm == pytest.approx(expected)


def test_nothing_found_has_no_distance() -> None:
    result = score(np.zeros((30, 30, 30), bool), cube((5, 5, 5)), (1.0, 1.0, 1.0))
    assert (result.dice, result.hd95_mm, result.box_iou) == (0.0, None, 0.0)


def test_boxes_apart_share_nothing() -> None:
    assert box_iou(cube((0, 0, 0)), cube((15, 0, 0))) == 0.0


def test_precision_and_recall() -> None:
    answers = [(True, True), (True, True), (True, False), (False, True), (False, False), (False, True)]
    assert precision_and_recall(answers) == (pytest.approx(2 / 3), pytest.approx(1 / 2))


def test_precision_of_no_answer_is_undefined() -> None:
    precision, recall = precision_and_recall([(False, True)])
    assert math.isnan(precision) and recall == 0.0


def test_a_box_in_mm_holds_whole_voxels() -> None:
    grid = sitk.Image(30, 30, 30, sitk.sitkUInt8)
    grid.SetSpacing((1.0, 2.0, 3.0))
    grid.SetOrigin((-5.0, 0.0, 100.0))
    # Left to right and head to foot are stored the other way round.
    grid.SetDirection((-1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, -1.0))
    assert mask_box(cube((4, 3, 2), 5), grid) == (
        (pytest.approx(-11.5), pytest.approx(5.0), pytest.approx(74.5)),
        (pytest.approx(-6.5), pytest.approx(15.0), pytest.approx(89.5)),
    )
    assert mask_box(np.zeros((30, 30, 30), bool), grid) is None


def test_boxes_in_mm_overlap_as_boxes_in_voxels_do() -> None:
    grid = sitk.Image(30, 30, 30, sitk.sitkUInt8)
    grid.SetSpacing((1.0, 2.0, 3.0))
    first, second = cube((5, 5, 10)), cube((5, 5, 5))
    in_mm = corner_iou(np.array(mask_box(first, grid)), np.array(mask_box(second, grid)))
    assert in_mm == pytest.approx(box_iou(first, second)) == pytest.approx(1 / 3)
