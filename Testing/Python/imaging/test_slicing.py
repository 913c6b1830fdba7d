import numpy as np
import pytest
import SimpleITK as sitk

from RAUSlicerLib.imaging.frame import canonical, grid_over, normalized
from RAUSlicerLib.imaging.slicing import FILL, bring, grid_map, slice_grid

from .builders import on_grid


def block(
    shape: tuple[int, int, int], box: tuple[slice, slice, slice], spacing: tuple[float, float, float]
) -> tuple[sitk.Image, np.ndarray]:
    values = np.zeros(shape, np.float32)
    values[box] = 0.9
    image = sitk.GetImageFromArray(values)
    image.SetSpacing(spacing)
    image.SetOrigin((12.0, -30.0, 70.0))
    return image, values


def test_slices_lie_on_the_images_own_where_these_are_thick():
    image, values = block((12, 60, 70), (slice(2, 11), slice(10, 50), slice(5, 65)), (1.0, 1.0, 8.0))
    grid = slice_grid(image, values, 48)
    assert grid.GetSize() == (48, 48, 9)
    assert grid.GetSpacing()[2] == 8.0
    index = image.TransformPhysicalPointToContinuousIndex(grid.TransformIndexToPhysicalPoint((0, 0, 0)))
    assert index[2] == pytest.approx(2)


def test_thin_slices_are_taken_two_pixels_apart_and_cover_the_body():
    image, values = block((81, 60, 70), (slice(3, 78), slice(10, 50), slice(5, 65)), (1.0, 1.0, 1.0))
    grid = slice_grid(image, values, 48)
    pixel = 60 / (FILL * 48)
    assert grid.GetSpacing() == pytest.approx((pixel, pixel, 3.0))
    bottom, top = (
        image.TransformPhysicalPointToIndex(grid.TransformIndexToPhysicalPoint((24, 24, k)))[2] for k in (0, grid.GetSize()[2] - 1)
    )
    assert bottom == 3 and top >= 77


def test_the_body_lies_in_the_middle_of_a_slice():
    image, values = block((12, 60, 70), (slice(2, 11), slice(10, 50), slice(5, 65)), (1.0, 1.0, 8.0))
    grid = slice_grid(image, values, 48)
    middle = grid.TransformContinuousIndexToPhysicalPoint((23.5, 23.5, 0.0))
    assert image.TransformPhysicalPointToContinuousIndex(middle)[:2] == pytest.approx((34.5, 29.5))


def test_one_slice_gives_one_slice():
    image, values = block((1, 60, 70), (slice(0, 1), slice(10, 50), slice(5, 65)), (1.0, 1.0, 1.0))
    grid = slice_grid(image, values, 48)
    assert grid.GetSize() == (48, 48, 1)
    assert bring(image, grid, sitk.Transform()).max() == pytest.approx(0.9)


@pytest.mark.parametrize("reference_grid", ["plain", "anisotropic", "oblique flipped", "sagittal"])
def test_grid_map_puts_a_known_point_where_it_belongs(volume, reference_grid):
    other = on_grid(sitk.GetImageFromArray(np.zeros((7, 8, 9), np.int16)), reference_grid)
    target, reference = (
        grid_over(frame, 0.7, tuple(slice(0, n) for n in frame.GetSize()[::-1])) for frame in map(canonical, (volume, other))
    )
    turn = sitk.Euler3DTransform()
    turn.SetRotation(0.1, 0.2, -0.3)
    linear, shift = np.reshape(turn.GetMatrix(), (3, 3)) * 1.2, np.array([1.5, -0.4, 2.2])
    index = np.array([2, 1, 3])

    world = grid_map(linear, shift, target, reference)

    # (z, y, x) mm from the first voxel of the target's grid, and the same of the reference's.
    expected = linear @ (index[::-1] * 0.7) + shift
    found = reference.TransformPhysicalPointToContinuousIndex(world.TransformPoint(target.TransformIndexToPhysicalPoint(index.tolist())))
    np.testing.assert_allclose(np.array(found)[::-1] * 0.7, expected, atol=1e-6)


def test_bring_carries_a_reference_of_other_orientation_onto_the_slices(volume):
    """The same voxels under another header, matched voxel to voxel, come out as the target's own slices."""
    target = normalized(canonical(volume))
    values = sitk.GetArrayFromImage(target)
    reference = sitk.GetImageFromArray(values)
    on_grid(reference, "oblique")
    reference.SetSpacing(target.GetSpacing())
    grid = slice_grid(target, values, 32)
    world = grid_map(np.eye(3), np.zeros(3), target, reference)

    brought = bring(reference, grid, world)

    np.testing.assert_allclose(brought, bring(target, grid, sitk.Transform()), atol=1e-4)


def test_labels_are_brought_unmixed():
    labels = sitk.GetImageFromArray((np.indices((6, 20, 20)).sum(0) // 9).astype(np.uint16) * 300)
    image, values = block((6, 20, 20), (slice(0, 6),) * 3, (1.0, 1.0, 1.0))
    brought = bring(labels, slice_grid(image, values, 33), sitk.TranslationTransform(3, (0.3, 0.4, -0.2)), nearest=True)
    assert brought.dtype == np.uint16
    assert set(np.unique(brought)) <= {0, *np.unique(sitk.GetArrayViewFromImage(labels)).tolist()}
