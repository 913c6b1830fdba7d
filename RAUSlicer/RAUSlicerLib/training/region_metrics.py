"""Figures of the region model and how sure they are: intervals come from drawing the people anew, not their pictures."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from monai.metrics import compute_roc_auc
from torchvision.ops import box_convert
from torchvision.ops import box_iou as pairwise_iou

DRAWS = 200


@dataclass(frozen=True)
class Figure:
    """A mean or an area under a curve over ``n`` values of ``patients`` people, and the bounds of its 95 % interval; NaN if undefined."""

    value: float
    low: float
    high: float
    n: int
    patients: int


def auc(scores: Sequence[float], truths: Sequence[bool]) -> float:
    """Area under the ROC curve; NaN where all or none is true."""
    if len(set(truths)) < 2:
        return float("nan")
    with warnings.catch_warnings():
        # MONAI warns of values it can't compute; they were sorted out above.
        warnings.simplefilter("ignore")
        return float(compute_roc_auc(torch.tensor(scores, dtype=torch.float64), torch.tensor([int(truth) for truth in truths])))


def figure(patients: Sequence[str], values: np.ndarray, of: Callable[[np.ndarray], float], seed: int = 0) -> Figure:
    """A figure of rows of ``values`` (n, ...), each of one of ``patients``."""
    people = sorted(set(patients))
    if not people:
        return Figure(float("nan"), float("nan"), float("nan"), 0, 0)
    rows = {person: np.flatnonzero(np.array(patients) == person) for person in people}
    rng = np.random.default_rng(seed)
    drawn = []
    for _ in range(DRAWS):
        chosen = rng.integers(0, len(people), len(people))
        drawn.append(of(values[np.concatenate([rows[people[i]] for i in chosen])]))
    kept = np.array(drawn)[~np.isnan(drawn)]
    low, high = np.percentile(kept, [2.5, 97.5]) if len(kept) else (float("nan"),) * 2
    return Figure(of(values), float(low), float(high), len(values), len(people))


def mean(values: np.ndarray) -> float:
    """The mean; NaN of nothing."""
    return float(values.mean()) if len(values) else float("nan")


def area(values: np.ndarray) -> float:
    """`auc` of rows (score, truth)."""
    return auc(values[:, 0].tolist(), (values[:, 1] > 0.5).tolist())


def points_at(heat: np.ndarray, mask: np.ndarray) -> bool:
    """The pointing game: whether the highest place of a map lies in the mask."""
    return bool(mask[np.unravel_index(int(heat.argmax()), heat.shape)])


def scaled(heat: np.ndarray) -> np.ndarray:
    """A map brought to 0 to 1."""
    low, high = float(heat.min()), float(heat.max())
    return (heat - low) / max(high - low, 1e-9)


def overlap(heat: np.ndarray, mask: np.ndarray, threshold: float) -> float:
    """Intersection over union of a mask and where a scaled map exceeds a threshold."""
    found = scaled(heat) > threshold
    return float((found & mask).sum() / max(int((found | mask).sum()), 1))


def box_iou(found: torch.Tensor, wanted: torch.Tensor) -> float:
    """Intersection over union of two boxes (4,), centre and size."""
    corners = [box_convert(box[None], "cxcywh", "xyxy") for box in (found, wanted)]
    return float(pairwise_iou(*corners)[0, 0])
