"""Trains SAM2 and the vision-language model, on one shared vision tower, on pairs of matched slices.

The mask starts as the prior (residual decoder), the box at the matched box (offset head), so that every step improves on matching. In a
share of the steps the prior is withheld: then SAM2 has its memory alone. A dense label head on the vision tower is dropped at the end.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from monai.losses import DiceLoss
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import generalized_box_iou_loss

from ..device import autocast
from ..errors import ModelError
from ..loading import load_model
from ..rau.network import MatchEvidence, RauVlm, VlmConfig, boxes_of, matched_boxes
from ..rau.sam2 import MemorySegmenter, Sam2Config, plain_attention
from .cases import load_cases
from .config import TrainConfig
from .datasets import IGNORE, Datasets, span
from .loop import train
from .metrics import box_iou, dice
from .planes import PairSampler, PlanePair

OBJECTS = 5
# A slice shows a structure from this many pixels on; fewer count neither as present nor as absent.
PRESENT = 12


class Trainee(nn.Module):
    """Both models and the label head that only training needs."""

    def __init__(self, datasets: Datasets, segmenter: MemorySegmenter | None = None, vlm: RauVlm | None = None) -> None:
        super().__init__()
        self.segmenter = segmenter or MemorySegmenter(Sam2Config())
        self.vlm = vlm or RauVlm(VlmConfig())
        config = self.segmenter.config
        known = {name: datasets.label_sets[datasets[name].labels or ""] for name in datasets.shares("rau") if datasets[name].labels}
        self.aux_low = nn.ModuleDict({name: nn.Conv2d(config.d_model, 4 * count, 1) for name, count in known.items()})
        self.aux_mid = nn.ModuleDict({name: nn.Conv2d(config.d_model // 4, count, 1) for name, count in known.items()})

    def forward(self, pairs: list[PlanePair], objects: list[list[int]], rng: np.random.Generator) -> dict[str, Tensor]:
        """Losses of a step on some pairs of slices, and figures for the log."""
        return step_losses(self, pairs, objects, rng)


def choose_objects(pair: PlanePair, rng: np.random.Generator) -> list[int]:
    """Structures to ask for: present ones, and absent ones that the reference slices or the prior suggest."""
    inside = torch.bincount(pair.target_labels.flatten(), minlength=256)
    asked = torch.bincount(pair.reference_labels.flatten(), minlength=256)
    known = [c for c in range(1, IGNORE) if asked[c] >= 8]
    present = [c for c in known if inside[c] >= PRESENT]
    absent = [c for c in known if inside[c] == 0]
    rng.shuffle(present)
    rng.shuffle(absent)
    if pair.parcels:
        # Cortical parcels outnumber everything else three to one.
        parcels = span(pair.parcels)
        present.sort(key=lambda c: (c in parcels) * 0.6 + rng.random())
    return (present[: OBJECTS - min(len(absent), int(rng.integers(0, 4)))] + absent)[:OBJECTS]


def auxiliary(model: Trainee, pairs: list[PlanePair], low: Tensor, mid: Tensor, labels: Tensor, frames: list[int]) -> Tensor:
    """Cross-entropy of the dense label head, at a quarter of the slices' resolution."""
    total = low.sum() * 0.0
    quarter = labels[:, 2::4, 2::4]
    for domain in {pair.domain for pair in pairs} & set(model.aux_low):
        index = torch.tensor([i for i, f in enumerate(frames) if pairs[f].domain == domain], device=low.device)
        logits = F.pixel_shuffle(model.aux_low[domain](low[index]), 2) + model.aux_mid[domain](mid[index])
        weight = torch.ones(logits.shape[1], device=low.device)
        weight[0] = 0.25
        total = total + F.cross_entropy(logits.float(), quarter[index], weight=weight, ignore_index=IGNORE) * len(index) / len(frames)
    return total


def mask_loss(logits: Tensor, masks: Tensor, pixels: float = 20.0) -> Tensor:
    """Dice, and ``pixels`` times focal cross-entropy, one value an object; both (O, S, S)."""
    cross = F.binary_cross_entropy_with_logits(logits, masks, reduction="none")
    wrong = (logits.sigmoid() - masks).abs().detach().clamp(min=0.1)
    overlap = DiceLoss(sigmoid=True, reduction="none", smooth_nr=1.0, smooth_dr=1.0)(logits[:, None], masks[:, None])
    return pixels * (cross * wrong).flatten(1).mean(1) + overlap.flatten()


def draw_pairs(sampler: PairSampler, batch: int, rng: np.random.Generator) -> tuple[list[PlanePair], list[list[int]]]:
    """``batch`` pairs of slices, all with as many reference slices, and the structures to ask for in each."""
    slots = int(rng.choice([1, 2], p=[0.75, 0.25]))
    pairs: list[PlanePair] = []
    objects: list[list[int]] = []
    while len(pairs) < batch:
        pair = sampler.draw(slots, rng)
        chosen = choose_objects(pair, rng)
        if chosen:
            pairs.append(pair)
            objects.append(chosen)
    return pairs, objects


def step_losses(model: Trainee, pairs: list[PlanePair], objects: list[list[int]], rng: np.random.Generator) -> dict[str, Tensor]:
    """Losses of a step, and figures for the log."""
    device, batch, slots = next(model.parameters()).device, len(pairs), len(pairs[0].reference)
    mode = str(rng.choice(["prior", "memory", "box"], p=[0.6, 0.25, 0.15]))
    images = torch.cat([torch.cat([p.target[None], p.reference]) for p in pairs])[:, None].to(device)
    labels = torch.cat([torch.cat([p.target_labels[None], p.reference_labels]) for p in pairs]).to(device)
    frames = [b for b in range(batch) for _ in range(1 + slots)]
    size = images.shape[-1]
    with autocast(device), plain_attention():
        features = model.segmenter.encode(images)
        aux = auxiliary(model, pairs, features.low, features.mid, labels, frames)
    owner = torch.tensor([b for b, chosen in enumerate(objects) for _ in chosen], device=device)
    wanted = torch.tensor([c for chosen in objects for c in chosen], device=device)
    first = owner * (1 + slots)
    truth = labels[first] == wanted[:, None, None]
    references = torch.stack([labels[first + 1 + k] == wanted[:, None, None] for k in range(slots)], dim=1)
    priors = [(pairs[b].prior_labels == c).float().mean(0) for b, c in zip(owner.tolist(), wanted.tolist(), strict=True)]
    prior = torch.stack(priors).to(device)
    area = truth.flatten(1).sum(1)
    present, counted = area >= PRESENT, (area >= PRESENT) | (area == 0)
    cells = features.low.shape[-1]
    region, heat = F.adaptive_avg_pool2d(references[:, 0].float(), cells), F.adaptive_avg_pool2d(prior, cells)
    drawn = boxes_of(references[:, 0])
    half = F.avg_pool2d(prior[:, None], 2)[:, 0]
    matched = matched_boxes(half, drawn)
    answers = []
    for b in range(batch):
        mine = owner == b
        part = MatchEvidence(region[mine], heat[mine], drawn[mine], matched[mine])
        at = b * (1 + slots)
        answers.append(model.vlm(features.low[at + 1 : at + 2], features.low[at : at + 1], part))
    presence = torch.cat([a.presence for a in answers])
    boxes, queries = torch.cat([a.boxes for a in answers]), torch.cat([a.queries for a in answers])
    out: dict[str, Tensor] = {"aux": aux}
    weight = counted.float()
    out["presence"] = (F.binary_cross_entropy_with_logits(presence, present.float(), reduction="none") * weight).mean()
    if present.any():
        wanted_boxes = boxes_of(truth)[present]
        out["box"] = (boxes[present] - wanted_boxes).abs().sum(1).mean() * 2 + generalized_box_iou_loss(
            boxes[present], wanted_boxes, reduction="mean"
        )
    with autocast(device), plain_attention():
        flat = (first[:, None] + 1 + torch.arange(slots, device=device)).flatten()
        memory = model.segmenter.memorize(features.take(flat), references.flatten(0, 1)[:, None].float())
        memory = memory.unflatten(0, (len(owner), slots))
        targets = features.take(first)
        attended = model.segmenter.attend(targets, memory)
        hint = torch.logit(half.clamp(0.02, 0.98))[:, None] if mode == "prior" else None
        prompt = None
        if mode == "box" or (mode == "prior" and rng.random() < 0.6):
            prompt = (boxes_of(truth) if mode == "box" else boxes.detach()) * size
            prompt = prompt + torch.from_numpy(rng.normal(0, 2, tuple(prompt.shape))).to(prompt)
            prompt = torch.where((present | (mode == "prior"))[:, None], prompt, matched * size)
        query = queries if rng.random() < 0.7 else None
        logits, score = model.segmenter.decode(attended, targets, hint, prompt, query, memory)
    logits = model.segmenter.upsampled(logits.clamp(-20, 20))
    loss = mask_loss(logits, truth.float())
    out["mask"] = (loss * present).sum() / present.sum().clamp(min=1)
    empty = (area == 0).float()
    out["empty"] = (F.softplus(logits).flatten(1).mean(1) * empty).sum() / empty.sum().clamp(min=1)
    out["score"] = (F.binary_cross_entropy_with_logits(score, present.float(), reduction="none") * weight).mean()
    with torch.no_grad():
        out["absent"] = 1 - present.float().mean()
        out["presence_right"] = ((presence > 0) == present)[counted].float().mean()
        if present.any():
            out[f"dice_{mode}"] = dice((logits > 0)[present], truth[present]).mean()
            if mode == "prior":
                out["dice_prior_alone"] = dice((prior > 0.5)[present], truth[present]).mean()
            out["box_iou"] = box_iou(boxes[present], wanted_boxes).mean()
            out["box_iou_matched"] = box_iou(matched[present], wanted_boxes).mean()
    return out


WEIGHTS = {"aux": 0.6, "presence": 0.5, "box": 0.7, "mask": 1.0, "empty": 0.5, "score": 0.2}


def trainee_of(config: TrainConfig) -> Trainee:
    """The networks that a configuration trains, as they start.

    Raises:
        ModelError: the model to start from has a language model of another kind.
    """
    torch.manual_seed(config.seed)
    if not config.start:
        return Trainee(config.datasets)
    start = load_model(config.start)
    if not isinstance(start.vlm, RauVlm):
        raise ModelError(
            f"The language model of {config.start!r} is a {type(start.vlm).__name__}.",
            "This stage trains the small one of the embedded model.",
            "Train a large one with `rauslicer train recipe`.",
        )
    return Trainee(config.datasets, start.segmenter, start.vlm).train()


def run(config: TrainConfig) -> None:
    """Train, or go on."""
    trainee = trainee_of(config)
    shares = config.datasets.shares("rau")
    sampler = PairSampler(load_cases(config.datasets, shares), shares, trainee.segmenter.config.image_size)

    def draw(rng: np.random.Generator) -> tuple[str, tuple[Any, ...]]:
        return "all", (*draw_pairs(sampler, config.rau.batch, rng), rng)

    train(trainee, draw, WEIGHTS, config.settings("rau", config.rau))
