"""Pairs of matched slices with a simulated registration prior: what SAM2 and the vision-language model are trained on.

The affine map and the smooth rest between two labelled cases come from the centres of their common structures, with random errors, so that
the prior has the reference's shapes in roughly the right places, as a real one has.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..matching.correspondence import _solve
from .augment import random_affine, recolor, rotation
from .cases import TrainingCase


@dataclass
class PlanePair:
    """Slices of one pair. ``target`` (S, S), ``reference`` (M, S, S) in 0 to 1; labels alike, 255 is ignored.

    ``prior_labels`` (N, S, S): the prior's label under N random errors; their share is the prior probability. ``parcels`` as in
    `TrainingCase`.
    """

    domain: str
    parcels: tuple[int, ...]
    target: Tensor
    target_labels: Tensor
    reference: Tensor
    reference_labels: Tensor
    prior_labels: Tensor


class PairSampler:
    """Draws slices of pairs of cases."""

    def __init__(self, cases: list[TrainingCase], share: Mapping[str, float], size: int) -> None:
        self._pools = {domain: [case for case in cases if case.domain == domain] for domain in share}
        self._share = {domain: value / sum(share.values()) for domain, value in share.items()}
        self._size = size
        self._maps: dict[tuple[str, str], tuple[Tensor, Tensor, Tensor, Tensor]] = {}

    def _map(self, target: TrainingCase, reference: TrainingCase) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Affine map (target to reference mm), the common centres and what the affine leaves over at them."""
        key = (target.name, reference.name)
        if key not in self._maps:
            common = sorted(set(target.centroids) & set(reference.centroids))
            x = torch.tensor([target.centroids[c] for c in common]) * torch.tensor(target.spacing)
            y = torch.tensor([reference.centroids[c] for c in common]) * torch.tensor(reference.spacing)
            extent = float((torch.tensor(reference.image.shape) * torch.tensor(reference.spacing)).norm())
            stiffness = (0.02 if len(common) > 30 else 0.1 if len(common) > 6 else 0.2) * extent
            linear, shift = _solve(x[None].float(), y[None].float(), torch.ones(1, len(common)), stiffness**2)
            rest = y.float() - (x.float() @ linear[0].t() + shift[0])
            self._maps[key] = (linear[0], shift[0], x.float(), rest)
        return self._maps[key]

    def draw(self, slots: int, rng: np.random.Generator) -> PlanePair:
        """One target slice with ``slots`` reference slices at its level (or, sometimes, beside it)."""
        size = self._size
        domain = str(rng.choice(list(self._share), p=list(self._share.values())))
        pool = self._pools[domain]
        target = pool[int(rng.integers(len(pool)))]
        others = [case for case in pool if case.subject != target.subject]
        reference = others[int(rng.integers(len(others)))]
        linear, shift, centres, rest = self._map(target, reference)
        spacing = np.array(target.spacing)
        extent = np.array(target.image.shape) * spacing
        pixel = max(extent[1:]) / size
        step = target.spacing[0] * max(1, round(2 * pixel / target.spacing[0]))
        anchor = list(target.centroids)[int(rng.integers(len(target.centroids)))]
        level = target.centroids[anchor][0] * spacing[0] + rng.normal(0, 0.06) * extent[0]
        level = float(np.clip(round(level / spacing[0]), 0, target.image.shape[0] - 1) * spacing[0])
        # The slice's own axes: turned, scaled and shifted in the plane, a little tilted where slices are thin.
        tilt = 0.0 if target.thick else 6.0
        turn = rotation(np.radians(rng.uniform(-1, 1, 3) * (20.0, tilt, tilt))) * np.exp(rng.uniform(-0.15, 0.12))
        centre = np.array([level, extent[1] / 2, extent[2] / 2]) + np.array([0, *rng.uniform(-0.05, 0.05, 2)]) * extent
        plane = self._plane(pixel, torch.from_numpy(turn).float(), torch.from_numpy(centre).float(), (0.0,), step)
        error = torch.from_numpy(random_affine(rng, (5.0, 3.0, 3.0), 0.05)).float()
        wander = torch.from_numpy(rng.normal(0, 0.012, 3) * extent).float()
        if rng.random() < 0.15:
            wander[0] += float(rng.normal(0, 3) * step)
        offsets = tuple(float(k) for k in ((0.0, -1.0, 1.0)[:slots]))
        beside = self._plane(pixel, torch.from_numpy(turn).float(), torch.from_numpy(centre).float(), offsets, step)
        middle = torch.from_numpy(centre).float()
        brought = ((beside - middle) @ error.t() + middle + wander) @ linear.t() + shift
        # The prior follows the affine and most of the smooth rest; its errors are its own.
        width = 0.12 * float(extent.max())
        weight = torch.exp(-0.5 * (torch.cdist(plane.view(-1, 3), centres) / width) ** 2)
        smooth = (weight @ rest) / (weight.sum(1, keepdim=True) + 0.3)
        noise = torch.from_numpy(rng.normal(0, 1, (1, 3, 7, 7))).float()
        noise = F.interpolate(noise, size=(size, size), mode="bicubic", align_corners=True)[0].permute(1, 2, 0)
        base = plane[0] @ linear.t() + shift + smooth.view(size, size, 3) * float(rng.uniform(0.6, 1.0))
        base = base + noise * pixel * float(rng.uniform(0.3, 2.2))
        jitter = torch.from_numpy(rng.normal(0, 1, (8, 1, 1, 3))).float() * pixel * float(rng.uniform(0.6, 1.8))
        speckle = torch.from_numpy(rng.standard_normal((8, size, size, 3), np.float32)) * pixel * float(rng.uniform(0.2, 0.8))
        prior = self._labels(reference, base[None] + jitter + speckle)
        wild = rng.random() < 0.2
        image = recolor(self._image(target, plane)[0][None], rng, contrast=wild)[0]
        brought_image = recolor(self._image(reference, brought), rng, contrast=wild)
        own, theirs = self._labels(target, plane)[0], self._labels(reference, brought)
        return PlanePair(domain, target.parcels, image, own, brought_image, theirs, prior)

    def _plane(self, pixel: float, turn: Tensor, centre: Tensor, offsets: tuple[float, ...], step: float) -> Tensor:
        """Positions in mm (len(offsets), S, S, 3) of parallel slices."""
        axis = (torch.arange(self._size).float() - (self._size - 1) / 2) * pixel
        y, x = torch.meshgrid(axis, axis, indexing="ij")
        flat = torch.stack([torch.zeros_like(x), y, x], dim=-1) @ turn.t()
        return flat[None] + centre + torch.tensor(offsets)[:, None, None, None] * torch.tensor([step, 0.0, 0.0])

    @staticmethod
    def _unit(case: TrainingCase, where: Tensor) -> Tensor:
        size = torch.tensor(case.image.shape).float()
        return (where / torch.tensor(case.spacing).float() / (size - 1).clamp(min=1) * 2 - 1).flip(-1)

    def _image(self, case: TrainingCase, where: Tensor) -> Tensor:
        return F.grid_sample(case.image[None, None].float(), self._unit(case, where)[None], align_corners=True)[0, 0] / 255

    def _labels(self, case: TrainingCase, where: Tensor) -> Tensor:
        index = (where / torch.tensor(case.spacing).float()).round().long()
        size = torch.tensor(case.labels.shape)
        outside = ((index < 0) | (index >= size)).any(-1)
        z, y, x = index.clamp(min=0).minimum(size - 1).unbind(-1)
        labels = case.labels[z, y, x].long()
        labels[outside] = 0
        return labels
