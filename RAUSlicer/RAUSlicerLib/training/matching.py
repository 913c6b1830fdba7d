"""Trains the matching network on pairs of patches.

Other subjects teach which labels correspond; the same subject under two random transforms teaches exact positions, also inside large
structures and for anatomy that nobody labelled. A share of the pairs is of anatomies drawn at random (`invented`). A classifier over the
training labels reads what the fine embedding is made of; matching asks it what a place looks like.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..device import autocast
from ..errors import ModelError
from ..loading import load_model
from ..matching.network import MatchingConfig, MatchingNet
from .augment import Patch, cut, degrade, drop_field_of_view, patch_transform, random_affine, random_shift, recolor, synthesize
from .cases import TrainingCase, load_cases
from .config import TrainConfig
from .datasets import IGNORE, Datasets, span
from .invented import DOMAIN, invented_pair, tissue
from .loop import train
from .settings import MatchingTraining

# The most that temperatures may be.
SHARPEST = 80.0
# Where a label has so few voxels in a patch, its Dice is counted as if so many more were right.
_SLACK = 20.0


class Trainee(nn.Module):
    """The network and what only training needs: classifiers and temperatures."""

    def __init__(self, config: MatchingConfig, datasets: Datasets, settings: MatchingTraining | None = None) -> None:
        super().__init__()
        self.datasets, self.settings = datasets, settings or MatchingTraining()
        self.net = MatchingNet(config)
        sets = datasets.label_sets
        self.coarse_classes = nn.ParameterDict({d: nn.Parameter(torch.randn(n, config.coarse_dim)) for d, n in sets.items()})
        self.log_scale = nn.Parameter(torch.tensor([math.log(20.0)] * 5))

    def scale(self, which: int) -> Tensor:
        return self.log_scale[which].exp().clamp(max=SHARPEST)

    def forward(self, target: Patch, reference: Patch, domain: str, same: bool, rng: np.random.Generator) -> dict[str, Tensor]:
        """Losses of a step on a pair of patches."""
        return losses(self, target, reference, domain, same, rng)


def sample_pair(
    cases: list[TrainingCase], datasets: Datasets, settings: MatchingTraining, rng: np.random.Generator
) -> tuple[Patch, Patch, str, bool]:
    """Target and reference patch around the same anatomy; the flag says that all places of one are known in the other."""
    shares = datasets.shares("matching") | {DOMAIN: datasets.invented_share}
    domain = str(rng.choice(list(shares), p=np.array(list(shares.values())) / sum(shares.values())))
    if domain == DOMAIN:
        return *invented_pair(cases, datasets.invented_patch, rng), domain, True
    pool = [case for case in cases if case.domain == domain]
    target = pool[int(rng.integers(len(pool)))]
    same = bool(rng.random() < settings.same)
    partner = datasets[domain].partner
    if partner and rng.random() < settings.partner:
        # Real brains and made-up heads learn one language.
        pool = [case for case in cases if case.domain == partner]
    others = [case for case in pool if case.subject != target.subject]
    reference = target if same else others[int(rng.integers(len(others)))]
    common = sorted(set(target.centroids) & set(reference.centroids))
    anchor = common[int(rng.integers(len(common)))]
    size = datasets[domain].patch
    # As at work, the reference fixes the scale of both. A third of the pairs is seen from nearer, for second looks at small structures, but
    # not nearer than the voxels allow.
    nearer = rng.random() < settings.nearer
    working = reference.working * float(np.exp(rng.uniform(-0.7, -0.2) if nearer else rng.uniform(-0.2, 0.15)))
    working = max(working, 0.9 * min(reference.spacing))
    base = random_affine(rng, (12.0, 10.0, 10.0), 0.05)
    patches: list[Patch] = []
    for case in (target, reference):
        affine = base @ random_affine(rng)
        middle = np.array(case.image.shape) / 2
        centre = middle + rng.uniform(0.3, 1.0) * (np.array(case.centroids[anchor]) - middle)
        centre += rng.uniform(-6, 6, 3) * working / np.array(case.spacing)
        # The way from the reference back to the volume stays an affine map, which has an inverse.
        bent = case is target and not patches and rng.random() < (settings.same_bent if same else settings.bent)
        shift = random_shift(size, rng, 1.0 if same else 0.7) if bent else None
        patch = cut(case, size, patch_transform(case, size, centre, affine, working), shift)
        if case.synthetic:
            patch.image = synthesize(patch.labels, rng)
        if case.filled:
            patch.image = torch.where(patch.labels == 0, tissue(size, rng), patch.image)
        if rng.random() < 0.3:
            patch.image = degrade(patch.image, rng)
        if rng.random() < 0.15:
            drop_field_of_view(patch, rng)
        patches.append(patch)
    wild = rng.random() < 0.3
    for patch in patches:
        patch.image = recolor(patch.image, rng, contrast=wild and bool(rng.random() < 0.8))
    return patches[0], patches[1], domain, same


def stratified(labels: Tensor, count: int, rng: np.random.Generator, parcels: tuple[int, ...] = (), parcel: float = 1.0) -> Tensor:
    """Flat indices of about ``count`` voxels: two thirds spread evenly over the labels, the rest over all labelled voxels.

    A label among the ``parcels`` has ``parcel`` of another's share.
    """
    flat = labels.flatten()
    known = (flat != IGNORE).nonzero()[:, 0]
    if len(known) == 0:
        return known
    values = flat[known]
    present, counts = values.unique(return_counts=True)
    weight = torch.zeros(256)
    weight[present] = 1 / counts.float()
    weight[0] *= 4
    # The cortex has most of the labels of a brain and would get most of the voxels.
    weight[list(span(parcels))] *= parcel
    # multinomial refuses more than 2^24 categories and is slow on many: thin out first.
    keep = torch.from_numpy(rng.integers(0, len(known), min(len(known), 120_000)))
    even = torch.multinomial(weight[values[keep]] + 1e-12, min(2 * count // 3, len(keep)), replacement=True)
    plain = torch.from_numpy(rng.integers(0, len(known), count // 3))
    return torch.cat([known[keep[even]], known[plain]])


def unravel(flat: Tensor, size: tuple[int, ...], batch: int) -> Tensor:
    """Flat indices (N,) of a volume as (N, 4) of (batch, z, y, x)."""
    z, rest = flat // (size[1] * size[2]), flat % (size[1] * size[2])
    return torch.stack([torch.full_like(flat, batch), z, rest // size[2], rest % size[2]], dim=1)


def label_loss(queries: Tensor, query_labels: Tensor, keys: Tensor, key_labels: Tensor, scale: Tensor) -> Tensor:
    """Negative log of the attention mass that lands on keys of the query's own label; queries without such keys don't count."""
    logits = queries @ keys.t() * scale
    same = query_labels[:, None] == key_labels[None]
    usable = same.any(1)
    if not usable.any():
        return queries.sum() * 0
    mass = (logits[usable].softmax(1) * same[usable]).sum(1)
    return -torch.log(mass + 1e-4).mean()


def position_loss(queries: Tensor, keys: Tensor, distance: Tensor, scale: Tensor, radius: float) -> Tensor:
    """InfoNCE over exact correspondences: query i belongs to key i; keys within ``radius`` voxels of it are no negatives."""
    logits = queries @ keys.t() * scale
    near = (distance < radius) & ~torch.eye(len(queries), dtype=torch.bool, device=logits.device)
    return F.cross_entropy(logits.masked_fill(near, -1e4), torch.arange(len(queries), device=logits.device))


def known_classes(logits: Tensor, patch: Patch) -> Tensor:
    """Logits (N, L) with the classes out of the question of which a patch's case says nothing."""
    if not patch.unmarked:
        return logits
    blocked = torch.zeros(logits.shape[1], dtype=torch.bool, device=logits.device)
    blocked[list(patch.unmarked)] = True
    return logits.masked_fill(blocked, -1e4)


def asked_for(labels: Tensor, anywhere: int, borders: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Voxels of a label patch (D, H, W) for the classifier, ``anywhere`` and at ``borders`` of labels: flat indices (N,), and how many of
    the known voxels each stands for (N,).
    """
    known = labels != IGNORE
    border = torch.zeros_like(known)
    for axis in range(3):
        low, high = labels.narrow(axis, 0, labels.shape[axis] - 1), labels.narrow(axis, 1, labels.shape[axis] - 1)
        differ = low != high
        border.narrow(axis, 0, labels.shape[axis] - 1).logical_or_(differ)
        border.narrow(axis, 1, labels.shape[axis] - 1).logical_or_(differ)
    flat, border = known.flatten(), (border & known).flatten()
    pools = [(flat.nonzero()[:, 0], anywhere), (border.nonzero()[:, 0], borders)]
    index = torch.cat([pool[torch.from_numpy(rng.integers(0, len(pool), count))] for pool, count in pools if len(pool)])
    of_all, at_borders = (count / max(len(pool), 1) for pool, count in pools)
    return index, 1 / (of_all + at_borders * border[index].float())


def label_mask_loss(logits: Tensor, labels: Tensor, stands_for: Tensor, counts: Tensor) -> Tensor:
    """One minus the mean Dice of the labels that are there, estimated from voxels that each stand for so many.

    ``counts`` (L,) is how much each label counts in the mean.
    """
    share = logits.softmax(1)
    sizes = torch.zeros(share.shape[1], device=share.device).index_add_(0, labels, stands_for)
    own = share.gather(1, labels[:, None])[:, 0] * stands_for
    both = torch.zeros_like(sizes).index_add(0, labels, own)
    drawn = stands_for @ share
    weight = counts * (sizes > 0)
    weight[0] = 0
    if not weight.any():
        return logits.sum() * 0
    return 1 - ((2 * both + _SLACK) / (sizes + drawn + _SLACK)) @ weight / weight.sum()


def losses(model: Trainee, target: Patch, reference: Patch, domain: str, same: bool, rng: np.random.Generator) -> dict[str, Tensor]:
    """Losses of a step on a pair of patches of one size."""
    size = tuple(target.image.shape)
    device = model.log_scale.device
    images = torch.stack([target.image, reference.image])[:, None].to(device)
    with autocast(device):
        features = model.net.features(images)
    out: dict[str, Tensor] = {}
    kind = model.datasets[domain].labels if domain != DOMAIN else None
    patches, settings = (target, reference), model.settings
    fine, coarse, labels, cell_labels, read, drawn = [], [], [], [], [], []
    for batch, patch in enumerate(patches):
        # Chosen on the CPU, by a generator that lies there.
        index = stratified(patch.labels, 3300, rng, patch.parcels, settings.parcel_voxels).to(device)
        asked, stands_for = index[:0], None
        if kind is not None:
            asked, stands_for = (part.to(device) for part in asked_for(patch.labels, settings.anywhere, settings.borders, rng))
        known = patch.labels.to(device)
        hidden = model.net.read_at(features, images, unravel(torch.cat([asked, index]), size, batch))
        if kind is not None and stands_for is not None:
            own = model.datasets.columns(kind)
            logits = F.linear(hidden[: len(asked)], model.net.labels.weight[own], model.net.labels.bias[own])
            logits, truth = known_classes(logits, patch), known.flatten()[asked]
            counts = torch.ones(logits.shape[1], device=device)
            counts[list(span(patch.parcels))] = settings.parcel
            read.append(F.cross_entropy(logits, truth))
            drawn.append(label_mask_loss(logits, truth, stands_for, counts))
        fine.append(model.net.embedded(hidden[len(asked) :]))
        labels.append(known.flatten()[index])
        cells = known[2::4, 2::4, 2::4]
        index = stratified(patch.labels[2::4, 2::4, 2::4], 1200, rng, patch.parcels, settings.parcel_voxels).to(device)
        coarse.append(model.net.coarse_at(features, unravel(index, tuple(cells.shape), batch)))
        cell_labels.append(cells.flatten()[index])
    if kind is not None:
        out["labels"], out["masks"] = torch.stack(read).mean(), torch.stack(drawn).mean()
        centres, scale = F.normalize(model.coarse_classes[kind], dim=1), model.scale(4)
        parts = [
            F.cross_entropy(known_classes(e @ centres.t() * scale, patch), known)
            for e, known, patch in zip(coarse, cell_labels, patches, strict=True)
        ]
        out["labels4"] = torch.stack(parts).mean()
    out["match"] = label_loss(fine[0][::3], labels[0][::3], fine[1], labels[1], model.scale(0))
    out["match4"] = label_loss(coarse[0], cell_labels[0], coarse[1], cell_labels[1], model.scale(1))
    if same:
        a, b = (part.to(device) for part in corresponding(target, reference, size, rng, 1200))
        if len(a) > 50:
            zeros, ones = torch.zeros_like(a[:, :1]), torch.ones_like(a[:, :1])
            distance = torch.cdist(a.float(), a.float())
            q = model.net.embedded(model.net.read_at(features, images, torch.cat([zeros, a], 1)))
            k = model.net.embedded(model.net.read_at(features, images, torch.cat([ones, b], 1)))
            out["pos"] = position_loss(q, k, distance, model.scale(2), 3.0)
            q = model.net.coarse_at(features, torch.cat([zeros, a // 4], 1))
            k = model.net.coarse_at(features, torch.cat([ones, b // 4], 1))
            out["pos4"] = position_loss(q, k, distance, model.scale(3), 6.0)
    return out


def corresponding(target: Patch, reference: Patch, size: tuple[int, ...], rng: np.random.Generator, count: int) -> tuple[Tensor, Tensor]:
    """Voxels (N, 3) of both patches that show the same point of the same volume."""
    index = rng.integers(0, np.array(size), (count * 4, 3))
    inverse = np.linalg.inv(np.vstack([reference.to_source, [0, 0, 0, 1]]))
    other = np.round(target.source_of(index) @ inverse[:3, :3].T + inverse[:3, 3]).astype(int)
    ok = ((other >= 0) & (other < np.array(size))).all(1)
    a, b = torch.from_numpy(index[ok]), torch.from_numpy(other[ok])
    seen = (target.image[tuple(a.T)] > 0.06) & (reference.image[tuple(b.T)] > 0.06)
    # A part that one of them lacks is nowhere in it.
    seen &= target.labels[tuple(a.T)] == reference.labels[tuple(b.T)]
    return a[seen][:count], b[seen][:count]


def grown(state: Mapping[str, Tensor], network: MatchingNet) -> dict[str, Tensor]:
    """A smaller network's state with the classifiers of further label sets, untrained, at the end."""
    out = dict(network.state_dict())
    for name, tensor in state.items():
        if name.startswith("labels."):
            tensor = torch.cat([tensor.float(), out[name][len(tensor) :]])
        out[name] = tensor
    return out


def trainee_of(config: TrainConfig) -> Trainee:
    """The network that a configuration trains, as it starts."""
    torch.manual_seed(config.seed)
    start = load_model(config.start).matching if config.start else None
    if start is not None and not isinstance(start, MatchingNet):
        raise ModelError(
            f"The matching network of {config.start!r} can't be trained on.",
            f"It is a {type(start).__name__}; this training knows MatchingNet only.",
            "Set start to another model, or leave it out to begin from random weights.",
        )
    datasets = config.datasets.continuing(start.config.labels if start is not None else ())
    made = replace(start.config if start is not None else MatchingConfig(), labels=tuple(datasets.label_sets.values()))
    trainee = Trainee(made, datasets, config.matching)
    if start is not None:
        trainee.net.load_state_dict(grown(start.state_dict(), trainee.net))
    return trainee


def run(config: TrainConfig) -> None:
    """Train, or go on."""
    trainee = trainee_of(config)
    datasets = trainee.datasets
    cases = load_cases(datasets, datasets.shares("matching"))

    def draw(rng: np.random.Generator) -> tuple[str, tuple[Any, ...]]:
        target, reference, domain, same = sample_pair(cases, datasets, config.matching, rng)
        return domain[:8], (target, reference, domain, same, rng)

    how = config.settings("matching", config.matching)
    train(trainee.to(memory_format=torch.channels_last_3d), draw, config.matching.weights, how)


def trained_network(config: TrainConfig) -> tuple[MatchingNet, int] | None:
    """The network of the averaged weights so far, and after how many steps; None before the first are saved."""
    path = config.state("matching")
    if path is None:
        return None
    state = torch.load(path, weights_only=True, map_location="cpu")
    network = trainee_of(config).net
    network.load_state_dict({key.removeprefix("net."): value for key, value in state["ema"].items() if key.startswith("net.")})
    return network.eval(), state["step"]
