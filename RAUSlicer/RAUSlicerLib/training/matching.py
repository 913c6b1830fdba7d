"""Stage 1: trains the matching network on pairs of patches.

    python -m RAUSlicerLib.training.matching --data ../shared/data --output work/matching --steps 8000

Other subjects teach which labels correspond; the same subject under two random transforms teaches exact positions, also inside large
structures and for anatomy that nobody labelled. A cosine classifier over the training labels steadies the embedding and is dropped at
the end.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..localization.matching.network import MatchingConfig, MatchingNet
from ..models.device import autocast
from .augment import Patch, cut, drop_field_of_view, patch_transform, random_affine, recolor, synthesize
from .cases import IGNORE, Case, load_cases
from .loop import add_without, options, train

# Multiples of the deepest stride, and no axis that comes down to two voxels there: torch's bf16 convolution on CPUs (2.14) has a wrong
# weight gradient for those.
PATCH = {"brain_t1": (64, 80, 64), "abdomen_ct": (48, 64, 96), "heart_mr": (48, 80, 80), "head_labelmaps": (64, 80, 64)}
SHARE = {"brain_t1": 0.36, "abdomen_ct": 0.37, "heart_mr": 0.14, "head_labelmaps": 0.13}
# Two numbering schemes of the brain share a classifier: below 100 they mean the same, from 100 on the cortex of one, from 208 on the
# cortex and the outside of the other.
CLASSIFIER = {"brain_t1": "brain", "abdomen_ct": "abdomen", "heart_mr": "heart", "head_labelmaps": "brain"}
CLASSES = {"brain": 228, "abdomen": 14, "heart": 4}
FOREIGN = {"brain_t1": slice(208, 228), "head_labelmaps": slice(100, 208)}
CORTEX = slice(100, 208)
# Which of the temperatures is that of the fine classifier, and the most that they may be.
FINE_LABELS, SHARPEST = 4, 80.0
# Kept from training, to look at contrasts nobody trained on.
HELD_OUT = ("head10", "head11")


class Trainee(nn.Module):
    """The network and what only training needs: classifiers and temperatures."""

    def __init__(self, config: MatchingConfig) -> None:
        super().__init__()
        self.net = MatchingNet(config)
        self.fine_classes = nn.ParameterDict({d: nn.Parameter(torch.randn(n, config.fine_dim)) for d, n in CLASSES.items()})
        self.coarse_classes = nn.ParameterDict({d: nn.Parameter(torch.randn(n, config.coarse_dim)) for d, n in CLASSES.items()})
        self.log_scale = nn.Parameter(torch.tensor([math.log(20.0)] * 6))

    def scale(self, which: int) -> Tensor:
        return self.log_scale[which].exp().clamp(max=SHARPEST)

    def forward(self, target: Patch, reference: Patch, domain: str, same: bool, rng: np.random.Generator) -> dict[str, Tensor]:
        """Losses of a step on a pair of patches."""
        return losses(self, target, reference, domain, same, rng)


def sample_pair(cases: list[Case], rng: np.random.Generator) -> tuple[Patch, Patch, str, bool]:
    """Target and reference patch around the same anatomy; the flag says that they are the same volume."""
    domain = str(rng.choice(list(SHARE), p=list(SHARE.values())))
    pool = [case for case in cases if case.domain == domain]
    target = pool[int(rng.integers(len(pool)))]
    same = bool(rng.random() < 0.3)
    if domain == "head_labelmaps" and rng.random() < 0.4:
        # Real brains and made-up heads learn one language.
        pool = [case for case in cases if case.domain == "brain_t1"]
    others = [case for case in pool if case.subject != target.subject]
    reference = target if same else others[int(rng.integers(len(others)))]
    common = sorted(set(target.centroids) & set(reference.centroids))
    anchor = common[int(rng.integers(len(common)))]
    size = PATCH[domain]
    # As at work, the reference fixes the scale of both. A third of the pairs is seen from nearer, for second looks at small structures, but
    # not nearer than the voxels allow.
    nearer = rng.random() < 0.35
    working = reference.working * float(np.exp(rng.uniform(-0.7, -0.2) if nearer else rng.uniform(-0.2, 0.15)))
    working = max(working, 0.9 * min(reference.spacing))
    base = random_affine(rng, (12.0, 10.0, 10.0), 0.05)
    patches = []
    for case in (target, reference):
        affine = base @ random_affine(rng)
        middle = np.array(case.image.shape) / 2
        centre = middle + rng.uniform(0.3, 1.0) * (np.array(case.centroids[anchor]) - middle)
        centre += rng.uniform(-6, 6, 3) * working / np.array(case.spacing)
        patch = cut(case, size, patch_transform(case, size, centre, affine, working))
        if case.synthetic:
            patch.image = synthesize(patch.labels, rng)
        if rng.random() < 0.15:
            drop_field_of_view(patch, rng)
        patches.append(patch)
    wild = rng.random() < 0.2
    for patch in patches:
        patch.image = recolor(patch.image, rng, contrast=wild and bool(rng.random() < 0.8))
    return patches[0], patches[1], domain, same


def stratified(labels: Tensor, count: int, rng: np.random.Generator) -> Tensor:
    """Flat indices of about ``count`` voxels: two thirds spread evenly over the labels, the rest over all labelled voxels."""
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
    weight[CORTEX] *= 0.4
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


def class_loss(embeddings: Tensor, labels: Tensor, centres: Tensor, scale: Tensor, domain: str) -> Tensor:
    """Cross-entropy of a cosine classifier over the classes that the domain knows."""
    logits = embeddings @ F.normalize(centres, dim=1).t() * scale
    if domain in FOREIGN:
        blocked = torch.zeros(logits.shape[1], dtype=torch.bool, device=logits.device)
        blocked[FOREIGN[domain]] = True
        logits = logits.masked_fill(blocked, -1e4)
    return F.cross_entropy(logits, labels)


def losses(model: Trainee, target: Patch, reference: Patch, domain: str, same: bool, rng: np.random.Generator) -> dict[str, Tensor]:
    """Losses of a step on a pair of patches of one size."""
    size = tuple(target.image.shape)
    device = model.log_scale.device
    images = torch.stack([target.image, reference.image])[:, None].to(device)
    with autocast(device):
        features = model.net.features(images)
    fine, coarse, labels, cell_labels = [], [], [], []
    for batch, patch in enumerate((target, reference)):
        known = patch.labels.to(device)
        index = stratified(known, 10_000, rng)
        fine.append(model.net.embed_at(features, images, unravel(index, size, batch)))
        labels.append(known.flatten()[index])
        cells = known[2::4, 2::4, 2::4]
        index = stratified(cells, 1200, rng)
        coarse.append(model.net.coarse_at(features, unravel(index, tuple(cells.shape), batch)))
        cell_labels.append(cells.flatten()[index])
    out: dict[str, Tensor] = {}
    kind = CLASSIFIER[domain]
    domains = target.domain, reference.domain
    centres, scale = model.fine_classes[kind], model.scale(FINE_LABELS)
    parts = [class_loss(e, known, centres, scale, d) for e, known, d in zip(fine, labels, domains, strict=True)]
    out["aux"] = torch.stack(parts).mean()
    centres, scale = model.coarse_classes[kind], model.scale(5)
    parts = [class_loss(e, known, centres, scale, d) for e, known, d in zip(coarse, cell_labels, domains, strict=True)]
    out["aux4"] = torch.stack(parts).mean()
    out["match"] = label_loss(fine[0][::8], labels[0][::8], fine[1][::3], labels[1][::3], model.scale(0))
    out["match4"] = label_loss(coarse[0], cell_labels[0], coarse[1], cell_labels[1], model.scale(1))
    if same:
        a, b = (part.to(device) for part in corresponding(target, reference, size, rng, 1200))
        if len(a) > 50:
            zeros, ones = torch.zeros_like(a[:, :1]), torch.ones_like(a[:, :1])
            distance = torch.cdist(a.float(), a.float())
            q = model.net.embed_at(features, images, torch.cat([zeros, a], 1))
            k = model.net.embed_at(features, images, torch.cat([ones, b], 1))
            out["pos"] = position_loss(q, k, distance, model.scale(2), 3.0)
            q = model.net.coarse_at(features, torch.cat([zeros, a // 4], 1))
            k = model.net.coarse_at(features, torch.cat([ones, b // 4], 1))
            out["pos4"] = position_loss(q, k, distance, model.scale(3), 6.0)
    return out


def corresponding(target: Patch, reference: Patch, size: tuple[int, ...], rng: np.random.Generator, count: int) -> tuple[Tensor, Tensor]:
    """Voxels (N, 3) of both patches that show the same point of the same volume."""
    index = rng.integers(0, np.array(size), (count * 4, 3))
    inverse = np.linalg.inv(np.vstack([reference.to_source, [0, 0, 0, 1]]))
    source = index @ target.to_source[:, :3].T + target.to_source[:, 3]
    other = np.round(source @ inverse[:3, :3].T + inverse[:3, 3]).astype(int)
    ok = ((other >= 0) & (other < np.array(size))).all(1)
    a, b = torch.from_numpy(index[ok]), torch.from_numpy(other[ok])
    seen = (target.image[tuple(a.T)] > 0.06) & (reference.image[tuple(b.T)] > 0.06)
    return a[seen][:count], b[seen][:count]


WEIGHTS = {"aux": 1.2, "aux4": 0.8, "match": 1.0, "match4": 0.6, "pos": 0.5, "pos4": 0.4}


def run(args: argparse.Namespace) -> None:
    """Train as asked for."""
    torch.manual_seed(args.seed)
    cases = [case for case in load_cases(Path(args.data), tuple(SHARE), without=args.without) if case.name not in HELD_OUT]

    def draw(rng: np.random.Generator) -> tuple[str, tuple[Any, ...]]:
        target, reference, domain, same = sample_pair(cases, rng)
        return domain[:5], (target, reference, domain, same, rng)

    train(Trainee(MatchingConfig()).to(memory_format=torch.channels_last_3d), draw, WEIGHTS, args)


def main() -> None:
    """Train as the command line says."""
    parser = options(__doc__, "work/matching", 8000, 1.5e-3)
    add_without(parser)
    run(parser.parse_args())


if __name__ == "__main__":
    main()
