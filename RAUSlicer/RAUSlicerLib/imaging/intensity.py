"""Brings intensities of any modality to the range 0 to 1 that the networks were trained on.

Wild voxels, padding and numbers that ran over are told from anatomy by one thing: between them and everything else there is nothing. What a
scanner measures has noise and partial volumes and leaves no such gap, however bright metal or contrast may be. Values that were computed,
as maps of T1 or diffusion are, can be wrong by any factor and leave no gap either: these are few and scattered, and often spread over
several orders of magnitude, as no tissue is.
"""

from __future__ import annotations

import math

import numpy as np

# Soft-tissue window in HU: wide enough for contrast-filled vessels, and the range that public abdominal CT collections are clipped to.
CT_WINDOW = (-125.0, 275.0)
# Metal can be brighter, but never so much of a volume.
_HIGHEST_HU = 5000.0
# An organ without vessels full of contrast.
_SOFT_HU = 150.0
# What is nearer to the darkest voxel, as a share of all intensities' range, is background.
_DARK = 0.02
# So many voxels, or this share, may be wild with no more than such a step between them and the others.
_FEW, _HANDFUL = 8, 2e-4
# What is as far above all others as several times their range is no tissue, unless it is all that there is beside background.
_FAR, _BLOT = 3.0, 0.1
# The range of nearly all voxels: from what so many percent lie below, to what so many percent of the brighter ones lie below.
_LEAST, _MOST = 1, 95
# Where the brightest would be drawn as more than so many times that range, they are wrong if hardly any has one of them for a neighbour; or
# few have, and many are so many times as bright as many others.
_REACH, _ALONE, _SPREAD, _SPARSE = 2.0, 0.25, 7.0, 0.6
# What is so far below nearly all voxels is wrong; below zero, where hardly a voxel is, so far. Both as a share of that range.
_BELOW, _OVERSHOT = 3.0, 0.1
# A padded volume's darkest value is this far below the others, as a share of their range.
_PADDED = 0.1
# Where unsigned numbers of 16 bits ran over, those down to the second have become large, and none lies between them and the third.
_WRAP, _WRAPPED, _UNTOUCHED = 65536.0, -4096.0, 32768.0
# Single precision ends at 3.4e38.
_LARGEST = 1e37
# Air takes a fifth of a volume or more, within this share of the range of intensities.
_AIR, _EVEN = 20, 0.05


def is_ct(values: np.ndarray) -> bool:
    """Guess whether intensities are Hounsfield units: air lies far below zero, which no MR magnitude image reaches."""
    sample = np.sort(_thinned(values, 200_000), axis=None)
    low, high = np.percentile(sample, (0.5, 99.5))
    if not (low < -90 and 30 < high < _HIGHEST_HU):
        return False
    # Without negative intensities but the one that it is padded with, an image is MR, or a CT's soft tissue and nothing else.
    return not _padding(sample) or bool(high < _SOFT_HU)


def bounds(values: np.ndarray) -> tuple[float, float]:
    """The smallest and the largest intensity that belong to the image; beyond are wild voxels, padding and burnt-in marks."""
    sample = np.sort(_thinned(values, 500_000), axis=None).astype(np.float64)
    padding = _padding(sample)
    outside = sample[padding - 1] if padding else -math.inf
    sample = sample[padding:]
    sample = sample[: len(sample) - _blot(sample)]
    # There are too few wild voxels for the sample to tell which is the last.
    border, ceiling = sample[_few(sample)], np.percentile(sample, 99.9)
    lowest = np.sort(values[(values < border) & (values > outside)], axis=None).astype(np.float64)
    steps = np.flatnonzero(np.diff([*lowest, border]) > _DARK * (ceiling - border))
    lowest = lowest[steps[-1] + 1 :] if len(steps) else lowest
    low = _without_low_tail(float(lowest[0] if len(lowest) else border), sample)
    return low, _without_high_tail(low, sample, values)


def tamed(values: np.ndarray) -> np.ndarray:
    """Intensities of any shape for a picture: those that are not in `bounds` become the nearest that are. Undefined ones stay."""
    defined = values[np.isfinite(values)] if values.dtype.kind == "f" else values
    if defined.size == 0:
        return values
    low, high = (values.dtype.type(bound) for bound in bounds(defined))
    return np.clip(values, low, high) if defined.min() < low or defined.max() > high else values


def normalize(values: np.ndarray, *, modality: str | None = None) -> np.ndarray:
    """Intensities of shape (z, y, x) as float32 in 0 to 1; 0 is air or background.

    CT is windowed to soft tissue. Other modalities are scaled between the 0.5 and 99.5 percentiles of what is not background, whatever
    their scale and offset. ``modality`` is DICOM's, where it is known.
    """
    # Single precision holds numbers of up to 16 bits. Of larger ones an offset would leave nothing, and differences could run over.
    narrow = values.dtype.itemsize <= 2 or (values.dtype == np.float32 and max(-values.min(), values.max()) < _LARGEST)
    values = _unwrapped(values.astype(np.float32 if narrow else np.float64))
    if modality in (None, "CT") and is_ct(values):
        low, high = CT_WINDOW
    else:
        values = -values if _is_negative(values) else values
        low, high = _window(values)
    if not high > low:
        return np.zeros(values.shape, np.float32)
    # Wild voxels may leave the range of numbers, and are cut off after.
    with np.errstate(over="ignore"):
        return np.clip((values - low) / (high - low), 0.0, 1.0).astype(np.float32, copy=False)


def _window(values: np.ndarray) -> tuple[float, float]:
    """The intensities that become 0 and 1."""
    floor, top = bounds(values)
    sample = _thinned(values, 500_000)
    ceiling = float(np.percentile(sample[sample <= top], 99.9))
    inside = values[values > floor + _DARK * (ceiling - floor)]
    if sample.max() > top:
        inside = inside[inside <= top]
    if inside.size == 0:
        return 0.0, 0.0
    low, high = (float(x) for x in np.percentile(_thinned(inside, 500_000), (0.5, 99.5)))
    return min(low, floor + 0.1 * (high - floor)), high


def _few(sample: np.ndarray) -> int:
    return min(max(_FEW, int(_HANDFUL * len(sample))), len(sample) // 20)


def _padding(sample: np.ndarray) -> int:
    """How many of a sorted sample lie outside of what was scanned: those up to one value below zero, with nothing between it and zero."""
    value = sample[_few(sample)]
    count = int(np.searchsorted(sample, value, side="right"))
    if value >= 0 or count == len(sample) or sample[count] < 0:
        return 0
    return count if sample[count] - value > _PADDED * (np.percentile(sample[count:], 99.9) - sample[count]) else 0


def _blot(sample: np.ndarray) -> int:
    """How many of a sorted sample are far above all others, as marks burnt into an image."""
    sample = sample[_few(sample) :]
    reach = sample - sample[0]
    for last in np.flatnonzero(np.diff(sample) > _FAR * reach[:-1]):
        above = len(sample) - 1 - int(last)
        if above < _BLOT * np.count_nonzero(reach[: last + 1] > _DARK * reach[last]):
            return above
    return 0


def _core(sample: np.ndarray) -> tuple[float, float]:
    """Where the intensities of nearly all of a sorted sample start, and how far they reach above it."""
    start = float(np.percentile(sample, _LEAST))
    brighter = sample[np.searchsorted(sample, start, side="right") :]
    return start, float(np.percentile(brighter, _MOST)) - start if len(brighter) else 0.0


def _without_low_tail(low: float, sample: np.ndarray) -> float:
    """The smallest intensity, or where nearly all of a sorted sample start if it lies wrongly far below."""
    start, reach = _core(sample)
    if start >= 0 and low < -_OVERSHOT * reach and start <= reach:
        return float(sample[np.searchsorted(sample, 0.0)])
    return start if low < start - _BELOW * reach else low


def _without_high_tail(low: float, sample: np.ndarray, values: np.ndarray) -> float:
    """The largest intensity of a sorted sample, or what nearly all lie below if its brightest are wrong and would leave the rest dark."""
    start, reach = _core(sample)
    limit = start + _REACH * reach
    ceiling = np.percentile(sample, 99.9)
    inside = sample[sample > low + _DARK * (ceiling - low)]
    if len(inside) == 0 or np.percentile(inside, 99.5) <= limit:
        return float(sample[-1])
    least, most = np.percentile(sample[sample > limit], (10, 90)) - start
    beside = _beside(values > limit)
    if beside < _ALONE or (beside < _SPARSE and most > _SPREAD * least):
        return float(sample[np.searchsorted(sample, limit, side="right") - 1])
    return float(sample[-1])


def _beside(marked: np.ndarray) -> float:
    """The share of marked voxels that have another behind them, along the axis where most have."""
    pairs = [np.count_nonzero(marked[1:] & marked[:-1]) for marked in (np.moveaxis(marked, axis, 0) for axis in range(marked.ndim))]
    return max(pairs) / np.count_nonzero(marked)


def _unwrapped(values: np.ndarray) -> np.ndarray:
    """Unsigned numbers that ran over below zero as what they were; others as they are."""
    sample = _thinned(values, 200_000)
    high = sample[sample >= _UNTOUCHED]
    if not 0 < high.size < sample.size or sample.min() < 0 or high.min() < _WRAP + _WRAPPED or high.max() >= _WRAP:
        return values
    return np.where(values >= _WRAP + _WRAPPED, values - values.dtype.type(_WRAP), values)


def _is_negative(values: np.ndarray) -> bool:
    """Whether a volume looks like a negative: air takes much of it and all of its rim, and is the brightest."""
    if min(values.shape) == 1:
        return False
    low, high = bounds(values)
    sample = _thinned(values, 200_000).clip(low, high)
    lowest, dark, bright, highest = np.percentile(sample, (0.5, _AIR, 100 - _AIR, 99.5))
    even = _EVEN * (highest - lowest)
    rim = np.concatenate([np.take(values, (0, -1), axis).ravel() for axis in (1, 2)])
    return bool(highest - bright < even < dark - lowest and np.median(rim) > highest - even)


def _thinned(values: np.ndarray, count: int) -> np.ndarray:
    """About ``count`` of the values, evenly spread."""
    step = max(1, values.size // count)
    # A step that shares a divisor with the length of a row would see some columns only.
    while any(math.gcd(step, extent) > 1 for extent in values.shape):
        step += 1
    return values.ravel()[::step]
