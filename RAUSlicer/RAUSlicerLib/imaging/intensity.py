"""Brings intensities of any modality to the range 0 to 1 that the networks were trained on."""

from __future__ import annotations

import math

import numpy as np

# Soft-tissue window in HU: wide enough for contrast-filled vessels, and the range that public abdominal CT collections are clipped to.
CT_WINDOW = (-125.0, 275.0)


def is_ct(values: np.ndarray) -> bool:
    """Guess whether intensities are Hounsfield units: air lies far below zero, which no MR magnitude image reaches."""
    low, high = np.percentile(_thinned(values, 200_000), (0.5, 99.5))
    return bool(low < -90 and high > 30)


def normalize(values: np.ndarray) -> np.ndarray:
    """Intensities of shape (z, y, x) as float32 in 0 to 1; 0 is air or background.

    CT is windowed to soft tissue. Other modalities are scaled between the 0.5 and 99.5 percentiles of what is not background.
    """
    values = values.astype(np.float32)
    if is_ct(values):
        low, high = CT_WINDOW
    else:
        floor = float(values.min())
        ceiling = float(np.percentile(_thinned(values, 500_000), 99.9))
        inside = values[values > floor + 0.02 * (ceiling - floor)]
        if inside.size == 0:
            return np.zeros_like(values)
        low, high = (float(x) for x in np.percentile(_thinned(inside, 500_000), (0.5, 99.5)))
        low = min(low, floor + 0.1 * (high - floor))
    return np.clip((values - low) / max(high - low, 1e-6), 0.0, 1.0)


def _thinned(values: np.ndarray, count: int) -> np.ndarray:
    """About ``count`` of the values, evenly spread."""
    step = max(1, values.size // count)
    # A step that shares a divisor with the length of a row would see some columns only.
    while any(math.gcd(step, extent) > 1 for extent in values.shape):
        step += 1
    return values.ravel()[::step]
