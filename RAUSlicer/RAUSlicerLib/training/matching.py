"""Stage 1: trains the matching network on pairs of patches.

    python -m RAUSlicerLib.training.matching --data ../shared/data --output work/matching --steps 3000

Other subjects teach which labels correspond; the same subject under two random transforms teaches exact positions, also inside large
structures and for anatomy that nobody labelled. A cosine classifier over the training labels steadies the embedding and is dropped at
the end.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..localization.matching.network import MatchingConfig, MatchingNet
from .augment import Patch, cut, drop_field_of_view, patch_transform, random_affine, recolor
from .cases import Case, load_cases

# No axis may come down to two voxels at the deepest level: torch's bf16 convolution on CPUs (2.14) has a wrong weight gradient there. The
# embedded weights were trained with 28 slices of heart, before this was found; a fifth of their steps was spoiled.
PATCH = {"brain_t1": (56, 64, 64), "abdomen_ct": (48, 64, 80), "heart_mr": (40, 72, 72)}
CLASSES = {"brain_t1": 208, "abdomen_ct": 14, "heart_mr": 4}
SHARE = {"brain_t1": 0.38, "abdomen_ct": 0.42, "heart_mr": 0.2}
IGNORE = 255


class Trainee(nn.Module):
    """The network and what only training needs: classifiers and temperatures."""

    def __init__(self, config: MatchingConfig) -> None:
        super().__init__()
        self.net = MatchingNet(config)
        self.fine_classes = nn.ParameterDict({d: nn.Parameter(torch.randn(n, config.fine_dim)) for d, n in CLASSES.items()})
        self.coarse_classes = nn.ParameterDict({d: nn.Parameter(torch.randn(n, config.coarse_dim)) for d, n in CLASSES.items()})
        self.log_scale = nn.Parameter(torch.tensor([math.log(20.0)] * 4))

    def scale(self, which: int) -> Tensor:
        return self.log_scale[which].exp().clamp(max=80)


def sample_pair(cases: list[Case], rng: np.random.Generator) -> tuple[Patch, Patch, str, bool]:
    """Target and reference patch around the same anatomy; the flag says that they are the same volume."""
    domain = str(rng.choice(list(SHARE), p=list(SHARE.values())))
    pool = [case for case in cases if case.domain == domain]
    target = pool[int(rng.integers(len(pool)))]
    same = bool(rng.random() < 0.3)
    others = [case for case in pool if case.subject != target.subject]
    reference = target if same else others[int(rng.integers(len(others)))]
    common = sorted(set(target.centroids) & set(reference.centroids))
    anchor = common[int(rng.integers(len(common)))]
    size = PATCH[domain]
    base = random_affine(rng, (8.0, 5.0, 5.0), 0.1)
    patches = []
    for case in (target, reference):
        affine = base @ random_affine(rng)
        middle = np.array(case.image.shape) / 2
        centre = middle + rng.uniform(0.3, 1.0) * (np.array(case.centroids[anchor]) - middle)
        centre += rng.uniform(-6, 6, 3) * np.array(case.working) / np.array(case.spacing)
        patch = cut(case, size, patch_transform(case, size, centre, affine))
        if rng.random() < 0.12:
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
    weight[0] = weight[0] * 4
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
    logits, same = logits[usable], same[usable]
    loss = torch.logsumexp(logits, 1) - torch.logsumexp(logits.masked_fill(~same, -1e4), 1)
    return loss.clamp(max=8).mean()


def position_loss(queries: Tensor, keys: Tensor, distance: Tensor, scale: Tensor, radius: float) -> Tensor:
    """InfoNCE over exact correspondences: query i belongs to key i; keys within ``radius`` voxels of it are no negatives."""
    logits = queries @ keys.t() * scale
    near = (distance < radius) & ~torch.eye(len(queries), dtype=torch.bool)
    return F.cross_entropy(logits.masked_fill(near, -1e4), torch.arange(len(queries)))


def losses(model: Trainee, target: Patch, reference: Patch, domain: str, same: bool, rng: np.random.Generator) -> dict[str, Tensor]:
    """Losses of a step on a pair of patches."""
    size = tuple(target.image.shape)
    with torch.autocast("cpu", torch.bfloat16):
        features = model.net.features(torch.stack([target.image, reference.image])[:, None])
    fine, coarse, labels, cell_labels = [], [], [], []
    step = 2**model.net.config.coarse_level
    for batch, patch in enumerate((target, reference)):
        index = stratified(patch.labels, 4500, rng)
        fine.append(model.net.embed_at(features, unravel(index, size, batch)))
        labels.append(patch.labels.flatten()[index])
        cells = patch.labels[step // 2 :: step, step // 2 :: step, step // 2 :: step]
        index = stratified(cells, 1500, rng)
        coarse.append(model.net.coarse_at(features, unravel(index, tuple(cells.shape), batch)))
        cell_labels.append(cells.flatten()[index])
    out: dict[str, Tensor] = {}
    everything, all_labels = torch.cat(fine), torch.cat(labels)
    out["aux"] = F.cross_entropy(everything @ F.normalize(model.fine_classes[domain], dim=1).t() * 20, all_labels)
    out["aux4"] = F.cross_entropy(torch.cat(coarse) @ F.normalize(model.coarse_classes[domain], dim=1).t() * 20, torch.cat(cell_labels))
    out["match"] = label_loss(fine[0][:2400], labels[0][:2400], fine[1], labels[1], model.scale(0))
    out["match4"] = label_loss(coarse[0], cell_labels[0], coarse[1], cell_labels[1], model.scale(1))
    if same:
        pairs = corresponding(target, reference, size, rng, 1500)
        if len(pairs[0]) > 50:
            a, b, where = pairs
            q = model.net.embed_at(features, torch.cat([torch.zeros(len(a), 1, dtype=torch.long), a], 1))
            k = model.net.embed_at(features, torch.cat([torch.ones(len(b), 1, dtype=torch.long), b], 1))
            distance = torch.cdist(where, where)
            out["pos"] = position_loss(q, k, distance, model.scale(2), 3.0)
            q = model.net.coarse_at(features, torch.cat([torch.zeros(len(a), 1, dtype=torch.long), a // step], 1))
            k = model.net.coarse_at(features, torch.cat([torch.ones(len(b), 1, dtype=torch.long), b // step], 1))
            out["pos4"] = position_loss(q, k, distance, model.scale(3), 6.0)
    return out


def corresponding(
    target: Patch, reference: Patch, size: tuple[int, ...], rng: np.random.Generator, count: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Voxels (N, 3) of both patches that show the same point of the same volume, and the target voxels as floats."""
    index = rng.integers(0, np.array(size), (count * 4, 3))
    inverse = np.linalg.inv(np.vstack([reference.to_source, [0, 0, 0, 1]]))
    source = index @ target.to_source[:, :3].T + target.to_source[:, 3]
    other = np.round(source @ inverse[:3, :3].T + inverse[:3, 3]).astype(int)
    ok = ((other >= 0) & (other < np.array(size))).all(1)
    a, b = torch.from_numpy(index[ok]), torch.from_numpy(other[ok])
    seen = (target.image[tuple(a.T)] > 0.06) & (reference.image[tuple(b.T)] > 0.06)
    a, b = a[seen][:count], b[seen][:count]
    return a, b, a.float()


WEIGHTS = {"aux": 0.7, "aux4": 0.4, "match": 1.0, "match4": 0.6, "pos": 0.5, "pos4": 0.4}


def train(args: argparse.Namespace) -> None:
    """Train to ``args.steps``, from where ``state.pt`` of the output folder stopped if there is one."""
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    output = Path(args.output)
    output.mkdir(parents=True, exist_ok=True)
    cases = load_cases(Path(args.data), tuple(SHARE))
    model = Trainee(MatchingConfig()).to(memory_format=torch.channels_last_3d)
    ema = {key: value.clone() for key, value in model.state_dict().items()}
    matrices, vectors = [p for p in model.parameters() if p.ndim > 1], [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": 0.02}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=args.rate, betas=(0.9, 0.98))
    first = 0
    state_file = output / "state.pt"
    if state_file.exists():
        state = torch.load(state_file, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        ema, first = state["ema"], state["step"]
    rng = np.random.default_rng([args.seed, first])
    log = (output / "log.jsonl").open("a")
    recent: dict[str, list[float]] = {}
    start = time.time()
    for step in range(first, args.steps):
        rate = args.rate * min(1, (step + 1) / 50) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / args.steps)))
        for group in optimizer.param_groups:
            group["lr"] = rate
        target, reference, domain, same = sample_pair(cases, rng)
        parts = losses(model, target, reference, domain, same, rng)
        loss = torch.stack([WEIGHTS[key] * value for key, value in parts.items()]).sum()
        optimizer.zero_grad()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        if torch.isfinite(norm):
            optimizer.step()
        decay = min(0.997, (step + 1) / (step + 20))
        with torch.no_grad():
            for key, value in model.state_dict().items():
                ema[key].lerp_(value, 1 - decay)
        for key, value in parts.items():
            recent.setdefault(f"{domain[:5]}/{key}", []).append(value.item())
        if (step + 1) % 25 == 0:
            means = {key: round(float(np.mean(values[-25:])), 3) for key, values in sorted(recent.items())}
            log.write(json.dumps({"step": step + 1, "seconds": round(time.time() - start, 1), **means}) + "\n")
            log.flush()
        if (step + 1) % args.save_every == 0 or step + 1 == args.steps:
            temporary = state_file.with_suffix(".tmp")
            torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "ema": ema, "step": step + 1}, temporary)
            temporary.replace(state_file)


def main() -> None:
    """Train as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="../shared/data")
    parser.add_argument("--output", default="work/matching")
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--rate", type=float, default=1.5e-3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--save-every", type=int, default=100)
    train(parser.parse_args())


if __name__ == "__main__":
    main()
