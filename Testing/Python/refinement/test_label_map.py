from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk

from RAUSlicerLib.imaging.segmentation import Structure
from RAUSlicerLib.refinement.label_map import compete, resolve, without_specks
from RAUSlicerLib.results import SoftMask

A, B, C = Structure(1, "a"), Structure(300, "b"), Structure(7, "c", layer=1)


def grid(code: str = "LPS", angles: tuple[float, float, float] = (0, 0, 0), size=(18, 15, 12), spacing=(0.7, 1.1, 2.9)) -> sitk.Image:
    image = sitk.Image(size, sitk.sitkInt16)
    image.SetSpacing(spacing)
    image.SetOrigin((-61.7, 17.3, 245.9))
    turn = sitk.Euler3DTransform()
    turn.SetRotation(*angles)
    image.SetDirection(turn.GetMatrix())
    return sitk.DICOMOrient(image, code)


def soft(values: np.ndarray, on: sitk.Image, start: tuple[int, int, int] = (0, 0, 0)) -> SoftMask:
    return SoftMask(values.astype(np.float32), start, on)


def block(shape: tuple[int, ...], *sides: slice, value: float = 0.9) -> np.ndarray:
    values = np.zeros(shape, np.float32)
    values[sides] = value
    return values


@pytest.mark.parametrize("code", ["LPS", "RAS", "ASL", "PIR", "SLA"])
@pytest.mark.parametrize("angles", [(0, 0, 0), (0.2, -0.3, 0.25)], ids=["upright", "oblique"])
def test_labels_come_back_on_the_targets_own_voxels(code: str, angles: tuple[float, float, float]) -> None:
    target = grid(code, angles)
    frame = sitk.DICOMOrient(target, "LPS")
    truth = np.zeros(frame.GetSize()[::-1], np.uint16)
    truth[2:7, 3:9, 1:6], truth[4:11, 5:14, 8:16] = 1, 300
    image = sitk.GetImageFromArray(truth)
    image.CopyInformation(frame)
    expected = sitk.DICOMOrient(image, sitk.DICOMOrientImageFilter.GetOrientationFromDirectionCosines(target.GetDirection()))
    masks = {s: soft(truth[1:, 1:, :] == s.label, frame, (1, 1, 0)) for s in (A, B)}

    result = resolve(masks, (A, B), target)

    labelmap = result.labelmap
    assert (labelmap.GetSize(), labelmap.GetSpacing()) == (target.GetSize(), target.GetSpacing())
    assert (labelmap.GetOrigin(), labelmap.GetDirection()) == (target.GetOrigin(), target.GetDirection())
    np.testing.assert_array_equal(sitk.GetArrayFromImage(labelmap), sitk.GetArrayFromImage(expected))


def test_a_mask_of_another_grid_lands_where_it_lies_in_the_world() -> None:
    target = grid("RAS", (0.1, 0.2, -0.3))
    frame = sitk.DICOMOrient(target, "LPS")
    fine = sitk.Image((40, 40, 40), sitk.sitkUInt8)
    fine.SetSpacing((0.5, 0.5, 0.5))
    fine.SetDirection(grid("LPS", (0.4, 0.1, 0.2)).GetDirection())
    fine.SetOrigin(frame.TransformContinuousIndexToPhysicalPoint((2.0, 1.0, 1.0)))
    values = block((40, 40, 40), slice(8, 24), slice(6, 20), slice(5, 19), value=1.0)

    labels = compete({A: soft(values, fine)}, frame)

    disagree = 0
    for z, y, x in np.ndindex(labels.shape):
        i, j, k = fine.TransformPhysicalPointToContinuousIndex(frame.TransformIndexToPhysicalPoint((x, y, z)))
        depth = min(i - 4.5, 18.5 - i, j - 5.5, 19.5 - j, k - 7.5, 23.5 - k)
        # The very edges of the block are rounded off by interpolation.
        disagree += (labels[z, y, x] == 1) != (depth > 0) and abs(depth) > 0.6
    assert labels.sum() > 20 and disagree == 0


def test_structures_of_one_layer_exclude_each_other_and_other_layers_survive() -> None:
    target = grid()
    shape = target.GetSize()[::-1]
    a, b = block(shape, slice(2, 8), slice(2, 10), slice(2, 10)), block(shape, slice(2, 8), slice(2, 10), slice(6, 14), value=0.8)
    result = resolve({A: soft(a, target), B: soft(b, target), C: soft(b, target)}, (A, B, C), target)
    np.testing.assert_array_equal(result.array(A), a > 0.5)
    np.testing.assert_array_equal(result.array(B), (b > 0.5) & ~(a > 0.5))
    np.testing.assert_array_equal(result.array(C), b > 0.5)


def test_the_likelier_structure_wins_in_any_order() -> None:
    target = grid()
    shape = target.GetSize()[::-1]
    rng = np.random.default_rng(3)
    structures = [Structure(n, str(n)) for n in range(1, 6)]
    smooth = [sitk.GetArrayFromImage(sitk.SmoothingRecursiveGaussian(sitk.GetImageFromArray(rng.random(shape)), 1.5)) for _ in structures]
    masks = {s: soft((v - v.min()) / (v.max() - v.min()), target) for s, v in zip(structures, smooth, strict=True)}
    forth, back = compete(masks, target), compete(dict(reversed(masks.items())), target)
    np.testing.assert_array_equal(forth, back)


def test_equal_structures_are_parted_in_any_order_alike() -> None:
    target = grid()
    values = soft(block(target.GetSize()[::-1], slice(2, 8), slice(2, 10), slice(2, 10)), target)
    np.testing.assert_array_equal(compete({A: values, B: values}, target), compete({B: values, A: values}, target))


def test_islands_are_judged_before_a_neighbour_cuts_into_them_and_after() -> None:
    target = grid(size=(30, 20, 10))
    shape = target.GetSize()[::-1]
    a = block(shape, slice(1, 9), slice(1, 19), slice(1, 14))
    a[1:3, 1:5, 20:24] = 0.9
    b = block(shape, slice(1, 9), slice(3, 19), slice(1, 14), value=0.95)
    for masks in ({A: soft(a, target), B: soft(b, target)}, {B: soft(b, target), A: soft(a, target)}):
        labels = compete(masks, target)
        # The second island was a speck of the whole structure, though it is large beside what the neighbour left of it.
        assert not (labels[:, :, 20:] == 1).any() and (labels[:, 1:3, 1:14] == 1).any()


def test_a_voxel_needs_to_be_likelier_than_not() -> None:
    target = grid()
    values = block(target.GetSize()[::-1], slice(2, 8), slice(2, 10), slice(2, 10), value=0.49)
    assert not compete({A: soft(values, target)}, target).any()


def test_what_a_voxel_needs_can_be_less_and_the_likelier_structure_still_wins() -> None:
    target = grid()
    shape = target.GetSize()[::-1]
    thin, thick = block(shape, slice(2, 8), slice(2, 10), slice(2, 10), value=0.43), block(shape, slice(2, 8), slice(2, 10), slice(6, 14))
    faint = block(shape, slice(9, 11), slice(2, 10), slice(2, 10), value=0.38)
    labels = compete({A: soft(np.maximum(thin, faint), target), B: soft(thick, target)}, target, least=0.4)
    assert (labels[2:8, 2:10, 2:6] == A.label).all() and (labels[2:8, 2:10, 6:14] == B.label).all()
    assert not labels[9:].any()


def test_structures_without_a_mask_come_out_empty_and_stay_listed() -> None:
    target = grid()
    result = resolve({}, (A, B, C), target)
    assert result.structures == (A, B, C) and len(result.layers) == 2
    assert not any(result.array(structure).any() for structure in result.structures)
    assert resolve({}, (), target).labelmap.GetSize() == target.GetSize()


def test_a_mask_outside_of_the_target_leaves_no_voxel() -> None:
    target, away = grid(), grid()
    away.SetOrigin((1000.0, 0.0, 0.0))
    assert not compete({A: soft(np.ones(target.GetSize()[::-1]), away)}, target).any()


def test_a_structure_at_the_border_of_its_grid_reaches_the_border_of_the_volume() -> None:
    """A working grid ends up to one of its voxels before the volume does."""
    target = grid(size=(20, 20, 20), spacing=(1.0, 1.0, 1.0))
    working = sitk.Image((10, 10, 10), sitk.sitkUInt8)
    working.SetSpacing((2.0, 2.0, 2.0))
    working.SetOrigin(target.GetOrigin())
    labels = compete({A: soft(np.ones((10, 6, 6)), working, (0, 2, 2))}, target)
    assert labels[:, 10, 10].all()
    # Inside of the volume it still ends where it ends.
    assert not labels[:, 10, 17:].any() and not labels[:, :3, 10].any()


def test_large_values_keep_their_width() -> None:
    target = grid()
    values = block(target.GetSize()[::-1], slice(2, 8), slice(2, 10), slice(2, 10))
    huge = replace(A, label=100_000)
    assert compete({huge: soft(values, target)}, target).max() == 100_000


@pytest.mark.parametrize(("second", "stays"), [(4, False), (6, True)])
def test_islands_of_a_twentieth_of_the_largest_stay(second: int, stays: bool) -> None:
    mask = np.zeros((3, 12, 30), bool)
    mask[1, 1:11, 1:11] = True
    mask[1, 1:3, 15 : 15 + second // 2] = True
    assert without_specks(mask)[1, :, 15:].any() == stays
    assert without_specks(mask)[1, 1:11, 1:11].all()


def test_islands_touch_at_corners() -> None:
    mask = np.zeros((4, 4, 4), bool)
    mask[:2, :2, :2] = mask[2, 2, 2] = True
    np.testing.assert_array_equal(without_specks(mask), mask)
