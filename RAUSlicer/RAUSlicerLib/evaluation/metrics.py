"""Scores of a segmented structure against its expert annotation."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from monai.metrics import compute_dice, compute_hausdorff_distance

from .boxes import box_iou, index_box


@dataclass(frozen=True)
class MaskScore:
    """Agreement of one structure in one target.

    ``dice`` and ``box_iou`` are 0 to 1. ``hd95_mm`` is the 95th percentile of the distances between the two surfaces, both ways; None where
    nothing was found.
    """

    dice: float
    hd95_mm: float | None
    box_iou: float


def score(found: np.ndarray, expected: np.ndarray, spacing: tuple[float, float, float]) -> MaskScore:
    """Compare two masks of shape (z, y, x).

    Args:
        found: What a method says.
        expected: What the expert says; has at least one voxel.
        spacing: Voxel size in mm, in the order x, y, z of an image.
    """
    if not found.any():
        return MaskScore(0.0, None, 0.0)
    box = index_box(found | expected)
    first, second = (torch.from_numpy(mask[box].astype(np.float32))[None, None] for mask in (found, expected))
    with warnings.catch_warnings():
        # MONAI warns of its own use of its own deprecated argument.
        warnings.simplefilter("ignore", FutureWarning)
        distance = compute_hausdorff_distance(first, second, include_background=True, percentile=95.0, spacing=list(spacing[::-1]))
    return MaskScore(float(compute_dice(first, second)), float(distance), box_iou(found, expected))


def precision_and_recall(answers: Iterable[tuple[bool, bool]]) -> tuple[float, float]:
    """Precision and recall of (said to be present, is present); nan where there is nothing to divide by."""
    pairs = list(answers)
    right = sum(said and true for said, true in pairs)
    said, true = sum(said for said, _ in pairs), sum(true for _, true in pairs)
    return right / said if said else math.nan, right / true if true else math.nan
