import numpy as np

from RAUSlicerLib.imaging.intensity import CT_WINDOW, is_ct, normalize


def body(air: float, tissue: float, shape: tuple[int, int, int] = (40, 50, 60)) -> np.ndarray:
    """A block of noisy tissue in the middle of air."""
    values = np.full(shape, air, np.float32)
    values[8:-8, 8:-8, 8:-8] = np.random.default_rng(0).normal(tissue, 20, np.array(shape) - 16)
    return values


def test_ct_is_windowed_to_soft_tissue():
    low, high = CT_WINDOW
    values = body(-1000, 50)
    values[20, 20, 20:24] = (-600, low, (low + high) / 2, 1200)

    normal = normalize(values)

    assert normal.dtype == np.float32
    np.testing.assert_allclose(normal[20, 20, 20:24], (0, 0, 0.5, 1))
    assert normal[0, 0, 0] == 0


def test_mr_does_not_depend_on_scale_or_offset_of_its_intensities():
    values = body(0, 300)
    np.testing.assert_allclose(normalize(values * 7.5 + 100), normalize(values), atol=1e-4)


def test_air_of_mr_is_zero_and_tissue_fills_the_range():
    values = body(0, 300)
    normal = normalize(values)
    assert normal[0, 0, 0] == 0
    inside = normal[8:-8, 8:-8, 8:-8]
    assert inside.min() >= 0 and inside.max() == 1
    assert np.std(inside) > 0.05


def test_the_input_is_left_as_it_is():
    values = body(0, 300)
    before = values.copy()
    normalize(values)
    np.testing.assert_array_equal(values, before)


def test_one_slice_and_one_value_are_taken():
    assert normalize(body(0, 300)[20:21]).shape == (1, 50, 60)
    assert normalize(np.full((3, 3, 3), 7, np.int16)).max() == 0


def test_ct_is_told_from_all_columns_of_a_large_volume():
    # 491,520 voxels are thinned out by two: with every second voxel of a row only the even columns would be seen.
    values = np.full((48, 80, 128), -1000, np.int16)
    values[:, :, 1::2] = 60
    assert is_ct(values)


def test_signed_mr_is_not_taken_for_ct():
    assert not is_ct(body(-40, 300))
