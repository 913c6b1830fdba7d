"""Which structure a coarse cell looks like, wherever the match puts it: attention to all of the reference and not to a neighbourhood.

An organ that lies elsewhere than in the reference, or is much larger, can't be carried there by a smooth field; its looks still give it
away.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .correspondence import COARSE_STEP, Embedded, at_once, attention, pool, positions
from .settings import DEFAULT, MatchingSettings

# What is compared at once should stay in the processor's cache.
_AT_ONCE = 128


def global_attention(
    target: Embedded, reference: Embedded, field: Tensor, labels: Tensor, count: int, settings: MatchingSettings = DEFAULT
) -> Tensor:
    """Label probabilities of the target's coarse cells.

    Args:
        field: Reference positions in mm (D, H, W, 3) of the target's voxels.
        labels: The reference's labels (D', H', W'), 0 is background, below ``count``.
        settings: Sharpness and reach of the attention.

    Returns:
        (count, D/4, H/4, W/4), extents rounded up; zeros where the target is air.

    Source: own design, after label transfer by non-local attention.
    """
    inside = _inside(target)
    out = torch.zeros(count, *inside.shape, device=inside.device)
    known = _inside(reference)
    if not inside.any() or not known.any():
        return out
    shares = _shares(labels, count)[known]
    where = positions(reference.size, reference.spacing, COARSE_STEP, device=known.device)[known]
    chosen, weight = _thinned(shares, settings.global_keys)
    shares, where = shares[chosen], where[chosen]
    expected = pool(field, COARSE_STEP, first=0)[inside]
    reach = settings.global_width * float((where.max(0)[0] - where.min(0)[0]).norm()) / 3**0.5
    pull = 1 / max(reach, 1e-3) ** 2
    # Of a squared distance only the mixed product and the key's own square tell keys apart: looks and distance are one product.
    centre = where.mean(0)
    expected, where = expected - centre, where - centre
    own = weight.log() - 0.5 * pull * where.square().sum(1)
    query = torch.cat([target.looks(inside) * settings.global_sharpness, expected * pull, expected.new_ones(len(expected), 1)], dim=1)
    keys = torch.cat([reference.looks(known)[chosen], where, own[:, None]], dim=1).t().contiguous()
    every = query.split(at_once(_AT_ONCE, query.device))
    out[:, inside] = torch.cat([attention(some @ keys) @ shares for some in every]).t()
    return out


def _inside(volume: Embedded) -> Tensor:
    return pool(volume.inside[None].float(), COARSE_STEP)[0] > 0.25


def _shares(labels: Tensor, count: int) -> Tensor:
    """The shares of the labels in every coarse cell, (D/4, H/4, W/4, count)."""
    z, y, x = (torch.arange(n, device=labels.device) // COARSE_STEP for n in labels.shape)
    depth, height, width = (int(axis[-1]) + 1 for axis in (z, y, x))
    cell = (z[:, None, None] * height + y[:, None]) * width + x
    # Counted and not pooled: a plane for each of a hundred labels would take gigabytes.
    counts = torch.bincount((cell * count + labels).flatten(), minlength=depth * height * width * count).view(depth, height, width, count)
    return counts / counts.sum(3, keepdim=True)


def _thinned(shares: Tensor, keys: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Which cells to compare with, and how many each stands for, given every cell's shares of the labels (N, count).

    Cells that hold one label alone are thinned out first: they are the inside of large structures, and look alike. ``keys`` are the usual
    number and the largest.
    """
    plain = shares.max(1)[0] > 0.99
    # Drawn on the CPU, so that every device thins out the same.
    order = torch.randperm(len(shares), generator=torch.Generator().manual_seed(0)).to(shares.device)
    count = min(max(keys[0], int((~plain).sum())), keys[1])
    chosen = order[plain[order].int().argsort(stable=True)][:count]
    kept = plain[chosen]
    weight = shares.new_ones(len(chosen))
    weight[kept] = float(plain.sum()) / max(int(kept.sum()), 1)
    return chosen, weight
