"""Priors of several references become one: those that agree and are sure count more, and what was decided stays decided."""

import numpy as np
import pytest
import SimpleITK as sitk

from RAUSlicerLib.refinement.fusion import merge_priors, weights_of
from RAUSlicerLib.results import SoftMask

DRAWN = 0.4


@pytest.fixture
def frame() -> sitk.Image:
    image = sitk.Image(40, 30, 20, sitk.sitkUInt8)
    image.SetSpacing((1.0, 1.5, 2.0))
    return image


def ball(frame: sitk.Image, x: float, peak: float = 0.95, noise: int | None = None) -> SoftMask:
    """A soft ball around a place along x (voxels), on its own part of the frame."""
    axes = np.meshgrid(*(np.arange(n) for n in frame.GetSize()[::-1]), indexing="ij")
    distance = np.sqrt((axes[0] - 10) ** 2 + (axes[1] - 15) ** 2 + (axes[2] - x) ** 2)
    values = peak / (1 + np.exp(distance - 6))
    if noise is not None:
        values *= np.random.default_rng(noise).uniform(0.7, 1, values.shape)
    start = (2, 4, max(int(x) - 10, 0))
    return SoftMask(values[2:18, 4:26, start[2] : int(x) + 11].astype(np.float32), start, frame)


def volume(mask: SoftMask) -> float:
    """In mm^3."""
    return float(mask.values.sum() * np.prod(mask.grid.GetSpacing()))


def merged(masks: list[SoftMask], frame: sitk.Image) -> SoftMask:
    """Of references whose annotations are as large as the masks."""
    return merge_priors(masks, frame, [volume(mask) for mask in masks])


def on(mask: SoftMask, frame: sitk.Image) -> np.ndarray:
    return mask.spread(frame).astype(np.float32)


def test_one_reference_is_left_as_it_is(frame: sitk.Image) -> None:
    mask = ball(frame, 20)
    np.testing.assert_allclose(on(merged([mask], frame), frame), on(mask, frame), atol=1e-3)


def test_three_that_say_the_same_are_surer_and_draw_the_same_voxels(frame: sitk.Image) -> None:
    mask = ball(frame, 20)
    alone, both = on(mask, frame), on(merged([mask] * 3, frame), frame)
    clear = np.abs(alone - DRAWN) > 0.01
    np.testing.assert_array_equal((both > DRAWN)[clear], (alone > DRAWN)[clear])
    assert np.minimum(both, 1 - both).sum() < 0.7 * np.minimum(alone, 1 - alone).sum()
    assert both[alone == 0].max() == 0


def test_what_disagrees_or_is_unsure_counts_less(frame: sitk.Image) -> None:
    masks = [ball(frame, 18), ball(frame, 19), ball(frame, 30)]
    first, second, astray = weights_of(masks, frame, [volume(mask) for mask in masks])
    assert first + second + astray == pytest.approx(1) and astray < 0.5 * min(first, second)
    masks = [ball(frame, 20), ball(frame, 20, peak=0.5), ball(frame, 20)]
    sure, unsure, other = weights_of(masks, frame, [volume(mask) for mask in masks])
    assert unsure < 0.7 * sure and sure == pytest.approx(other)


def test_a_mask_much_larger_or_smaller_than_its_annotation_counts_less(frame: sitk.Image) -> None:
    mask = ball(frame, 20)
    own = volume(mask)
    fair, larger, smaller = weights_of([mask] * 3, frame, [own, own / 4, own * 4])
    assert (larger, smaller) == pytest.approx((fair / 2, fair / 2), abs=1e-4)
    even = weights_of([mask] * 3, frame, [own, own / 1.9, own * 1.9])
    assert even == pytest.approx([1 / 3] * 3)
    # Where none is as large as its annotation, as where half of the field of view is missing, all count alike.
    assert weights_of([mask] * 3, frame, [own * 4] * 3) == pytest.approx([1 / 3] * 3)


def test_the_two_that_agree_are_followed(frame: sitk.Image) -> None:
    both = on(merged([ball(frame, 14), ball(frame, 14, noise=1), ball(frame, 30)], frame), frame) > DRAWN
    right, astray = (on(ball(frame, x), frame) > 0.5 for x in (14, 30))
    assert (both & right).sum() > 0.9 * right.sum()
    assert not (both & astray & ~right).any()


def test_a_reference_that_shows_nothing_does_not_take_away_what_others_show(frame: sitk.Image) -> None:
    nothing = SoftMask(np.zeros((1, 1, 1), np.float32), (0, 0, 0), frame)
    both = on(merged([ball(frame, 20), ball(frame, 20), nothing], frame), frame)
    alone = on(ball(frame, 20), frame) > DRAWN
    assert ((both > DRAWN) & alone).sum() > 0.95 * alone.sum()


@pytest.mark.parametrize("count", [0, 1, 3])
def test_nothing_merges_to_nothing(frame: sitk.Image, count: int) -> None:
    nothing = SoftMask(np.zeros((1, 1, 1), np.float32), (0, 0, 0), frame)
    assert not on(merged([nothing] * count, frame), frame).any()
