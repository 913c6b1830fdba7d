import itertools

import numpy as np
import pytest
import SimpleITK as sitk
from scipy.spatial.transform import Rotation

from RAUSlicerLib.imaging.frame import (
    canonical,
    foreground_box,
    from_array,
    grid_over,
    normalized,
    opened_together,
    resample,
    stored_like,
    working_spacing,
)
from RAUSlicerLib.imaging.grids import index_to_world, resample_labels, same_grid, same_lattice, with_grid_of

from .builders import grids_agree, on_grid


def test_canonical_keeps_every_voxel_at_its_place(volume):
    frame = canonical(volume)

    axes = np.reshape(frame.GetDirection(), (3, 3))
    # Every axis lies nearest to its own of left, posterior, superior.
    assert (np.abs(axes).argmax(axis=0) == (0, 1, 2)).all() and (axes.diagonal() > 0).all()
    for index in ((0, 0, 0), (8, 7, 6), (3, 5, 2)):
        at = frame.TransformPhysicalPointToIndex(volume.TransformIndexToPhysicalPoint(index))
        assert frame[at] == volume[index]


def test_canonical_of_a_tilted_scan_has_the_voxels_of_the_untilted_one(volume):
    upright, tilted = sitk.Image(volume), sitk.Image(volume)
    on_grid(upright, "flipped")
    on_grid(tilted, "flipped")
    turn = sitk.Euler3DTransform()
    turn.SetRotation(0.2, -0.3, 0.25)
    tilted.SetDirection((np.reshape(turn.GetMatrix(), (3, 3)) @ np.reshape(tilted.GetDirection(), (3, 3))).ravel().tolist())
    np.testing.assert_array_equal(sitk.GetArrayFromImage(canonical(tilted)), sitk.GetArrayFromImage(canonical(upright)))


def test_normalized_keeps_geometry(volume):
    frame = canonical(volume)
    normal = normalized(frame)
    grids_agree(normal, frame)
    values = sitk.GetArrayFromImage(normal)
    assert values.dtype == np.float32 and values.min() >= 0 and values.max() <= 1


def test_foreground_box_holds_the_body_and_no_air():
    values = np.zeros((30, 40, 50), np.float32)
    values[5:20, 10:30, 7:41] = 0.8
    assert foreground_box(values) == (slice(5, 20), slice(10, 30), slice(7, 41))


def test_foreground_box_leaves_out_stray_voxels():
    values = np.zeros((30, 40, 50), np.float32)
    values[5:25, 10:30, 7:41] = 0.8
    values[0, 0, 0] = values[29, 39, 49] = 1.0
    assert foreground_box(values) == (slice(5, 25), slice(10, 30), slice(7, 41))


@pytest.mark.parametrize("shape", [(1, 40, 50), (3, 4, 5), (1, 1, 1)])
def test_foreground_box_of_an_empty_or_tiny_volume_is_all_of_it(shape):
    everything = tuple(slice(0, n) for n in shape)
    assert foreground_box(np.zeros(shape, np.float32)) == everything
    assert foreground_box(np.ones(shape, np.float32)) == everything


def test_working_spacing_follows_the_extent_of_the_body_in_the_slice():
    image = sitk.Image((50, 40, 30), sitk.sitkFloat32)
    image.SetSpacing((2.0, 3.0, 5.0))
    values = np.zeros((30, 40, 50), np.float32)
    values[:, 2:38, 3:47] = 1
    assert working_spacing(image, values) == pytest.approx(36 * 3 / 128)


def test_grid_over_starts_at_the_margin_and_lies_in_the_image(volume):
    frame = canonical(volume)
    last = np.array(frame.GetSize()) - 1
    box = (slice(1, 5), slice(2, 6), slice(3, 8))

    grid = grid_over(frame, 0.5, box, margin=1)

    to_index = np.linalg.inv(index_to_world(frame)) @ index_to_world(grid)
    start, end = to_index @ (0, 0, 0, 1), to_index @ (*(np.array(grid.GetSize()) - 1), 1)
    spacing = np.array(frame.GetSpacing())
    np.testing.assert_allclose(start[:3], np.maximum(np.array([3, 2, 1]) - 0.5 / spacing, 0), atol=1e-9)
    assert (end[:3] <= last + 1e-6).all()
    # Less than one step is missing at the far side.
    assert (np.minimum(np.array([7, 5, 4]) * spacing + 0.5, last * spacing) - end[:3] * spacing < 0.5 + 1e-6).all()
    np.testing.assert_allclose(np.reshape(grid.GetDirection(), (3, 3)), np.reshape(frame.GetDirection(), (3, 3)))


def test_grid_over_one_slice_is_one_slice():
    image = sitk.Image((64, 48, 1), sitk.sitkFloat32)
    assert grid_over(image, 1.0, (slice(0, 1), slice(0, 48), slice(0, 64))).GetSize() == (64, 48, 1)


def test_resampling_a_ramp_gives_positions(volume):
    frame = canonical(volume)
    z, y, x = np.meshgrid(*[np.arange(n, dtype=np.float32) for n in frame.GetSize()[::-1]], indexing="ij")
    ramp = from_array(x + 20 * y + 400 * z, frame)
    grid = grid_over(frame, 0.45, tuple(slice(0, n) for n in frame.GetSize()[::-1]))

    values = sitk.GetArrayFromImage(resample(ramp, grid))

    for index in ((0, 0, 0), (3, 2, 1), tuple(n - 1 for n in grid.GetSize())):
        i, j, k = frame.TransformPhysicalPointToContinuousIndex(grid.TransformIndexToPhysicalPoint(index))
        assert values[index[::-1]] == pytest.approx(i + 20 * j + 400 * k, abs=2e-3)


TURNS = [np.eye(3)[:, order] * signs for order in itertools.permutations(range(3)) for signs in itertools.product((1.0, -1.0), repeat=3)]


def noise(axes: np.ndarray, seed: int = 0) -> sitk.Image:
    """A volume of different voxels of different sizes, with axes (columns) stored in any order, half of them left-handed."""
    image = sitk.GetImageFromArray(np.random.default_rng(seed).permutation(4 * 5 * 6).reshape(4, 5, 6).astype(np.int32))
    image.SetSpacing((0.7, 1.9, 5.0))
    image.SetOrigin((-61.7, 17.3, 245.9))
    image.SetDirection((axes @ TURNS[seed % 48]).ravel().tolist())
    return image


def axes_of(image: sitk.Image) -> np.ndarray:
    return np.reshape(image.GetDirection(), (3, 3))


def degrees_between(first: np.ndarray, second: np.ndarray) -> float:
    return float(np.degrees(np.arccos(np.clip((np.trace(first.T @ second) - 1) / 2, -1, 1))))


@pytest.mark.parametrize("seed", range(200))
def test_volumes_a_few_degrees_apart_are_opened_along_the_same_axes(seed):
    base = Rotation.random(random_state=seed)
    few = Rotation.from_rotvec(9 * Rotation.random(random_state=seed + 1).as_matrix()[0], degrees=True)
    images = [noise(turn.as_matrix(), seed + 7 * n) for n, turn in enumerate((base, few * base, few.inv() * base))]

    opened = [canonical(image) for image in opened_together(images)]

    assert all(np.linalg.det(axes_of(one)) > 0.99 for one in opened)
    assert degrees_between(axes_of(opened[0]), axes_of(opened[1])) == pytest.approx(9, abs=1e-3)
    assert degrees_between(axes_of(opened[0]), axes_of(opened[2])) == pytest.approx(9, abs=1e-3)


@pytest.mark.parametrize("seed", range(50))
def test_of_all_ways_to_open_a_target_the_nearest_to_the_reference_is_taken(seed):
    images = [noise(Rotation.random(random_state=2 * seed + n).as_matrix(), seed + n) for n in range(2)]
    target, reference = [canonical(image) for image in opened_together(images)]
    ways = [axes_of(images[0]) @ turn for turn in TURNS]
    least = min(degrees_between(axes_of(reference), axes) for axes in ways if np.linalg.det(axes) > 0)
    assert degrees_between(axes_of(reference), axes_of(target)) == pytest.approx(least, abs=1e-3)


@pytest.mark.parametrize("seed", range(50))
def test_every_voxel_keeps_its_place_and_comes_back_to_it(seed):
    images = [noise(Rotation.random(random_state=3 * seed + n).as_matrix(), seed + n) for n in range(3)]
    for image, chosen in zip(images, opened_together(images), strict=True):
        frame = canonical(chosen)
        for index in itertools.product((0, 3, 5), (0, 2, 4), (0, 1, 3)):
            assert frame[frame.TransformPhysicalPointToIndex(image.TransformIndexToPhysicalPoint(index))] == image[index]
        back = stored_like(frame, chosen)
        np.testing.assert_array_equal(sitk.GetArrayFromImage(back), sitk.GetArrayFromImage(image))
        assert back.GetDirection() == image.GetDirection() and back.GetOrigin() == image.GetOrigin()


@pytest.mark.parametrize("seed", range(20))
def test_opened_again_and_as_a_mask_a_volume_has_the_same_axes(seed):
    image = noise(Rotation.random(random_state=seed).as_matrix(), seed)
    other = noise(Rotation.random(random_state=seed + 100).as_matrix(), seed)
    chosen = opened_together([image, other])[0]
    frame = canonical(chosen)
    assert same_grid(canonical(frame), frame)
    assert same_grid(canonical(image > 60, chosen), frame)
    # Chosen for another reference, the same volume forgets the first one.
    alone = opened_together([chosen])[0]
    assert same_grid(canonical(alone), canonical(opened_together([image])[0]))


def test_volumes_that_lie_straight_come_back_as_they_are(volume):
    straight = noise(np.eye(3))
    assert [one is given for one, given in zip(opened_together([volume, straight]), (volume, straight), strict=True)] == [True, True]


@pytest.mark.parametrize("degrees", [(40, 49), (49, 40), (49, 49), (44, 53)])
@pytest.mark.parametrize("axis", range(3))
def test_slices_of_a_tilted_scan_stay_slices(degrees, axis):
    images = []
    for angle in degrees:
        image = noise(np.eye(3))
        image.SetDirection(Rotation.from_rotvec(angle * np.eye(3)[axis], degrees=True).as_matrix().ravel().tolist())
        images.append(image)
    for image, chosen in zip(images, opened_together(images), strict=True):
        np.testing.assert_array_equal(sitk.GetArrayFromImage(canonical(chosen)), sitk.GetArrayFromImage(image))


def test_patients_a_quarter_turn_apart_are_opened_as_they_lie():
    images = [noise(np.eye(3)), noise(Rotation.from_rotvec((0, 0, 90), degrees=True).as_matrix())]
    for chosen in opened_together(images):
        np.testing.assert_allclose(axes_of(canonical(chosen)), np.eye(3), atol=1e-12)


@pytest.mark.parametrize("seed", range(48))
def test_labels_of_a_turned_and_cropped_copy_come_back_exactly(seed):
    image = noise(Rotation.random(random_state=seed).as_matrix(), seed)
    turned = sitk.Flip(sitk.PermuteAxes(image, np.roll((0, 1, 2), seed).tolist()), [bool(seed & 1), bool(seed & 2), bool(seed & 4)], False)
    cropped = turned[1:, :, :-1]
    assert same_lattice(cropped, image)
    back = sitk.GetArrayFromImage(resample_labels(cropped, image))
    inside = sitk.GetArrayFromImage(resample_labels(with_grid_of(sitk.Image(cropped.GetSize(), sitk.sitkUInt8) + 1, cropped), image)) > 0
    assert np.count_nonzero(inside) == cropped.GetNumberOfPixels()
    np.testing.assert_array_equal(back[inside], sitk.GetArrayFromImage(image)[inside])
