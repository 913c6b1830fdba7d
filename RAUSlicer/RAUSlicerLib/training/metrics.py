"""What training logs and judges by: overlap of masks and boxes, one value per object."""

from __future__ import annotations

import torch
from torch import Tensor


def dice(first: Tensor, second: Tensor) -> Tensor:
    """Dice of pairs of boolean masks (O, S, S), one value an object."""
    return 2 * (first & second).flatten(1).sum(1) / (first.flatten(1).sum(1) + second.flatten(1).sum(1)).clamp(min=1)


def box_iou(a: Tensor, b: Tensor) -> Tensor:
    """IoU of pairs of boxes (N, 4), one value a pair."""
    low, high = torch.maximum(a[:, :2], b[:, :2]), torch.minimum(a[:, 2:], b[:, 2:])
    overlap = (high - low).clamp(min=0).prod(1)
    union = (a[:, 2:] - a[:, :2]).clamp(min=0).prod(1) + (b[:, 2:] - b[:, :2]).clamp(min=0).prod(1) - overlap
    return overlap / union.clamp(min=1e-6)
