"""Pairs of subjects of anatomies that are drawn at random, with exact correspondence, so that matching learns more than a few body parts.

An anatomy is a map of cells: a real label map that is cut, joined and split, or nested regions, tubes, sheets and tiny parts drawn anew.
Its subjects are bent by strong smooth and local deformations, and lack or add parts. Each gets an image of the same contrast, of a related
or of another one.

Source: the idea of training on made-up anatomy and contrast, after SynthMorph (Hoffmann et al., 2022) and SynthSeg (Billot et al., 2023).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from .augment import Patch, cut, degrade, drop_field_of_view, patch_transform, random_affine, random_shift, recolor, smooth_noise
from .cases import TrainingCase
from .datasets import IGNORE

DOMAIN = "invented"
# Cells and structures of an anatomy; 255 means "nothing is known".
_MOST_CELLS, _MOST_STRUCTURES = 240, 90
# An anatomy is larger than a patch by this factor, so that a bent patch doesn't run out of it.
_LARGER = 1.2
_SAME_CONTRAST, _RELATED = 0.4, 0.3
_FROM_LABEL_MAPS = 0.5
# Parts that one of both subjects lacks.
_LACKING = 0.4


def invented_pair(cases: Sequence[TrainingCase], size: tuple[int, int, int], rng: np.random.Generator) -> tuple[Patch, Patch]:
    """Target and reference patch of a new anatomy; they share ``to_source`` and ``shift`` into its cells, and labels are its structures.

    Args:
        cases: Whose label maps some anatomies are made from.
        size: Of the patches (z, y, x).
        rng: Where all is drawn from.
    """
    depth, height, width = (round(extent * _LARGER) for extent in size)
    cells = anatomy(cases, (depth, height, width), rng)
    case = TrainingCase(DOMAIN, DOMAIN, DOMAIN, torch.zeros_like(cells), cells, (1.0, 1.0, 1.0), 1.0, {})
    centre = np.array(cells.shape) / 2
    base = random_affine(rng, (12.0, 10.0, 10.0), 0.1)
    patches = []
    for bent in (True, False):
        affine = base @ random_affine(rng)
        at = centre + rng.uniform(-8, 8, 3)
        shift = random_shift(size, rng, 1.2) + _local_changes(size, rng) if bent else None
        patches.append(cut(case, size, patch_transform(case, size, at, affine, 1.0), shift))
    _change_parts(patches, rng)
    _paint(patches, rng)
    structures = _structures(cells, rng)
    for patch in patches:
        patch.labels = structures[patch.labels]
    return patches[0], patches[1]


def anatomy(cases: Sequence[TrainingCase], size: tuple[int, int, int], rng: np.random.Generator) -> Tensor:
    """A new anatomy's cells as uint8 (z, y, x); 0 is air."""
    cells = _from_label_map(cases, size, rng) if len(cases) and rng.random() < _FROM_LABEL_MAPS else _regions(size, rng)
    if rng.random() < 0.5:
        cells = _with_shapes(cells, rng)
    values, index = cells.unique(return_inverse=True)
    # Air stays 0; what is too much for a byte joins what came before.
    numbers = torch.arange(len(values)) + int(values[0] != 0)
    return numbers.remainder(_MOST_CELLS).where(numbers >= _MOST_CELLS, numbers)[index].to(torch.uint8)


def tissue(size: tuple[int, int, int], rng: np.random.Generator) -> Tensor:
    """An image (z, y, x) of invented tissue, to put around label maps that have none."""
    table = torch.from_numpy(rng.uniform(0.08, 0.9, 512)).float()
    table[0] = 0
    return F.avg_pool3d(F.pad(table[_regions(size, rng)][None, None], (1,) * 6, mode="replicate"), 3, stride=1)[0, 0]


def _regions(size: tuple[int, int, int], rng: np.random.Generator) -> Tensor:
    """Regions of random sizes that fill a body, or all that is seen; some hold smaller ones."""
    knots = rng.integers(3, 8, 3)
    cells = _largest(smooth_noise(size, knots, int(rng.integers(6, 20)), rng)) + 1
    if rng.random() < 0.6:
        inner = _largest(smooth_noise(size, knots * 2, int(rng.integers(4, 8)), rng))
        nested = torch.from_numpy(rng.random(int(cells.max()) + 1) < 0.4)
        cells = cells + 32 * inner * nested[cells]
    if rng.random() < 0.6:
        axes = [torch.linspace(-1, 1, extent) / float(rng.uniform(0.65, 1.1)) for extent in size]
        radius = (axes[0][:, None, None] ** 2 + axes[1][None, :, None] ** 2 + axes[2][None, None, :] ** 2).sqrt()
        cells = cells * (radius + 0.15 * smooth_noise(size, (4, 4, 4), 1, rng)[0] < 1)
    return cells


def _largest(fields: Tensor) -> Tensor:
    """Which of the fields (C, z, y, x) is the largest; an argmax over the first axis takes ten times as long."""
    best, index = fields[0].clone(), torch.zeros(fields.shape[1:], dtype=torch.long)
    for number, field in enumerate(fields[1:], start=1):
        index.masked_fill_(field > best, number)
        torch.maximum(best, field, out=best)
    return index


def _from_label_map(cases: Sequence[TrainingCase], size: tuple[int, int, int], rng: np.random.Generator) -> Tensor:
    """Part of a real label map with labels joined and split, in invented tissue."""
    case = cases[int(rng.integers(len(cases)))]
    anchor = list(case.centroids.values())[int(rng.integers(len(case.centroids)))]
    working = case.working * float(np.exp(rng.uniform(-0.6, 0.2)))
    working = max(working, 0.8 * min(case.spacing))
    patch = cut(case, size, patch_transform(case, size, np.array(anchor), random_affine(rng), working))
    labels = patch.labels
    outside = labels == IGNORE
    if rng.random() < 0.5:
        # Neighbours in number are often neighbours in place.
        joined = torch.from_numpy(rng.integers(0, 256, 256)) if rng.random() < 0.3 else torch.arange(256) // int(rng.integers(2, 4)) + 1
        joined[0] = 0
        labels = joined[labels]
    if rng.random() < 0.7:
        parts = _largest(smooth_noise(size, rng.integers(3, 9, 3), int(rng.integers(2, 6)), rng))
        labels = labels * 8 - parts * (labels > 0)
    tissue = _regions(size, rng) + 4000
    # Air in an image is black; label maps without images say 0 there too.
    body = torch.full_like(outside, bool(rng.random() < 0.5)) if case.synthetic else outside | (patch.image > 0.04)
    rest = (labels == 0) | outside
    return torch.where(rest, tissue * (body & (tissue > 4000)), labels)


def _with_shapes(cells: Tensor, rng: np.random.Generator) -> Tensor:
    """The cells with tubes, sheets and tiny parts drawn into them."""
    size = tuple(cells.shape)
    body = cells > 0
    for number in range(int(rng.integers(1, 4))):
        fields = smooth_noise(size, rng.integers(3, 7, 3), 2, rng)
        width = float(rng.uniform(0.06, 0.22))
        inside = (fields[0] - float(rng.uniform(-0.4, 0.4))).abs() < width
        if rng.random() < 0.7:
            # Where two sheets meet there is a tube.
            inside &= (fields[1] - float(rng.uniform(-0.4, 0.4))).abs() < width
        cells = torch.where(inside & body, 9000 + number, cells)
    for number in range(int(rng.integers(0, 6))):
        radius = float(rng.uniform(1.5, 5.0))
        at = [float(rng.uniform(0.15, 0.85)) * extent for extent in size]
        axes = [(torch.arange(extent) - middle) / (radius * float(rng.uniform(0.7, 1.4))) for extent, middle in zip(size, at, strict=True)]
        ball = axes[0][:, None, None] ** 2 + axes[1][None, :, None] ** 2 + axes[2][None, None, :] ** 2 < 1
        cells = torch.where(ball & body, 9500 + number, cells)
    return cells


def _local_changes(size: tuple[int, int, int], rng: np.random.Generator) -> Tensor:
    """A displacement (z, y, x, 3) by which some places swell or shrink, as an enlarged ventricle or a small kidney."""
    total = torch.zeros(*size, 3)
    for _ in range(int(rng.integers(0, 4))):
        centre = [float(rng.uniform(0.1, 0.9)) * extent for extent in size]
        radius, amount = float(rng.uniform(5, 16)), float(rng.uniform(-0.45, 0.55))
        z, y, x = (torch.arange(extent) - middle for extent, middle in zip(size, centre, strict=True))
        fall = (-(z**2)[:, None, None] / (2 * radius**2) - (y**2)[None, :, None] / (2 * radius**2)).exp() * (
            -(x**2) / (2 * radius**2)
        ).exp()
        away = torch.stack(torch.meshgrid(z, y, x, indexing="ij"), dim=3)
        total -= away * (fall * amount)[..., None]
    return total


def _change_parts(patches: list[Patch], rng: np.random.Generator) -> None:
    """Let one subject lack a few parts that the other has: something near takes their place."""
    if rng.random() > _LACKING:
        return
    patch = patches[int(rng.integers(2))]
    present = patch.labels.unique()
    present = present[(present != IGNORE) & (present != 0)]
    if len(present) < 4:
        return
    for label in rng.choice(present.numpy(), int(rng.integers(1, max(2, len(present) // 6 + 1))), replace=False):
        gone = patch.labels == int(label)
        around = F.max_pool3d(gone[None, None].float(), 3, stride=1, padding=1)[0, 0] > gone
        near = patch.labels[around & (patch.labels != IGNORE)]
        if len(near):
            patch.labels[gone] = near.mode().values


def _paint(patches: list[Patch], rng: np.random.Generator) -> None:
    """Images of both subjects: an intensity and a texture for each cell, and what scanners do to them."""
    first = torch.from_numpy(rng.uniform(0.1, 0.98, 256)).float()
    kind = rng.random()
    if kind < _SAME_CONTRAST:
        second = first + torch.from_numpy(rng.normal(0, 0.02, 256)).float()
    elif kind < _SAME_CONTRAST + _RELATED:
        knots = torch.from_numpy(np.sort(rng.uniform(0.05, 1.0, 6))).float()
        at = first.clamp(0, 0.999) * 5
        low = at.floor().long()
        second = knots[low] + (at - low) * (knots[low + 1] - knots[low]) + torch.from_numpy(rng.normal(0, 0.05, 256)).float()
    else:
        second = torch.from_numpy(rng.uniform(0.1, 0.98, 256)).float()
    # Some neighbours can't be told apart in an image.
    alike = rng.random() < 0.3
    texture = torch.from_numpy(rng.uniform(0, 0.12, 256)).float()
    for patch, table in zip(patches, (second, first), strict=True):
        if alike:
            table = (table * 6).round() / 6
        table = table.clamp(0.08, 1.0)
        table[0] = table[IGNORE] = 0.0
        size = tuple(patch.labels.shape)
        grain = smooth_noise(size, [max(3, extent // int(rng.integers(3, 7))) for extent in size], 1, rng)[0]
        inside = (patch.labels != 0) & (patch.labels != IGNORE)
        image = table[patch.labels] + grain * texture[patch.labels] * inside
        blurred = F.avg_pool3d(F.pad(image[None, None], (1,) * 6, mode="replicate"), 3, stride=1)[0, 0]
        share = float(rng.uniform(0.2, 1.0))
        image = degrade((share * blurred + (1 - share) * image).clamp(0, 1), rng)
        patch.image = recolor(image, rng, contrast=bool(rng.random() < 0.1))
        if rng.random() < 0.15:
            drop_field_of_view(patch, rng)


def _structures(cells: Tensor, rng: np.random.Generator) -> Tensor:
    """Table (256,) from cells to structures: cells alone, unions of a few, and some that nobody annotated (0)."""
    count = int(cells.max()) + 1
    table = torch.from_numpy(rng.permutation(count) % max(2, min(_MOST_STRUCTURES, round(count * float(rng.uniform(0.4, 1.0)))))) + 1
    table[torch.from_numpy(rng.random(count) < 0.2)] = 0
    table[0] = 0
    return torch.cat([table, torch.zeros(IGNORE - count, dtype=table.dtype), torch.tensor([IGNORE])])
