"""Trains the region model, stage by stage; each goes on from the one before, and at the end it is scored and written as a model folder.

*consistency* knows no box, no mask and no phrase. Each of the others keeps the losses of those before it. The last one leaves the encoder
as it is and trains queries and heads on the patches of some augmented batches: far less time.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..anatomy.terms import load_graph
from ..device import autocast
from ..interpretation.region.model import PART, REGION_MODEL
from ..interpretation.region.network import RegionConfig, RegionNet
from ..interpretation.region.phrases import load_knowledge
from ..interpretation.region.text import VERSION
from ..models.checkpoint import save_checkpoint
from .config import TrainConfig
from .export import licence_of, take
from .loop import train
from .region_scores import described, score, trust_of
from .regions_batches import TRUE, Bank, Batch, Vocabulary, assemble, image_truths, region_truths
from .regions_cases import ABDOMEN, CHEST, RegionCase, load_projections, load_radiographs, model_nodes
from .regions_losses import against_negation, choose_positives, contrast, detection, hide, hierarchy, reconstruction, regional_contrast
from .settings import RegionStage

STAGES = ("consistency", "detection", "image", "region", "frozen")
_BOXES = {"attention": 1.0, "l1": 5.0, "giou": 2.0, "visible": 0.5}
_IMAGE = {"image": 0.4, "image_patches": 0.4, "image_pair": 0.5}
_REGION = {"region": 0.5, "content": 0.5, "pair": 1.0, "content_pair": 0.5}
WEIGHTS: dict[str, dict[str, float]] = {
    "consistency": {"reconstruction": 1.0, "hierarchy": 0.5, "regional": 0.5},
    "detection": _BOXES,
    "image": _BOXES | _IMAGE,
    "region": _BOXES | _IMAGE | _REGION,
    "frozen": _BOXES | _IMAGE | _REGION,
}
_DATA = (
    """- Chest radiographs of {} people, with masks of lungs, cardiomediastinum, airways, ground glass, consolidation; images CC BY, CC
  BY-SA or CC BY-NC-SA 4.0 (Radiopaedia, Korean Journal of Radiology), annotations CC BY 4.0. {} more are held out. All are of people with
  pneumonia or a like condition, so that nothing is known of healthy chests.""",
    """- Projections of {} abdominal CTs (train split of BTCV, "Multi-Atlas Labeling Beyond the Cranial Vault"; stated CC BY 4.0 by a third
  party, not verified), clipped to -125 to 275 HU, so they are no physical radiographs. {} CTs are held out.""",
)
_CARD = """---
license: {front}
---
# RAUSlicer region model

Boxes anatomical regions of a frontal picture of the chest or the abdomen and scores phrases on them. Research use only.
Not a medical device: a score is no probability of a disease and no diagnosis.

## What it is
A small network of {millions:.2f} million parameters: convolutional stem, {layers} transformer layers over {cells} x {cells} patches of a
picture of {size} x {size} pixels, one learned query for each leaf of two anatomy graphs (chest X-ray and abdomen, {nodes} nodes with the
parents, whose queries are means of their children's), a box head, and projections to a space shared with phrases. The text encoder is fixed
and knows no language: hashed words and word parts, negation marked (version {version}). `docs/reference/region-model.md` has the details.

## Data
{data}

## Training
`rauslicer train regions --config {file}`: {stages}; batches of {batch}.

## Scores on held-out people
{scores}

Brackets: 95 % intervals, from drawing the people anew. `mean_box_iou` and `mean_mask_point` are what the mean box and mask of the train
cases reach without a look at the picture.

## Limits
Few people, one kind of illness, a small picture: lines, tubes, nodules and small effusions are not seen. Where a finding's interval reaches
.5 the model tells it no better than chance, and `config.json` says so under `trust`. Regions that no mask was drawn of (for example the
carina) have a query that was never shown its region. Left and right are those of the picture: a mirrored picture is read mirrored.
"""


class Trainee(nn.Module):
    """The network and what only its training needs."""

    parents: Tensor

    def __init__(self, net: RegionNet, vocabulary: Vocabulary) -> None:
        super().__init__()
        self.net, self.vocabulary = net, vocabulary
        self.pixels = nn.Linear(net.config.dim, net.config.patch**2)
        width = net.config.embedding
        self.predictor = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, width))
        self.register_buffer("parents", child_shares(net.config.nodes), persistent=False)

    def forward(self, stage: str, batch: Batch, other: Batch | None, bank: Bank | None, seed: int) -> dict[str, Tensor]:
        device = self.parents.device
        generator = torch.Generator().manual_seed(seed)
        batch = batch.to(device)
        if other is not None:
            return self._consistency(batch, other.to(device), generator)
        with autocast(device):
            seen = self.net.see(batch.images) if batch.tokens is None else self.net.seen(batch.tokens)
            regions = self.net.ask(seen)
        out = detection(regions, batch)
        if stage == "detection" or bank is None:
            return out
        bank = bank.to(device)
        phrases = self.net.phrases(bank.features)
        scales = self.net.log_scale.clamp(max=4.0).exp()
        truths = image_truths(batch, bank)
        chosen = choose_positives(truths.cpu(), bank.to(torch.device("cpu")), generator).to(device)
        whole, patches = self.net.image_scores(seen, phrases)
        out["image"] = contrast(whole, truths, chosen, scales[1])
        out["image_patches"] = contrast(patches, truths, chosen, scales[1])
        out["image_pair"] = against_negation(whole, truths, bank, scales[1]) + against_negation(patches, truths, bank, scales[1])
        if stage == "image":
            return out
        known = region_truths(batch, bank, self.vocabulary)
        rows = (batch.visible == TRUE).nonzero(as_tuple=True)
        truths = known[rows]
        chosen = choose_positives(truths.cpu(), bank.to(torch.device("cpu")), generator).to(device)
        for name, embeddings in (("region", regions.embeddings), ("content", F.normalize(regions.content.float(), dim=-1))):
            similarities = embeddings[rows] @ phrases.t()
            out[name] = contrast(similarities, truths, chosen, scales[0])
            out["pair" if name == "region" else "content_pair"] = against_negation(similarities, truths, bank, scales[0])
        return out

    def _consistency(self, batch: Batch, other: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        masked, hidden = hide(batch.images, self.net.config.patch, generator)
        with autocast(self.parents.device):
            seen, second = self.net.see(masked), self.net.see(other.images)
            contents = [self.net.ask(view).content.float() for view in (seen, second)]
            made = self.pixels(seen.tokens)
        allowed = self.vocabulary.graph_of.to(hidden.device)[None] == batch.graphs[:, None]
        is_parent = self.parents.sum(1) > 0
        return {
            "reconstruction": reconstruction(made, batch.images, hidden, self.net.config.patch),
            "hierarchy": torch.stack([hierarchy(c, is_parent, self.parents, self.predictor, allowed) for c in contents]).mean(),
            "regional": regional_contrast(contents[0], contents[1], self.vocabulary.related.to(hidden.device), allowed),
        }


def child_shares(nodes: tuple[tuple[str, str], ...]) -> Tensor:
    """(N, N): in a parent's row each child's share of it, zeros in a leaf's."""
    number = {name: i for i, (name, _) in enumerate(nodes)}
    out = torch.zeros(len(nodes), len(nodes))
    for name, parent in nodes:
        if parent:
            out[number[parent], number[name]] = 1
    return out / out.sum(1, keepdim=True).clamp_min(1)


def load_all(data: Path, split: str, cache: Path) -> list[RegionCase]:
    """Radiographs and projections of a split."""
    return load_radiographs(data, split) + load_projections(data, split, cache)


def make_vocabulary(nodes: tuple[tuple[str, str], ...], cases: list[RegionCase]) -> Vocabulary:
    """The numbers of the nodes' and knowledge's words; regions that the cases have planes of are those that phrases are about."""
    graphs = {name: load_graph(name) for name in (CHEST, ABDOMEN)}
    knowledge = {name: load_knowledge(name) for name in graphs}
    return Vocabulary(nodes, graphs, knowledge, {name for case in cases for name in case.regions})


def draw_batch(cases: list[RegionCase], size: int, rng: np.random.Generator) -> list[RegionCase]:
    """Half radiographs, half projections; of each people are drawn first and then their pictures."""
    out = []
    for i in range(size):
        graph = (CHEST, ABDOMEN)[i % 2]
        people = sorted({case.patient for case in cases if case.graph == graph}) or sorted({case.patient for case in cases})
        person = people[int(rng.integers(len(people)))]
        own = [case for case in cases if case.patient == person]
        out.append(own[int(rng.integers(len(own)))])
    return out


def second_views(drawn: list[RegionCase], cases: list[RegionCase], rng: np.random.Generator) -> list[RegionCase]:
    """Another picture of the same person where there is one."""
    out = []
    for case in drawn:
        own = [other for other in cases if other.patient == case.patient and other.graph == case.graph]
        out.append(own[int(rng.integers(len(own)))])
    return out


def frozen_batches(net: RegionNet, cases: list[RegionCase], vocabulary: Vocabulary, config: TrainConfig) -> list[tuple[Batch, Bank]]:
    """Augmented batches with the patches that the encoder makes of them, and phrases for each."""
    rng = np.random.default_rng([config.seed, 1])
    out = []
    for _ in range(config.regions.frozen.batches):
        batch = assemble(draw_batch(cases, config.regions.batch, rng), vocabulary, net.config.image_size, rng)
        with torch.no_grad(), autocast(torch.device("cpu")):
            tokens = net.encode(batch.images).float()
        out.append((replace(batch, tokens=tokens), vocabulary.bank(rng)))
    return out


def run(config: TrainConfig) -> None:
    """Train all stages, or go on; then score the model and write its folder ``regions/model``."""
    folder = config.output / "regions"
    train_cases, held = (load_all(config.data, split, folder / "projections") for split in ("train", "val"))
    vocabulary = make_vocabulary(model_nodes(), train_cases)
    start = ""
    for stage in STAGES:
        settings: RegionStage = getattr(config.regions, stage)
        if settings.steps:
            trainee = _trainee(config, vocabulary, start)
            _train(config, stage, settings, trainee, train_cases, start)
            start = str(folder / stage / "state.pt")
    net = _trainee(config, vocabulary, start).net.eval()
    _save(config, net, vocabulary, train_cases, held)


def _trainee(config: TrainConfig, vocabulary: Vocabulary, start: str) -> Trainee:
    torch.manual_seed(config.seed)
    trainee = Trainee(RegionNet(RegionConfig(nodes=model_nodes())), vocabulary)
    if start:
        take(torch.load(start, weights_only=True, map_location="cpu")["ema"], "", trainee)
    return trainee


def _train(config: TrainConfig, stage: str, settings: RegionStage, trainee: Trainee, cases: list[RegionCase], start: str) -> None:
    vocabulary, side, size = trainee.vocabulary, trainee.net.config.image_size, config.regions.batch
    kept = frozen_batches(trainee.net, cases, vocabulary, config) if stage == "frozen" else []

    def draw(rng: np.random.Generator) -> tuple[str, tuple[Any, ...]]:
        if kept:
            frozen, said = kept[int(rng.integers(len(kept)))]
            return stage, (stage, frozen, None, said, int(rng.integers(2**31)))
        drawn = draw_batch(cases, size, rng)
        batch = assemble(drawn, vocabulary, side, rng)
        other = assemble(second_views(drawn, cases, rng), vocabulary, side, rng) if stage == "consistency" else None
        bank = vocabulary.bank(rng) if stage in ("image", "region") else None
        return stage, (stage, batch, other, bank, int(rng.integers(2**31)))

    train(trainee, draw, WEIGHTS[stage], config.settings(f"regions/{stage}", settings, start))


def _save(config: TrainConfig, net: RegionNet, vocabulary: Vocabulary, cases: list[RegionCase], held: list[RegionCase]) -> None:
    figures = score(net, [case for case in cases if case.graph == CHEST or case.name.endswith("-0")], held, vocabulary)
    people = [[len({case.patient for case in part if case.graph == graph}) for part in (cases, held)] for graph in (CHEST, ABDOMEN)]
    data = [text.format(trained, kept) for text, (trained, kept) in zip(_DATA, people, strict=True)]
    stages = [(stage, getattr(config.regions, stage)) for stage in STAGES]
    licence = licence_of(config)
    card = _CARD.format(
        front=licence.lower(),
        millions=sum(p.numel() for p in net.parameters()) / 1e6,
        layers=net.config.layers,
        cells=net.config.cells,
        size=net.config.image_size,
        nodes=len(net.config.nodes),
        version=VERSION,
        data="\n".join(data),
        file=config.source.name,
        stages=", ".join(f"{stage} {one.steps} steps at {one.rate:g}" for stage, one in stages if one.steps),
        batch=config.regions.batch,
        scores=described(figures),
    )
    described_net = net.config.to_dict() | {"trained": vocabulary.located, "trust": trust_of(figures)}
    folder = config.output / "regions" / "model" / PART
    kind = described_net["model_type"]
    save_checkpoint(folder, described_net, net.state_dict(), card, name=REGION_MODEL, kind=kind, licence=licence)
