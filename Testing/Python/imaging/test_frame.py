import numpy as np
import pytest
import SimpleITK as sitk

from RAUSlicerLib.imaging.frame import canonical, foreground_box, from_array, grid_over, normalized, resample, working_spacing
from RAUSlicerLib.imaging.grids import index_to_world


def test_canonical_keeps_every_voxel_at_its_place(volume: sitk.Image) -> None:
    frame = canonical(volume)

    axes = np.reshape(frame.GetDirection(), (3, 3))
    # Every axis lies nearest to its own of left, posterior, superior.
    assert (np.abs(axes).argmax(axis=0) == (0, 1, 2)).all() and (axes.diagonal() > 0).all()
    for index in ((0, 0, 0), (8, 7, 6), (3, 5, 2)):
        at = frame.TransformPhysicalPointToIndex(volume.TransformIndexToPhysicalPoint(index))
        assert frame[at] == volume[index]


def test_canonical_of_a_tilted_scan_has_the_voxels_of_the_untilted_one(volume: sitk.Image, on_grid) -> None:
    upright, tilted = sitk.Image(volume), sitk.Image(volume)
    on_grid(upright, "flipped")
    on_grid(tilted, "flipped")
    turn = sitk.Euler3DTransform()
    turn.SetRotation(0.2, -0.3, 0.25)
    tilted.SetDirection((np.reshape(turn.GetMatrix(), (3, 3)) @ np.reshape(tilted.GetDirection(), (3, 3))).ravel().tolist())
    np.testing.assert_array_equal(sitk.GetArrayFromImage(canonical(tilted)), sitk.GetArrayFromImage(canonical(upright)))


def test_normalized_keeps_geometry(volume: sitk.Image, grids_agree) -> None:
    frame = canonical(volume)
    normal = normalized(frame)
    grids_agree(normal, frame)
    values = sitk.GetArrayFromImage(normal)
    assert values.dtype == np.float32 and values.min() >= 0 and values.max() <= 1


def test_foreground_box_holds_the_body_and_no_air() -> None:
    values = np.zeros((30, 40, 50), np.float32)
    values[5:20, 10:30, 7:41] = 0.8
    assert foreground_box(values) == (slice(5, 20), slice(10, 30), slice(7, 41))


def test_foreground_box_leaves_out_stray_voxels() -> None:
    values = np.zeros((30, 40, 50), np.float32)
    values[5:25, 10:30, 7:41] = 0.8
    values[0, 0, 0] = values[29, 39, 49] = 1.0
    assert foreground_box(values) == (slice(5, 25), slice(10, 30), slice(7, 41))


@pytest.mark.parametrize("shape", [(1, 40, 50), (3, 4, 5), (1, 1, 1)])
def test_foreground_box_of_an_empty_or_tiny_volume_is_all_of_it(shape: tuple[int, int, int]) -> None:
    everything = tuple(slice(0, n) for n in shape)
    assert foreground_box(np.zeros(shape, np.float32)) == everything
    assert foreground_box(np.ones(shape, np.float32)) == everything


def test_working_spacing_follows_the_extent_of_the_body_in_the_slice() -> None:
    image = sitk.Image((50, 40, 30), sitk.sitkFloat32)
    image.SetSpacing((2.0, 3.0, 5.0))
    values = np.zeros((30, 40, 50), np.float32)
    values[:, 2:38, 3:47] = 1
    assert working_spacing(image, values) == pytest.approx(36 * 3 / 128)


def test_grid_over_starts_at_the_margin_and_lies_in_the_image(volume: sitk.Image) -> None:
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


def test_grid_over_one_slice_is_one_slice() -> None:
    image = sitk.Image((64, 48, 1), sitk.sitkFloat32)
    assert grid_over(image, 1.0, (slice(0, 1), slice(0, 48), slice(0, 64))).GetSize() == (64, 48, 1)


def test_resampling_a_ramp_gives_positions(volume: sitk.Image) -> None:
    frame = canonical(volume)
    z, y, x = np.meshgrid(*[np.arange(n, dtype=np.float32) for n in frame.GetSize()[::-1]], indexing="ij")
    ramp = from_array(x + 20 * y + 400 * z, frame)
    grid = grid_over(frame, 0.45, tuple(slice(0, n) for n in frame.GetSize()[::-1]))

    values = sitk.GetArrayFromImage(resample(ramp, grid))

    for index in ((0, 0, 0), (3, 2, 1), tuple(n - 1 for n in grid.GetSize())):
        i, j, k = frame.TransformPhysicalPointToContinuousIndex(grid.TransformIndexToPhysicalPoint(index))
        assert values[index[::-1]] == pytest.approx(i + 20 * j + 400 * k, abs=2e-3)
