import numpy as np
import pytest
import SimpleITK as sitk

from RAUSlicerLib.imaging.segmentation import Reference
from RAUSlicerLib.imaging.variants import change, halved, mirrored, rotated, scaled, without


def centre(labels: sitk.Image, label: int) -> np.ndarray:
    """Centre of a structure in patient space, mm."""
    places = np.argwhere(sitk.GetArrayViewFromImage(labels) == label)[:, ::-1].mean(0)
    return np.array(labels.TransformContinuousIndexToPhysicalPoint(places.tolist()))


def voxels(labels: sitk.Image, label: int) -> int:
    return int((sitk.GetArrayViewFromImage(labels) == label).sum())


@pytest.fixture(scope="module")
def case(make_ellipsoids) -> Reference:
    return make_ellipsoids()


def both(case: Reference) -> tuple[sitk.Image, sitk.Image]:
    return case.volume, case.segmentation.labelmap


@pytest.mark.parametrize("axis", [(0.0, 0.0, 1.0), (1.0, 2.0, -1.0)])
def test_a_turn_moves_every_structure_by_its_angle_and_loses_none(case, axis):
    volume, labels = rotated(*both(case), 15.0, axis)
    assert volume.GetDirection() == case.volume.GetDirection() and volume.GetSpacing() == case.volume.GetSpacing()
    turn = sitk.VersorTransform(axis, np.deg2rad(15.0))
    middle = np.array(case.volume.TransformContinuousIndexToPhysicalPoint([(n - 1) / 2 for n in case.volume.GetSize()]))
    for label in (2, 3):
        expected = middle + np.array(turn.TransformVector((centre(case.segmentation.labelmap, label) - middle).tolist(), (0.0, 0.0, 0.0)))
        np.testing.assert_allclose(centre(labels, label), expected, atol=0.5)
        assert voxels(labels, label) == pytest.approx(voxels(case.segmentation.labelmap, label), rel=0.03)


def test_volume_and_labels_turn_together(case):
    volume, labels = rotated(*both(case), 15.0, (1.0, 2.0, -1.0))
    values, marked = sitk.GetArrayFromImage(volume), sitk.GetArrayFromImage(labels)
    assert values[marked == 2].mean() == pytest.approx(180, abs=12)
    assert values[marked == 3].mean() == pytest.approx(40, abs=12)


@pytest.mark.parametrize("factor", [1.2, 1 / 1.2])
def test_scaling_changes_volumes_by_the_third_power_and_cuts_nothing_off(case, factor):
    volume, labels = scaled(*both(case), factor)
    assert volume.GetSpacing() == case.volume.GetSpacing()
    for label in (1, 2, 3):
        assert voxels(labels, label) == pytest.approx(factor**3 * voxels(case.segmentation.labelmap, label), rel=0.04)


@pytest.mark.parametrize("upper", [True, False])
def test_half_keeps_places_and_drops_the_rest(case, upper):
    volume, labels = halved(*both(case), upper=upper)
    assert volume.GetSize() == labels.GetSize() and volume.GetSize()[2] == pytest.approx(case.volume.GetSize()[2] / 2, abs=1)
    again = sitk.Resample(case.segmentation.labelmap, labels, sitk.Transform(), sitk.sitkNearestNeighbor, 0)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(labels), sitk.GetArrayFromImage(again))
    first, last = (image.TransformIndexToPhysicalPoint((0, 0, 0))[2] for image in (case.volume, volume))
    assert (last > first) == upper


def test_a_few_thick_slices_are_not_cut_below_what_registration_needs(case):
    volume, _ = halved(case.volume[:, :, 17:22], case.segmentation.labelmap[:, :, 17:22], upper=True)
    assert volume.GetSize()[2] == 4


def test_a_mirror_moves_structures_to_the_other_side_with_their_labels(case):
    volume, labels = mirrored(*both(case))
    middle = case.volume.TransformContinuousIndexToPhysicalPoint([(n - 1) / 2 for n in case.volume.GetSize()])[0]
    for label in (2, 3):
        assert centre(labels, label)[0] - middle == pytest.approx(middle - centre(case.segmentation.labelmap, label)[0], abs=1e-6)
    assert sitk.GetArrayFromImage(volume)[sitk.GetArrayFromImage(labels) == 2].mean() == pytest.approx(180, abs=5)


def test_left_and_right_are_those_of_the_body_however_the_file_is_stored(case):
    stored = [sitk.DICOMOrient(image, "SAR") for image in both(case)]
    _, plain = change("mirrored", *both(case), "seed")
    _, turned = change("mirrored", *stored, "seed")
    np.testing.assert_array_equal(sitk.GetArrayFromImage(turned), sitk.GetArrayFromImage(plain))


def test_a_structure_taken_out_looks_like_what_is_around_it(case):
    volume, labels = change("without 2", *both(case), "seed")
    was = case.segmentation.array(case.segmentation.structures[1])
    values, before = sitk.GetArrayFromImage(volume), sitk.GetArrayFromImage(case.volume)
    assert voxels(labels, 2) == 0 and voxels(labels, 3) == voxels(case.segmentation.labelmap, 3)
    assert before[was].mean() > 170 and values[was].mean() == pytest.approx(100, abs=10)
    assert values[was].std() == pytest.approx(3, abs=2)
    elsewhere = sitk.GetArrayFromImage(case.segmentation.labelmap) == 3
    np.testing.assert_array_equal(values[elsewhere], before[elsewhere])


def test_what_is_not_there_cannot_be_taken_out(case):
    import random

    volume, _ = without(*both(case), 9, random.Random(0))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(volume), sitk.GetArrayFromImage(case.volume))


@pytest.mark.parametrize("variant", ["rotated", "half", "scaled", "rotated20"])
def test_the_same_seed_gives_the_same_change(case, variant):
    first, again, other = (change(variant, *both(case), seed)[1] for seed in ("a", "a", "b"))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(first), sitk.GetArrayFromImage(again))
    assert (
        variant in ("half", "scaled")
        or first.GetSize() != other.GetSize()
        or (sitk.GetArrayFromImage(first) != sitk.GetArrayFromImage(other)).any()
    )


def test_thick_slices_are_turned_in_their_plane_only(case):
    thick = [sitk.Image(image) for image in both(case)]
    for image in thick:
        image.SetSpacing((2.0, 2.0, 12.0))
    _, labels = change("rotated", *thick, "seed")
    counts = [np.count_nonzero(sitk.GetArrayFromImage(image) == 2, axis=(1, 2)) for image in (thick[1], labels)]
    assert labels.GetSize()[2] == thick[1].GetSize()[2]
    np.testing.assert_allclose(counts[1], counts[0], rtol=0.2, atol=8)
