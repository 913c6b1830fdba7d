"""Regularized 3D correspondence from embeddings: a robust affine map first, then a smooth displacement of every voxel.

Positions are (z, y, x) in mm along the axes of each volume's working grid, from the centre of its first voxel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from .settings import DEFAULT, MatchingSettings

COARSE_STEP = 4
MOST_CELLS = 4000
# What is compared at once should fit into the processor's cache: voxels with their windows, and cells with all others.
_CHUNK, _ROWS = 4096, 128
# A GPU has no such cache to keep to, and beginning takes it longer than computing: so many times more at once.
_MORE_ON_GPU = 8
# Logits this far below a row's largest are raised to it. Their shares stay far below what single precision tells apart, but further down
# they would be subnormal numbers, with which a processor takes many times as long: three seconds of a brain's thirty.
_LOWEST = -40.0


@dataclass(frozen=True)
class Embedded:
    """A volume as the matching network sees it.

    ``fine`` (C, D, H, W) and ``coarse`` (C', D/4, H/4, W/4) are unit embeddings, ``texture`` (6, D, H, W) describes local intensities,
    ``inside`` (D, H, W) is the foreground, ``spacing`` is (z, y, x) in mm. ``read`` (C'', D, H, W; any float type) is what the classifier
    over the training labels reads, None where there is none.
    """

    fine: Tensor
    coarse: Tensor
    texture: Tensor
    inside: Tensor
    spacing: tuple[float, float, float]
    read: Tensor | None = None

    @property
    def size(self) -> tuple[int, int, int]:
        return tuple(self.fine.shape[1:])  # type: ignore[return-value]

    @property
    def fine_rows(self) -> Tensor:
        """The fine embedding a voxel (D * H * W, C); no copy if it lies in memory so, as the network gives it."""
        return self.fine.permute(1, 2, 3, 0).reshape(-1, len(self.fine))

    @property
    def label_rows(self) -> Tensor:
        """What the classifier over the training labels reads, a voxel (D * H * W, C'')."""
        assert self.read is not None
        return self.read.permute(1, 2, 3, 0).reshape(-1, len(self.read))

    @cached_property
    def cells(self) -> tuple[Tensor, Tensor, Tensor]:
        """Coarse cells that hold foreground: where (D/4, H/4, W/4), unit embeddings of both kinds (N, C' + C), positions in mm (N, 3).

        Of more than a few thousand only every second, fourth or eighth is taken, evenly spread: attention costs their number squared.
        """
        d, h, w = self.coarse.shape[1:]
        inside = pool(self.inside[None].float(), COARSE_STEP)[0] > 0.25
        z, y, x = torch.meshgrid(*(torch.arange(n, device=inside.device) for n in (d, h, w)), indexing="ij")
        count = int(inside.sum())
        if count > MOST_CELLS:
            inside &= (z + y + x) % 2 == 0
        if count > 2 * MOST_CELLS:
            inside &= y % 2 == 0
        if count > 4 * MOST_CELLS:
            inside &= x % 2 == 0
        return inside, self.looks(inside), positions(self.size, self.spacing, COARSE_STEP, device=inside.device)[inside]

    def looks(self, cells: Tensor) -> Tensor:
        """Unit embeddings of both kinds (N, C' + C) of some coarse cells, given as booleans (D/4, H/4, W/4)."""
        return torch.cat([self.coarse.permute(1, 2, 3, 0)[cells], F.normalize(self._pooled[cells], dim=1)], dim=1) / 2**0.5

    @cached_property
    def _pooled(self) -> Tensor:
        return pool(self.fine.permute(1, 2, 3, 0), COARSE_STEP, first=0)


def pool(values: Tensor, step: int, *, first: int = 1) -> Tensor:
    """Means over cells of ``step`` voxels, along the three axes from ``first`` on.

    The last cells, and an axis shorter than a cell, have fewer voxels.
    """
    if step == 1:
        return values
    for axis in range(first, first + 3):
        whole = values.shape[axis] // step
        body, rest = values.split([whole * step, values.shape[axis] % step], axis)
        means = [body.unflatten(axis, (whole, step)).mean(axis + 1)] if whole else []
        values = torch.cat([*means, rest.mean(axis, keepdim=True)], axis) if rest.shape[axis] else means[0]
    return values


def axis_centres(extent: int, step: int, device: torch.device | None = None) -> Tensor:
    """Centres of cells of ``step`` voxels along an axis, in voxels. A volume thinner than a cell has one, in its own middle."""
    return torch.arange(-(-extent // step), device=device).float() * step + (min(step, extent) - 1) / 2


def self_similarity(image: Tensor, reach: int = 2) -> Tensor:
    """How alike each voxel's neighbourhood is to those ``reach`` voxels away along each axis, (6, D, H, W); the same in any contrast.

    Source: modality independent neighbourhood descriptor (Heinrich et al., 2012), with six neighbours.
    """
    distance = image.new_empty(6, *image.shape)
    for axis in range(3):
        ahead = _mean_around((image - torch.roll(image, -reach, axis)).square_())
        # What lies behind a voxel is ahead of another.
        distance[2 * axis], distance[2 * axis + 1] = ahead, torch.roll(ahead, reach, axis)
    variance = distance.mean(0)
    similarity = distance.div_(variance.clamp_(min=1e-3 * float(variance.mean()) + 1e-6).neg_()).exp_()
    return similarity.sub_(similarity.mean(0))


def _mean_around(values: Tensor) -> Tensor:
    """Means over the 27 voxels in and around each (D, H, W), those at the rim repeated; nine times as fast as torch's pooling in 3D."""
    for axis, extent in enumerate(values.shape):
        total = values.clone()
        for to, given in ((1, 0), (0, 1)):
            total.narrow(axis, to, extent - 1).add_(values.narrow(axis, given, extent - 1))
        for rim in (0, extent - 1):
            total.narrow(axis, rim, 1).add_(values.narrow(axis, rim, 1))
        values = total
    return values.div_(27)


@dataclass(frozen=True)
class Affine:
    """Maps target positions to reference positions: ``x @ linear.T + shift``; ``inlier_ratio`` is the share of coarse matches that agree.

    It lies on the CPU, and maps positions on any device.
    """

    linear: Tensor
    shift: Tensor
    inlier_ratio: float

    def __call__(self, positions: Tensor) -> Tensor:
        return positions @ self.linear.t().to(positions.device) + self.shift.to(positions.device)


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
    _, query, at = target.cells
    _, keys, where = reference.cells
    # What is compared stays on its device; of a few thousand pairs a CPU solves small systems sooner, and the same pairs everywhere.
    at, where = at.cpu(), where.cpu()
    if len(query) < 8 or len(keys) < 8:
        return Affine(torch.eye(3), where.mean(0) - at.mean(0) if len(at) and len(where) else torch.zeros(3), 0.0)
    cosine = query @ keys.t()
    best, to = (values.cpu() for values in cosine.max(1))
    back = cosine.argmax(0).cpu()
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
    # Errors squared, a few maps at a time; sums over the middle axis are far faster than torch's norm over the last.
    errors = ((a @ x.t() + b[:, :, None] - y.t()).square().sum(1) for a, b in zip(linear.split(_ROWS), shift.split(_ROWS), strict=True))
    score = torch.cat([(1 - error / tolerance**2).clamp(min=0) @ confidence for error in errors]) * _plausible(linear)
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


def similarity(first: Embedded, second: Embedded) -> float:
    """How alike two volumes look, 1 is the same, whatever lies where: mean cosine of one's coarse cells with the most alike of the other.

    Of both ways the larger counts: half a body is alike to the whole, which has more to show. 0 where either volume is air.
    """
    ours, theirs = (volume.coarse.permute(1, 2, 3, 0)[volume.cells[0]] for volume in (first, second))
    if len(ours) == 0 or len(theirs) == 0:
        return 0.0
    cosine = ours @ theirs.t()
    return max(float(cosine.amax(axis).mean()) for axis in (0, 1))


def at_once(count: int, device: torch.device) -> int:
    """How many to compute together on a device, if a CPU should take ``count``."""
    return count if device.type == "cpu" else _MORE_ON_GPU * count


def attention(logits: Tensor) -> Tensor:
    """Softmax over the last axis of logits (n, k), which are overwritten."""
    return logits.sub_(logits.amax(1, keepdim=True)).clamp_(min=_LOWEST).softmax(1)


def _smooth(field: Tensor, weight: Tensor, sigma: float) -> Tensor:
    """Normalized Gaussian smoothing of a field (3, D, H, W) with confidences (D, H, W); ``sigma`` in cells."""
    radius = max(1, int(2.5 * sigma))
    kernel = torch.exp(-0.5 * (torch.arange(-radius, radius + 1, device=field.device).float() / sigma) ** 2)
    stacked = torch.cat([field * weight, weight[None]])[:, None]
    for axis in range(3):
        shape = [1, 1, 1, 1, 1]
        shape[2 + axis] = len(kernel)
        padding = [0, 0, 0]
        padding[axis] = radius
        stacked = F.conv3d(stacked, kernel.view(shape), padding=tuple(padding))
    return stacked[:3, 0] / stacked[3:, 0].clamp(min=1e-4)


def positions(size: tuple[int, int, int], spacing: tuple[float, float, float], step: int = 1, device: torch.device | None = None) -> Tensor:
    """Positions in mm (D, H, W, 3) of a grid's voxels, or of the centres of its cells of ``step`` voxels."""
    axes = [axis_centres(n, step, device) * s for n, s in zip(size, spacing, strict=True)]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)


def coarse_field(
    target: Embedded,
    reference: Embedded,
    affine: Affine,
    settings: MatchingSettings = DEFAULT,
) -> Tensor:
    """Reference positions in mm (D/4, H/4, W/4, 3) of the target's coarse cells.

    Each round attends to reference cells near the current estimate (a share of the extent) and smooths the answer over neighbouring
    cells (in cells), the surer ones counting more.
    """
    inside, query, _ = target.cells
    _, keys, where = reference.cells
    cells = positions(target.size, target.spacing, COARSE_STEP, device=inside.device)
    estimate = affine(cells.view(-1, 3)).view(cells.shape)
    if len(query) < 8 or len(keys) < 8:
        return estimate
    extent = float((where.max(0)[0] - where.min(0)[0]).norm()) / 3**0.5
    base = affine(cells.view(-1, 3)).view(cells.shape)
    some = at_once(_ROWS, cells.device)
    for width, sigma in settings.coarse_rounds:
        places = torch.cat([where, (where**2).sum(1, keepdim=True)], dim=1)
        means = []
        for rows, near in zip(query.split(some), estimate[inside].split(some), strict=True):
            logits = (
                (rows @ keys.t())
                .mul_(settings.coarse_sharpness)
                .sub_(torch.cdist(near, where).square_(), alpha=0.5 / (width * extent) ** 2)
            )
            means.append(attention(logits) @ places)
        answer, square = torch.cat(means).split([3, 1], dim=1)
        # Variance as mean square minus square of the mean: no second matrix of distances.
        spread = (square[:, 0] - (answer**2).sum(1)).clamp(min=0).sqrt()
        confidence = 1 / (1 + (spread / (0.05 * extent)) ** 2)
        residual = torch.zeros_like(cells)
        residual[inside] = answer - base[inside]
        weight = cells.new_zeros(cells.shape[:3])
        weight[inside] = confidence
        # A little weight at zero residual holds the field to the affine map where nothing is known.
        smooth = _smooth(residual.permute(3, 0, 1, 2), weight + 1e-3, sigma)
        estimate = base + smooth.permute(1, 2, 3, 0)
    return estimate


def sample(volume: Tensor, where: Tensor, spacing: tuple[float, float, float], mode: str = "bilinear", outside: str = "zeros") -> Tensor:
    """Values (C, d, h, w) of a volume (C, D, H, W) at positions in mm (d, h, w, 3); beyond it ``zeros`` or the values at its ``border``."""
    size = torch.tensor(volume.shape[1:], device=where.device).float()
    unit = where / torch.tensor(spacing, device=where.device) / (size - 1).clamp(min=1) * 2 - 1
    return F.grid_sample(volume[None], unit.flip(-1)[None], mode=mode, padding_mode=outside, align_corners=True)[0]


def interpolate(rows: Tensor, size: Sequence[int], at: Tensor) -> Tensor:
    """Values (n, C) of a volume between its voxels, linear; beyond it those at its border.

    Several times faster than ``grid_sample``, which is not vectorized in 3D.

    Args:
        rows: The volume's values a voxel, (D * H * W, C).
        size: (D, H, W).
        at: Places (3, n) in voxels, (z, y, x).
    """
    strides = (size[1] * size[2], size[2], 1)
    corner = torch.zeros(at.shape[1], dtype=torch.int32, device=at.device)
    shares, steps = [], []
    for places, extent, stride in zip(at, size, strides, strict=True):
        inside = places.clamp(0, extent - 1)
        low = inside.floor().clamp_(max=max(extent - 2, 0))
        share = inside.sub_(low)
        shares.append((1 - share, share))
        steps.append(stride if extent > 1 else 0)
        corner += low.int() * stride
    offsets = [z + y + x for z in (0, steps[0]) for y in (0, steps[1]) for x in (0, steps[2])]
    weights = at.new_empty(at.shape[1], 8)
    for number in range(8):
        z, y, x = (share[number >> (2 - axis) & 1] for axis, share in enumerate(shares))
        torch.mul(z * y, x, out=weights[:, number])
    corners = corner[:, None] + torch.tensor(offsets, dtype=torch.int32, device=at.device)
    return F.embedding_bag(corners, rows, mode="sum", per_sample_weights=weights)


def fuse_labels(
    target: Embedded,
    reference: Embedded,
    field: Tensor,
    labels: Tensor,
    count: int,
    *,
    radius: int = DEFAULT.attention_radius,
    scale: float = DEFAULT.attention_sharpness,
    width: float = DEFAULT.attention_width,
    least: float = 0.0,
) -> tuple[Tensor, Tensor, Tensor]:
    """Carries labels over by local attention around the matched position.

    Args:
        field: Reference positions in mm (D, H, W, 3) of the target's voxels.
        labels: The reference's labels (D', H', W'), 0 is background, below ``count``.
        radius: Half width of the window in voxels.
        width: Standard deviation of the preference for the matched position, in voxels.
        least: Probabilities up to this are left out.

    Returns:
        What each voxel may hold beside background: indices (K,) of voxels of the target's foreground, a label (K,) and its probability
        (K,), in the order of the labels. Where the window holds one label alone nothing is compared: that spares most of the time.

    Source: attention over a search window as in patch-based label fusion (Coupe et al., 2011), with learned embeddings for patches.
    """
    size, device = target.size, field.device
    places = (field / torch.tensor(reference.spacing, device=device)).view(-1, 3).t()
    moved = _nearest(labels, places)
    reach = [max(1, int(radius * min(target.spacing) / s + 0.5)) if n > 1 else 0 for s, n in zip(target.spacing, size, strict=True)]
    highest, lowest = _window(moved.view(size), reach), -_window(-moved.view(size), reach)
    asked = target.inside & (highest > 0)
    alone = (asked & (highest == lowest)).flatten().nonzero()[:, 0]
    mixed = (asked & (highest != lowest)).flatten().nonzero()[:, 0]
    # Only what lies in a window is brought over.
    seen = (_window((asked & (highest != lowest)).float(), reach) > 0).flatten().nonzero()[:, 0]
    keys = interpolate(reference.fine_rows, reference.size, places[:, seen])
    # In place: a copy takes 300 MB on a brain.
    keys /= keys.norm(dim=1, keepdim=True).clamp_(min=1e-6)
    slot = torch.zeros(len(moved), dtype=torch.int32, device=device)
    slot[seen] = torch.arange(len(seen), dtype=torch.int32, device=device)
    # Beyond the rim the outermost voxels go on: a window's voxels are then the same steps away from every voxel.
    slots, known = (_framed(values.view(size), reach) for values in (slot, moved.long()))
    _, rows_framed, columns_framed = slots.shape
    steps, distance = (values.to(device) for values in _neighbours(target.spacing, reach, radius))
    strides = torch.tensor([rows_framed * columns_framed, columns_framed, 1], device=device)
    # Sums and no products of matrices: a GPU has none of integers.
    away, preference = (steps * strides).sum(1).int(), -0.5 * distance / width**2 - scale
    slots, known = slots.flatten(), known.flatten()
    out = [(alone, moved[alone].long(), torch.ones(len(alone), device=device))]
    rows = target.fine_rows
    for chunk in mixed.split(at_once(_CHUNK, device)):
        place = torch.stack([chunk // (size[1] * size[2]), chunk // size[2] % size[1], chunk % size[2]], dim=1)
        place += torch.tensor(reach, device=device)
        at = ((place * strides).sum(1).int()[:, None] + away).flatten()
        # Indexing with brackets takes four times as long.
        shown = keys.index_select(0, slots.index_select(0, at)).unflatten(0, (len(chunk), len(away)))
        label = known.index_select(0, at).view(len(chunk), len(away))
        similarity = torch.bmm(shown, rows.index_select(0, chunk)[:, :, None])[:, :, 0]
        weight = similarity.mul_(scale).add_(preference).exp_().mul_(label >= 0)
        total = torch.zeros(len(chunk), count, device=device).scatter_add_(1, label.clamp_(min=0), weight)
        total /= total.sum(1, keepdim=True).clamp_(min=1e-12)
        total[:, 0] = 0
        total = total.flatten()
        found = (total > least).nonzero()[:, 0]
        out.append((chunk[found // count], found % count, total[found]))
    voxels, label, probability = (torch.cat(parts) for parts in zip(*out, strict=True))
    order = label.argsort(stable=True)
    return voxels[order], label[order], probability[order]


def _framed(values: Tensor, reach: Sequence[int]) -> Tensor:
    """Values (D, H, W) with so many voxels more on either side of each axis, those at the rim repeated."""
    for axis, (extent, more) in enumerate(zip(values.shape, reach, strict=True)):
        values = values.index_select(axis, torch.arange(-more, extent + more, device=values.device).clamp_(0, extent - 1))
    return values


def _nearest(labels: Tensor, places: Tensor) -> Tensor:
    """The labels (n,) of the voxels nearest to places (3, n) in voxels; -1 beyond the volume."""
    index, inside = places.new_zeros(places.shape[1], dtype=torch.long), places.new_ones(places.shape[1], dtype=torch.bool)
    for axis, extent in enumerate(labels.shape):
        number = places[axis].round()
        inside &= (number >= 0) & (number < extent)
        index = index * extent + number.clamp_(0, extent - 1).long()
    return torch.where(inside, labels.flatten()[index].float(), -1.0)


def _neighbours(spacing: tuple[float, float, float], reach: list[int], radius: int) -> tuple[Tensor, Tensor]:
    """Steps (n, 3) to the voxels of a window, and their distances squared (n,) in voxels of the finest axis."""
    steps = torch.cartesian_prod(*(torch.arange(-r, r + 1) for r in reach))
    distance = ((steps * torch.tensor(spacing) / min(spacing)) ** 2).sum(1)
    # The direct neighbours belong to any window, however thick slices are.
    near = (distance <= radius**2 + 0.1) | ((steps == 0).sum(1) >= 2)
    return steps[near], distance[near]


def _window(values: Tensor, reach: list[int]) -> Tensor:
    """The maximum over a window of so many voxels to each side; axis by axis it takes a fraction of the comparisons."""
    for axis, extent in enumerate(values.shape):
        highest = values.clone()
        for step in range(1, min(reach[axis], extent - 1) + 1):
            count = extent - step
            for to, given in ((step, 0), (0, step)):
                there = highest.narrow(axis, to, count)
                torch.maximum(there, values.narrow(axis, given, count), out=there)
        values = highest
    return values
