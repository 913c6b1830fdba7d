"""Normalization doesn't depend on unit, offset or type of intensities, nor on a handful of wild voxels."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from RAUSlicerLib.imaging.frame import foreground_box
from RAUSlicerLib.imaging.intensity import CT_WINDOW, bounds, is_ct, normalize, tamed

SHAPE = (16, 40, 48)
WILD = (-3.0e38, 3.0e38, -1e10, -32768.0, 65535.0, 32767.0, -1.0)
Draw = Callable[[np.random.Generator, int], np.ndarray]
few = settings(max_examples=40, deadline=None)


def mr(seed: int = 0) -> np.ndarray:
    """Noisy tissue of three kinds in noisy air, whole numbers from 0 to some 600."""
    z, y, x = np.meshgrid(*[np.linspace(-1, 1, n) for n in SHAPE], indexing="ij")
    far = np.sqrt((z / 1.4) ** 2 + (y / 0.8) ** 2 + (x / 0.7) ** 2)
    values = np.select([far < 0.3, far < 0.6, far < 1], [450.0, 120.0, 250.0], 0.0)
    return np.abs(np.rint(values + np.random.default_rng(seed).normal(0, 8, SHAPE)))


def ct() -> np.ndarray:
    values = mr()
    return np.rint(np.where(values > 60, values / 2 - 80, -1000 + values))


def scattered(values: np.ndarray, wild: list[float], seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The values with some wild ones among them, and which are still their own."""
    changed, own = values.ravel().copy(), np.ones(values.size, bool)
    where = np.random.default_rng(seed).choice(values.size, len(wild), replace=False)
    changed[where], own[where] = wild, False
    return changed.reshape(values.shape), own.reshape(values.shape)


@few
@given(scale=st.floats(-30, 30), offset=st.floats(-1e4, 1e4), known=st.booleans())
def test_mr_of_any_scale_and_offset_is_the_same(scale, offset, known):
    # Negative intensities without a word of the modality may be Hounsfield units.
    values = (mr() + (offset if known else abs(offset))) * 10.0**scale
    np.testing.assert_allclose(normalize(values, modality="MR" if known else None), normalize(mr()), atol=2e-5)


@few
@given(wild=st.lists(st.sampled_from(WILD), min_size=1, max_size=6), seed=st.integers(0, 10_000), scale=st.sampled_from((1.0, 1e-9, 1e6)))
def test_a_handful_of_wild_voxels_changes_no_other(wild, seed, scale):
    values, own = scattered(mr() * scale, wild, seed)
    for kind in (np.float32, np.float64):
        assert np.abs(normalize(values.astype(kind)) - normalize(mr()))[own].max() < 0.01


@few
@given(wild=st.lists(st.sampled_from(WILD), min_size=1, max_size=6), seed=st.integers(0, 10_000))
def test_wild_voxels_change_nothing_of_ct(wild, seed):
    values, own = scattered(ct(), wild, seed)
    assert is_ct(values)
    np.testing.assert_array_equal(normalize(values.astype(np.float32))[own], normalize(ct().astype(np.float32))[own])


def _spread(low: float, high: float) -> Draw:
    """Numbers that are as often of one order of magnitude as of another."""
    return lambda rng, count: 10 ** rng.uniform(np.log10(low), np.log10(high), count)


@pytest.mark.parametrize("share", [0.0005, 0.002, 0.005])
@pytest.mark.parametrize(
    "wrong",
    [
        _spread(700, 1e6),
        _spread(700, 1e8),
        _spread(700, 9000),
        lambda rng, count: 600 * (1 + np.abs(rng.standard_cauchy(count))),
        lambda rng, count: rng.uniform(700, 1e6, count),
        lambda rng, count: -_spread(20, 2000)(rng, count),
        lambda rng, count: -rng.uniform(0, 600, count),
        lambda rng, count: -rng.uniform(1e3, 1e6, count),
        lambda rng, count: rng.choice((-1, 1), count) * _spread(700, 1e6)(rng, count),
    ],
    ids=["bright", "brighter", "less bright", "heavy tail", "uniformly bright", "overshoot", "slight overshoot", "far below", "both"],
)
@pytest.mark.parametrize("air", ["noisy", "masked"])
def test_failed_fits_and_overshoot_leave_the_others_as_they_are(wrong, share, air):
    # As maps of T1 and diffusion have them: wrong by any factor, with no gap between them and what is right.
    plain = mr() if air == "noisy" else np.where(mr() > 60, mr(), 0.0)
    rng = np.random.default_rng(3)
    values, own = scattered(plain, wrong(rng, int(share * plain.size)), 4)
    for scale in (1.0, 1e-3):
        assert np.abs(normalize(values * scale) - normalize(plain))[own].mean() < 0.02


@pytest.mark.parametrize("body", [1.0, 0.0], ids=["vessels in tissue", "an object in air"])
def test_a_small_bright_part_is_no_failed_fit(body):
    values = body * mr() + np.abs(np.random.default_rng(0).normal(0, 8, SHAPE))
    _, y, x = np.meshgrid(*[np.linspace(-1, 1, n) for n in SHAPE], indexing="ij")
    # Partial volumes at the border of what would fill half a percent.
    values += 2500 / (1 + np.exp(np.clip((np.hypot(x - 0.2, y) - 0.08) / 0.02, -50, 50)))
    assert 0.002 < (values > 1250).mean() < 0.008
    assert bounds(values)[1] == values.max()
    np.testing.assert_array_equal(tamed(values), values)


@pytest.mark.parametrize("kind", [np.uint16, np.int16, np.int32, np.uint32, np.int64, np.uint64, np.float32, np.float64])
def test_the_type_of_numbers_does_not_matter(kind):
    np.testing.assert_allclose(normalize(mr().astype(kind)), normalize(mr()), atol=1e-6)
    # Single precision would keep nothing of this.
    shifted = mr() + 2e9 if np.dtype(kind).itemsize > 4 else mr()
    np.testing.assert_allclose(normalize(shifted.astype(kind)), normalize(mr()), atol=1e-5)


@pytest.mark.parametrize("padding", [-1.0, -1000.0, -1024.0, -2000.0, -32768.0])
@pytest.mark.parametrize("brightest", [255.0, 600.0])
def test_a_padded_mr_is_as_dark_there_as_air(padding, brightest):
    values = mr() * (brightest / mr().max())
    values[:, :6] = padding
    assert not is_ct(values)
    plain = normalize(mr())
    changed = normalize(values)
    assert (changed[:, :6] == 0).all()
    assert np.abs(changed - plain)[:, 6:].max() < 0.03


@pytest.mark.parametrize("padding", [-1024.0, -2000.0, -3024.0, -32768.0])
def test_a_ct_padded_outside_of_its_circle_is_ct(padding):
    values = ct()
    y, x = np.meshgrid(*[np.linspace(-1, 1, n) for n in SHAPE[1:]], indexing="ij")
    inside = x**2 + y**2 < 1
    values[:, ~inside] = padding
    assert is_ct(values)
    np.testing.assert_array_equal(normalize(values)[:, inside], normalize(ct())[:, inside])


def test_soft_tissue_cut_out_of_a_ct_is_ct():
    low, high = CT_WINDOW
    values = np.where(mr() > 60, 60.0, -1000.0)
    assert is_ct(values)
    assert set(np.unique(normalize(values))) == {0.0, np.float32((60 - low) / (high - low))}


def test_numbers_that_ran_over_are_what_they_were():
    signed = mr() - 20
    np.testing.assert_allclose(normalize(signed.astype(np.int16).astype(np.uint16)), normalize(signed), atol=1e-6)
    wrapped = ct().astype(np.int16).astype(np.uint16)
    np.testing.assert_array_equal(normalize(wrapped), normalize(ct().astype(np.int16)))


def test_a_mark_burnt_into_the_image_leaves_the_rest_as_it_is():
    values = mr()
    values[:, :4, :8] = 30_000
    assert np.abs(normalize(values) - normalize(mr()))[:, 4:].max() < 0.03


def test_bright_tissue_is_no_mark():
    # A vessel full of contrast, ten times as bright, with partial volumes all around it.
    values = mr()
    _, y, x = np.meshgrid(*[np.linspace(-1, 1, n) for n in SHAPE], indexing="ij")
    values += 6000 * np.exp(-(((x - 0.2) ** 2 + y**2) / 0.02))
    assert bounds(values)[1] == values.max()
    np.testing.assert_array_equal(tamed(values), values)


def test_the_tissue_of_a_stripped_image_is_no_mark():
    values = np.where(mr() > 60, 1000 + mr() / 10, 0)
    values[:, 10, 5:12] = 3
    assert bounds(values) == (0, values.max())
    assert normalize(values)[values > 3].min() > 0.5


def test_a_negative_is_seen_as_its_positive():
    np.testing.assert_allclose(normalize(-mr()), normalize(mr()), atol=1e-6)
    np.testing.assert_allclose(normalize(1000 - mr()), normalize(mr()), atol=1e-6)


def test_the_body_is_found_in_spite_of_wild_voxels():
    values, _ = scattered(mr(), [-32768.0] * 3 + [3e38] * 3, 5)
    assert foreground_box(normalize(values.astype(np.float32))) == foreground_box(normalize(mr()))


@few
@given(values=st.lists(st.sampled_from((-3e38, -32768.0, 0.0, 1e-30, 1.0, 7.0, 65535.0, 3e38)), min_size=1, max_size=60))
def test_any_few_voxels_come_out_in_the_range(values):
    for kind in (np.float32, np.float64):
        normal = normalize(np.array(values, kind).reshape(1, 1, -1))
        assert normal.dtype == np.float32 and np.isfinite(normal).all() and normal.min() >= 0 and normal.max() <= 1


def test_pictures_keep_what_is_undefined_and_cut_what_is_wild():
    values, own = scattered(mr().astype(np.float32), [-3e38, 3e38], 1)
    values[0, 0, 0] = np.nan
    low, high = bounds(mr())
    cut = tamed(values)
    assert np.isnan(cut[0, 0, 0]) and np.nanmin(cut) >= low - 1 and np.nanmax(cut) <= high
    own[0, 0, 0] = False
    np.testing.assert_array_equal(cut[own], values[own])
