"""Trains the region model, one command a stage; each goes on from the one before.

    python -m RAUSlicerLib.training.regions --stage consistency --output work/regions/consistency
    python -m RAUSlicerLib.training.regions --stage detection --start work/regions/consistency/state.pt --output work/regions/detection
    python -m RAUSlicerLib.training.regions --stage image --start work/regions/detection/state.pt --output work/regions/image
    python -m RAUSlicerLib.training.regions --stage region --start work/regions/image/state.pt --output work/regions/region

*consistency* knows no box, no mask and no phrase. Each of the others keeps the losses of those before it. With ``--frozen N`` a stage
leaves the encoder as it is and trains queries and heads on the patches of N augmented batches: far less time, and a fair way to ask
what an encoder is worth.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..anatomy.terms import load_graph
from ..device import autocast
from ..interpretation.region.network import RegionConfig, RegionNet
from ..interpretation.region.phrases import load_knowledge
from .loop import Settings, options, train
from .regions_batches import TRUE, Bank, Batch, Vocabulary, assemble, image_truths, region_truths
from .regions_cases import ABDOMEN, CHEST, RegionCase, load_projections, load_radiographs, model_nodes
from .regions_losses import against_negation, choose_positives, contrast, detection, hide, hierarchy, reconstruction, regional_contrast

STAGES = ("consistency", "detection", "image", "region")
_BOXES = {"attention": 1.0, "l1": 5.0, "giou": 2.0, "visible": 0.5}
_IMAGE = {"image": 0.4, "image_patches": 0.4, "image_pair": 0.5}
_REGION = {"region": 0.5, "content": 0.5, "pair": 1.0, "content_pair": 0.5}
WEIGHTS: dict[str, dict[str, float]] = {
    "consistency": {"reconstruction": 1.0, "hierarchy": 0.5, "regional": 0.5},
    "detection": _BOXES,
    "image": _BOXES | _IMAGE,
    "region": _BOXES | _IMAGE | _REGION,
}


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
        truths = image_truths(batch, bank, self.vocabulary)
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


def frozen_batches(net: RegionNet, cases: list[RegionCase], vocabulary: Vocabulary, args: argparse.Namespace) -> list[tuple[Batch, Bank]]:
    """Augmented batches with the patches that the encoder makes of them, and phrases for each."""
    rng = np.random.default_rng([args.seed, 1])
    out = []
    for _ in range(args.frozen):
        batch = assemble(draw_batch(cases, args.batch, rng), vocabulary, net.config.image_size, rng)
        with torch.no_grad(), autocast(torch.device("cpu")):
            tokens = net.encode(batch.images).float()
        out.append((replace(batch, tokens=tokens), vocabulary.bank(rng)))
    return out


def run(args: argparse.Namespace) -> None:
    """Train one stage as asked for."""
    torch.manual_seed(args.seed)
    nodes = model_nodes()
    cases = load_all(Path(args.data), "train", Path(args.cache))
    vocabulary = make_vocabulary(nodes, cases)
    trainee = Trainee(RegionNet(RegionConfig(nodes=nodes)), vocabulary)
    if args.start is not None:
        trainee.load_state_dict(torch.load(args.start, weights_only=True)["ema"])
    side = trainee.net.config.image_size

    kept = frozen_batches(trainee.net, cases, vocabulary, args) if args.frozen else []

    def draw(rng: np.random.Generator) -> tuple[str, tuple[Any, ...]]:
        if kept:
            frozen, said = kept[int(rng.integers(len(kept)))]
            return args.stage, (args.stage, frozen, None, said, int(rng.integers(2**31)))
        drawn = draw_batch(cases, args.batch, rng)
        batch = assemble(drawn, vocabulary, side, rng)
        other = assemble(second_views(drawn, cases, rng), vocabulary, side, rng) if args.stage == "consistency" else None
        bank = vocabulary.bank(rng) if args.stage in ("image", "region") else None
        return args.stage, (args.stage, batch, other, bank, int(rng.integers(2**31)))

    train(trainee, draw, WEIGHTS[args.stage], Settings.of(args))


def main() -> None:
    """Train as the command line says."""
    parser = options(__doc__, "work/regions/region", 600, 1.2e-3)
    parser.add_argument("--stage", choices=STAGES, required=True)
    parser.add_argument("--start", type=Path, help="state.pt of the stage before; without, from random weights")
    parser.add_argument("--cache", default="work/regions/drr", help="folder of the projections, made if they are missing")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--frozen", type=int, default=0, metavar="N", help="leave the encoder, on N batches; not for consistency")
    run(parser.parse_args())


if __name__ == "__main__":
    main()
