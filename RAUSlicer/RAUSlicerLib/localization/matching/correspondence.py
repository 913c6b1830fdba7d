"""Regularized 3D correspondence from embeddings: a robust affine map first, then a smooth displacement of every voxel.

Positions are (z, y, x) in mm along the axes of each volume's working grid, from the centre of its first voxel.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

COARSE_STEP = 4
MOST_CELLS = 4000


@dataclass(frozen=True)
class Embedded:
    """A volume as the matching network sees it.

    ``fine`` (C, D, H, W) and ``coarse`` (C', D/4, H/4, W/4) are unit embeddings, ``texture`` (6, D, H, W) describes local intensities,
    ``inside`` (D, H, W) is the foreground, ``spacing`` is (z, y, x) in mm.
    """

    fine: Tensor
    coarse: Tensor
    texture: Tensor
    inside: Tensor
    spacing: tuple[float, float, float]

    @property
    def size(self) -> tuple[int, int, int]:
        return tuple(self.fine.shape[1:])  # type: ignore[return-value]

    def cells(self) -> tuple[Tensor, Tensor, Tensor]:
        """Coarse cells that hold foreground: where (D/4, H/4, W/4), unit embeddings of both kinds (N, C' + C), positions in mm (N, 3).

        Of more than a few thousand only every second, fourth or eighth is taken, evenly spread: attention costs their number squared.
        """
        d, h, w = self.coarse.shape[1:]
        inside = pool(self.inside[None].float(), COARSE_STEP)[0] > 0.25
        z, y, x = torch.meshgrid(torch.arange(d), torch.arange(h), torch.arange(w), indexing="ij")
        count = int(inside.sum())
        if count > MOST_CELLS:
            inside &= (z + y + x) % 2 == 0
        if count > 2 * MOST_CELLS:
            inside &= y % 2 == 0
        if count > 4 * MOST_CELLS:
            inside &= x % 2 == 0
        at = inside.nonzero()
        both = torch.cat([self.coarse, F.normalize(pool(self.fine, COARSE_STEP), dim=0)]) / 2**0.5
        return inside, both[:, at[:, 0], at[:, 1], at[:, 2]].t(), positions(self.size, self.spacing, COARSE_STEP)[inside]


def pool(values: Tensor, step: int) -> Tensor:
    """Means (C, d, h, w) over cells of ``step`` voxels; the last cells, and an axis shorter than a cell, have fewer."""
    if step == 1:
        return values
    kernel = [min(step, n) for n in values.shape[1:]]
    return F.avg_pool3d(values[None], kernel, stride=step, ceil_mode=True, count_include_pad=False)[0]


def axis_centres(extent: int, step: int) -> Tensor:
    """Centres of cells of ``step`` voxels along an axis, in voxels. A volume thinner than a cell has one, in its own middle."""
    return torch.arange(-(-extent // step)).float() * step + (min(step, extent) - 1) / 2


def self_similarity(image: Tensor, reach: int = 2) -> Tensor:
    """How alike each voxel's neighbourhood is to those ``reach`` voxels away along each axis, (6, D, H, W); the same in any contrast.

    Source: modality independent neighbourhood descriptor (Heinrich et al., 2012), with six neighbours.
    """
    values = image[None, None]
    distances = []
    for axis in range(3):
        for shift in (-reach, reach):
            difference = (values - torch.roll(values, shift, 2 + axis)) ** 2
            distances.append(F.avg_pool3d(F.pad(difference, (1,) * 6, mode="replicate"), 3, stride=1)[0, 0])
    distance = torch.stack(distances)
    variance = distance.mean(0)
    likeness = torch.exp(-distance / variance.clamp(min=1e-3 * float(variance.mean()) + 1e-6))
    return likeness - likeness.mean(0, keepdim=True)


@dataclass(frozen=True)
class Affine:
    """Maps target positions to reference positions: ``x @ linear.T + shift``; ``support`` is the share of coarse matches that agree."""

    linear: Tensor
    shift: Tensor
    support: float

    def __call__(self, positions: Tensor) -> Tensor:
        return positions @ self.linear.t() + self.shift


def _plausible(linear: Tensor) -> Tensor:
    """Affine maps (B, 3, 3) that patients can differ by: no mirror, no extreme stretch."""
    values = torch.linalg.svdvals(linear)
    return (torch.linalg.det(linear) > 0) & (values[:, 0] < 1.8) & (values[:, 2] > 0.5)


def _solve(target: Tensor, reference: Tensor, weight: Tensor, stiffness: float) -> tuple[Tensor, Tensor]:
    """Weighted least squares (B, N, 3) -> linear (B, 3, 3), shift (B, 3); pulled toward the identity where the points say little."""
    total = weight.sum(1, keepdim=True).clamp(min=1e-6)
    a = (weight[..., None] * target).sum(1) / total
    b = (weight[..., None] * reference).sum(1) / total
    x, y = target - a[:, None], reference - b[:, None]
    covariance = torch.einsum("bn,bni,bnj->bij", weight, x, x) / total[..., None]
    cross = torch.einsum("bn,bni,bnj->bij", weight, y, x) / total[..., None]
    ridge = stiffness * torch.eye(3)
    linear = (cross + ridge) @ torch.linalg.inv(covariance + ridge)
    return linear, b - torch.einsum("bij,bj->bi", linear, a)


def global_affine(target: Embedded, reference: Embedded, *, seed: int = 0) -> Affine:
    """Robust affine map from mutual nearest coarse cells (random samples of four, then reweighted least squares).

    It needs no start position, so that a patch of the field of view, a rotation or a shift doesn't matter. Deterministic for a seed.
    """
    _, query, at = target.cells()
    _, keys, where = reference.cells()
    if len(query) < 8 or len(keys) < 8:
        return Affine(torch.eye(3), where.mean(0) - at.mean(0) if len(at) and len(where) else torch.zeros(3), 0.0)
    similarity = query @ keys.t()
    best, to = similarity.max(1)
    back = similarity.argmax(0)
    # A match need not be exactly mutual: its way back may end in a neighbouring cell.
    cell = COARSE_STEP * float(np.mean(target.spacing))
    mutual = (at[back[to]] - at).norm(dim=1) < 2.1 * max(cell, COARSE_STEP * max(target.spacing) * 0.5)
    chosen = mutual.nonzero()[:, 0] if mutual.sum() >= 12 else torch.arange(len(query))
    x, y, confidence = at[chosen], where[to[chosen]], best[chosen].clamp(min=0.05)
    extent = float((y.max(0)[0] - y.min(0)[0]).norm())
    tolerance = 0.07 * extent + cell * 0.5
    stiffness = (0.12 * extent) ** 2
    generator = torch.Generator().manual_seed(seed)
    picks = torch.multinomial(confidence, 4 * 1500, replacement=True, generator=generator).view(1500, 4)
    linear, shift = _solve(x[picks], y[picks], torch.ones(1500, 4), 0.15 * stiffness)
    error = (torch.einsum("bij,nj->bni", linear, x) + shift[:, None] - y).norm(dim=2)
    score = (confidence * (1 - (error / tolerance) ** 2).clamp(min=0)).sum(1) * _plausible(linear)
    winner = int(score.argmax())
    a, b = linear[winner : winner + 1], shift[winner : winner + 1]
    for _ in range(10):
        error = (torch.einsum("bij,nj->bni", a, x) + b[:, None] - y).norm(dim=2)[0]
        weight = confidence * (1 - (error / (1.5 * tolerance)) ** 2).clamp(min=0) ** 2
        if float(weight.sum()) < 1e-3:
            break
        new_a, new_b = _solve(x[None], y[None], weight[None], 0.05 * stiffness)
        if not bool(_plausible(new_a)[0]):
            break
        a, b = new_a, new_b
    error = (x @ a[0].t() + b[0] - y).norm(dim=1)
    return Affine(a[0], b[0], float((error < tolerance).float().mean()) * float(mutual.float().mean()))


def _smooth(field: Tensor, weight: Tensor, sigma: float) -> Tensor:
    """Normalized Gaussian smoothing of a field (3, D, H, W) with confidences (D, H, W); ``sigma`` in cells."""
    radius = max(1, int(2.5 * sigma))
    kernel = torch.exp(-0.5 * (torch.arange(-radius, radius + 1).float() / sigma) ** 2)
    stacked = torch.cat([field * weight, weight[None]])[:, None]
    for axis in range(3):
        shape = [1, 1, 1, 1, 1]
        shape[2 + axis] = len(kernel)
        padding = [0, 0, 0]
        padding[axis] = radius
        stacked = F.conv3d(stacked, kernel.view(shape), padding=tuple(padding))
    return stacked[:3, 0] / stacked[3:, 0].clamp(min=1e-4)


def positions(size: tuple[int, int, int], spacing: tuple[float, float, float], step: int = 1) -> Tensor:
    """Positions in mm (D, H, W, 3) of a grid's voxels, or of the centres of its cells of ``step`` voxels."""
    axes = [axis_centres(n, step) * s for n, s in zip(size, spacing, strict=True)]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)


def coarse_field(
    target: Embedded,
    reference: Embedded,
    affine: Affine,
    *,
    scale: float = 50.0,
    rounds: tuple[tuple[float, float], ...] = ((0.16, 3.0), (0.10, 2.0), (0.07, 1.5)),
) -> Tensor:
    """Reference positions in mm (D/4, H/4, W/4, 3) of the target's coarse cells.

    Each round attends to reference cells near the current estimate (a share of the extent) and smooths the answer over neighbouring
    cells (in cells), the surer ones counting more.
    """
    inside, query, _ = target.cells()
    _, keys, where = reference.cells()
    cells = positions(target.size, target.spacing, COARSE_STEP)
    estimate = affine(cells.view(-1, 3)).view(cells.shape)
    if len(query) < 8 or len(keys) < 8:
        return estimate
    logits = query @ keys.t() * scale
    extent = float((where.max(0)[0] - where.min(0)[0]).norm()) / 3**0.5
    base = affine(cells.view(-1, 3)).view(cells.shape)
    for width, sigma in rounds:
        near = -0.5 * (torch.cdist(estimate[inside], where) / (width * extent)) ** 2
        attention = (logits + near).softmax(1)
        answer = attention @ where
        # Variance as mean square minus square of the mean: no second matrix of distances.
        spread = (attention @ (where**2).sum(1) - (answer**2).sum(1)).clamp(min=0).sqrt()
        confidence = 1 / (1 + (spread / (0.05 * extent)) ** 2)
        residual = torch.zeros_like(cells)
        residual[inside] = answer - base[inside]
        weight = torch.zeros(cells.shape[:3])
        weight[inside] = confidence
        # A little weight at zero residual holds the field to the affine map where nothing is known.
        smooth = _smooth(residual.permute(3, 0, 1, 2), weight + 1e-3, sigma)
        estimate = base + smooth.permute(1, 2, 3, 0)
    return estimate


def sample(volume: Tensor, where: Tensor, spacing: tuple[float, float, float], mode: str = "bilinear", outside: str = "zeros") -> Tensor:
    """Values (C, d, h, w) of a volume (C, D, H, W) at positions in mm (d, h, w, 3); beyond it ``zeros`` or the values at its ``border``."""
    size = torch.tensor(volume.shape[1:]).float()
    unit = where / torch.tensor(spacing) / (size - 1).clamp(min=1) * 2 - 1
    return F.grid_sample(volume[None], unit.flip(-1)[None], mode=mode, padding_mode=outside, align_corners=True)[0]


def fuse_labels(
    target: Embedded,
    reference: Embedded,
    field: Tensor,
    labels: Tensor,
    count: int,
    *,
    radius: int = 2,
    scale: float = 25.0,
    width: float = 1.5,
) -> tuple[Tensor, Tensor]:
    """Carries labels over by local attention around the matched position.

    Args:
        field: Reference positions in mm (D, H, W, 3) of the target's voxels.
        labels: The reference's labels (D', H', W'), 0 is background, below ``count``.
        radius: Half width of the window in voxels.
        width: Standard deviation of the preference for the matched position, in voxels.

    Returns:
        Indices (N,) of the target's foreground voxels that may hold a label and label probabilities (N, count) there. Voxels whose window
        holds background alone are left out, others whose window holds one label alone are not compared: that spares most of the time.

    Source: attention over a search window as in patch-based label fusion (Coupe et al., 2011), with learned embeddings for patches.
    """
    moved = sample(labels[None].float() + 1, field, reference.spacing, mode="nearest")[0].round() - 1
    depth, height, width_ = target.size
    anisotropy = [s / min(target.spacing) for s in target.spacing]
    reach = [max(1, int(radius / a + 0.5)) if n > 1 else 0 for a, n in zip(anisotropy, target.size, strict=True)]
    highest, lowest = _window(moved, reach), -_window(-moved, reach)
    where = (target.inside & (highest > 0)).flatten().nonzero()[:, 0]
    alone = (highest == lowest).flatten()[where]
    mixed = where[~alone]
    values = moved.flatten().long()
    probability = torch.zeros(len(where), count)
    probability[alone, values[where[alone]]] = 1.0
    query = target.fine.flatten(1).t()[mixed]
    keys = F.normalize(sample(reference.fine, field, reference.spacing), dim=0, eps=1e-6).flatten(1).t().contiguous()
    z, y, x = mixed // (height * width_), mixed // width_ % height, mixed % width_
    total = torch.zeros(len(mixed) * count)
    row = torch.arange(len(mixed)) * count
    for dz in range(-reach[0], reach[0] + 1):
        for dy in range(-reach[1], reach[1] + 1):
            for dx in range(-reach[2], reach[2] + 1):
                distance = (dz * anisotropy[0]) ** 2 + (dy * anisotropy[1]) ** 2 + (dx * anisotropy[2]) ** 2
                if distance > radius**2 + 0.1 and (dz, dy, dx).count(0) < 2:
                    continue
                zz, yy, xx = (z + dz).clamp(0, depth - 1), (y + dy).clamp(0, height - 1), (x + dx).clamp(0, width_ - 1)
                at = (zz * height + yy) * width_ + xx
                label = values[at]
                known = label >= 0
                weight = torch.exp(((query * keys[at]).sum(1) - 1) * scale - 0.5 * distance / width**2) * known
                total.index_add_(0, row + label.clamp(min=0), weight)
    total = total.view(len(mixed), count)
    probability[~alone] = total.div_(total.sum(1, keepdim=True).clamp(min=1e-12))
    return where, probability


def _window(values: Tensor, reach: list[int]) -> Tensor:
    """The maximum over a window of so many voxels to each side."""
    kernel = [2 * r + 1 for r in reach]
    return F.max_pool3d(values[None, None], kernel, stride=1, padding=reach)[0, 0]
