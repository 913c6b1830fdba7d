"""Augmented pictures of regions, and banks of phrases with what is true of which region. Nothing is ever flipped: sides have names."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..anatomy.graph import AnatomyGraph
from ..interpretation.region.phrases import Knowledge, names_of
from ..interpretation.region.pictures import standardized
from ..interpretation.region.text import encode
from .regions_cases import RegionCase

TRUE, FALSE, UNKNOWN = 1, 0, -1
# A region counts as in the picture with this share of it, and as cut off with less than the second but more than the first of these.
_VISIBLE = 0.25
_CUT = (0.25, 0.85)
_WHOLE = 0.985
# Share of phrases that are said in other words than the first ones (Anatomy-VLM: 20 % are negated or rephrased).
REPHRASED = 0.2


@dataclass(frozen=True)
class Batch:
    """Pictures and what is known of them.

    ``images`` (B, 1, S, S); ``boxes`` (B, N, 4), centre and size as fractions; ``visible`` (B, N), ``facts`` (B, N, F) and ``image_facts``
    (B, F) are `TRUE`, `FALSE` or `UNKNOWN`; ``graphs`` (B,), which graph's nodes a picture has; ``tokens`` (B, P, D), patches of an encoder
    that is not trained.
    """

    images: Tensor
    boxes: Tensor
    visible: Tensor
    facts: Tensor
    image_facts: Tensor
    graphs: Tensor
    tokens: Tensor | None = None

    def to(self, device: torch.device) -> Batch:
        parts: dict[str, Any] = {part.name: getattr(self, part.name) for part in fields(self)}
        return replace(self, **{name: part.to(device) for name, part in parts.items() if part is not None})


@dataclass(frozen=True)
class Bank:
    """Phrases of a step: ``features`` (K, W) of the text encoder; ``findings``, ``nodes`` and ``graphs`` (K,), -1 where a phrase names none
    of its graph's findings or nodes; ``negated`` (K,). Entries that are each other's negation have one number in ``pairs`` (K,), -1 for
    names.
    """

    phrases: tuple[str, ...]
    features: Tensor
    findings: Tensor
    nodes: Tensor
    graphs: Tensor
    negated: Tensor
    pairs: Tensor

    def to(self, device: torch.device) -> Bank:
        return Bank(self.phrases, *(getattr(self, part.name).to(device) for part in fields(self)[1:]))


class Vocabulary:
    """Numbers for nodes and findings, and what can be said of which.

    Args:
        nodes: As in `RegionConfig.nodes`.
        graphs: By name, those that the nodes are of.
        knowledge: By graph.
        located: Names (``graph/id``) of nodes that some case has a plane of.
    """

    def __init__(
        self, nodes: Sequence[tuple[str, str]], graphs: Mapping[str, AnatomyGraph], knowledge: Mapping[str, Knowledge], located: set[str]
    ) -> None:
        self.names = [name for name, _ in nodes]
        self.number = {name: i for i, name in enumerate(self.names)}
        self.graph_names = list(graphs)
        self.graph_of = torch.tensor([self.graph_names.index(name.split("/")[0]) for name in self.names])
        self.located = [name for name in self.names if name in located]
        self.findings = [(graph, f) for graph in graphs for f in knowledge[graph].findings.values() if f.trained]
        self.finding_number = {(graph, finding.id): i for i, (graph, finding) in enumerate(self.findings)}
        self.spoken = {
            name: names_of(graphs[name.split("/")[0]], graphs[name.split("/")[0]].nodes[name.split("/")[1]]) for name in self.names
        }
        above = {name: parent for name, parent in nodes}
        # Nodes in one another: what is said of one may hold for the other.
        self.related = torch.eye(len(self.names), dtype=torch.bool)
        for i, name in enumerate(self.names):
            while above[name]:
                name = above[name]
                self.related[i, self.number[name]] = self.related[self.number[name], i] = True

    def regions_of(self, finding: int) -> list[str]:
        """Located nodes that a finding can be said of."""
        graph, what = self.findings[finding]
        return [name for name in self.located if name.startswith(f"{graph}/") and what.fits(name.split("/")[1])]

    def bank(self, rng: np.random.Generator, regions: int = 3, names: bool = True) -> Bank:
        """Every finding and its negation, of no region and of a few; and the name of every located region."""
        rows: list[tuple[str, int, int, int, bool, int]] = []
        pair = 0
        for number, (graph, finding) in enumerate(self.findings):
            can = self.regions_of(number)
            chosen = [can[i] for i in rng.permutation(len(can))[:regions]]
            for region in [None, *chosen]:
                for negated, said in ((False, finding.present), (True, finding.absent)):
                    phrase = said[0] if rng.random() >= REPHRASED else said[int(rng.integers(len(said)))]
                    if region is not None:
                        phrase = finding.at(phrase, _one(self.spoken[region], rng))
                    node = -1 if region is None else self.number[region]
                    rows.append((phrase, number, node, self.graph_names.index(graph), negated, pair))
                pair += 1
        if names:
            for name in self.located:
                rows.append((_one(self.spoken[name], rng), -1, self.number[name], int(self.graph_of[self.number[name]]), False, -1))
        columns = list(zip(*rows, strict=True))
        numbers = [torch.tensor(column) for column in columns[1:]]
        return Bank(tuple(columns[0]), encode(columns[0]), *numbers)


def _one(said: Sequence[str], rng: np.random.Generator) -> str:
    return said[0] if rng.random() >= REPHRASED else said[int(rng.integers(len(said)))]


def region_truths(batch: Batch, bank: Bank, vocabulary: Vocabulary) -> Tensor:
    """What is true of which region, (B, N, K): of visible regions only."""
    device = batch.facts.device
    count, nodes = batch.visible.shape
    out = torch.full((count, nodes, len(bank.phrases)), UNKNOWN, device=device)
    related, graph_of = vocabulary.related.to(device), vocabulary.graph_of.to(device)
    for k in range(len(bank.phrases)):
        finding, node = int(bank.findings[k]), int(bank.nodes[k])
        if finding < 0:
            # A region of the other graph is another region, too.
            out[:, :, k] = torch.where(related[node], UNKNOWN, FALSE)
            out[:, node, k] = TRUE
            continue
        fact = batch.facts[:, :, finding]
        said = torch.where(fact == UNKNOWN, UNKNOWN, fact ^ int(bank.negated[k])) if bool(bank.negated[k]) else fact
        if node < 0:
            out[:, :, k] = said
        else:
            others = (graph_of == graph_of[node]) & ~related[node]
            out[:, :, k] = torch.where(others, FALSE, UNKNOWN)
            out[:, node, k] = said[:, node]
    out[batch.visible != TRUE] = UNKNOWN
    return out


def image_truths(batch: Batch, bank: Bank) -> Tensor:
    """What is true of which picture, (B, K). Names of regions count, too, where it is known that they are in it or not."""
    out = torch.full((len(batch.graphs), len(bank.phrases)), UNKNOWN, device=batch.facts.device)
    for k in range(len(bank.phrases)):
        finding, node = int(bank.findings[k]), int(bank.nodes[k])
        if finding < 0:
            out[:, k] = batch.visible[:, node]
            continue
        fact = batch.image_facts[:, finding] if node < 0 else batch.facts[:, node, finding]
        out[:, k] = torch.where(fact == UNKNOWN, UNKNOWN, fact ^ 1) if bool(bank.negated[k]) else fact
    return out


def assemble(cases: Sequence[RegionCase], vocabulary: Vocabulary, side: int, rng: np.random.Generator | None) -> Batch:
    """Pictures of cases, augmented by ``rng``; as they are without one."""
    count, nodes, findings = len(cases), len(vocabulary.names), len(vocabulary.findings)
    images = torch.zeros(count, 1, side, side)
    boxes = torch.zeros(count, nodes, 4)
    visible = torch.full((count, nodes), UNKNOWN)
    facts = torch.full((count, nodes, findings), UNKNOWN)
    image_facts = torch.full((count, findings), UNKNOWN)
    for b, case in enumerate(cases):
        grid = sampling_grid(side, rng, reach=0.30 if case.graph == "abdomen" else 0.10)
        image = F.grid_sample(case.image[None, None], grid, mode="bilinear", align_corners=False)[0, 0]
        images[b, 0] = standardized(image if rng is None else recoloured(image, rng))
        planes = F.grid_sample(case.planes[None].float(), grid, mode="nearest", align_corners=False)[0] > 0.5
        # How much of a plane is left, whatever the grid's scale.
        share = planes.flatten(1).sum(1) * _pixel_area(grid, case.planes.shape[-1]) / case.planes.flatten(1).sum(1).clamp_min(1)
        for r, name in enumerate(case.regions):
            n = vocabulary.number.get(name)
            if n is None:
                continue
            visible[b, n] = TRUE if share[r] >= _VISIBLE else (FALSE if share[r] < 0.03 else UNKNOWN)
            if visible[b, n] == TRUE:
                boxes[b, n] = box_of(planes[r])
            cut = vocabulary.finding_number.get((case.graph, "cut"))
            if cut is not None and (share[r] >= _WHOLE or _CUT[0] <= share[r] <= _CUT[1]):
                facts[b, n, cut] = int(share[r] < _CUT[1])
        for (name, finding), is_so in case.facts.items():
            f = vocabulary.finding_number.get((case.graph, finding))
            if f is not None and name in vocabulary.number:
                facts[b, vocabulary.number[name], f] = int(is_so)
        for finding, is_so in case.image_facts.items():
            f = vocabulary.finding_number.get((case.graph, finding))
            if f is not None:
                image_facts[b, f] = int(is_so)
    graphs = torch.tensor([vocabulary.graph_names.index(case.graph) for case in cases])
    return Batch(images, boxes, visible, facts, image_facts, graphs)


def sampling_grid(side: int, rng: np.random.Generator | None, reach: float) -> Tensor:
    """Where in a picture each pixel of an augmented one is looked up, (1, side, side, 2): turned by up to 8 degrees, scaled, moved.

    Right stays right: the map never mirrors.
    """
    if rng is None:
        return F.affine_grid(torch.eye(2, 3)[None], [1, 1, side, side], align_corners=False)
    turn = math.radians(float(rng.uniform(-8, 8)))
    scale = math.exp(float(rng.uniform(-0.15 - reach, 0.12)))
    stretch = math.exp(float(rng.uniform(-0.08, 0.08)))
    move = rng.uniform(-reach, reach, 2)
    linear = np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]]) @ np.diag([scale * stretch, scale / stretch])
    theta = torch.from_numpy(np.hstack([linear, move[:, None]]).astype(np.float32))[None]
    return F.affine_grid(theta, [1, 1, side, side], align_corners=False)


def _pixel_area(grid: Tensor, source: int) -> float:
    """Pixels of a source of ``source`` pixels a side that one pixel of the grid stands for."""
    across, down = grid[0, 0, 1] - grid[0, 0, 0], grid[0, 1, 0] - grid[0, 0, 0]
    return float((across[0] * down[1] - across[1] * down[0]).abs()) * (source / 2) ** 2


def box_of(mask: Tensor) -> Tensor:
    """Centre x, centre y, width and height of a mask (S, S) as fractions of its sides."""
    rows, columns = mask.any(1).nonzero()[:, 0], mask.any(0).nonzero()[:, 0]
    top, bottom = float(rows[0]) / mask.shape[0], float(rows[-1] + 1) / mask.shape[0]
    left, right = float(columns[0]) / mask.shape[1], float(columns[-1] + 1) / mask.shape[1]
    return torch.tensor([(left + right) / 2, (top + bottom) / 2, right - left, bottom - top])


def recoloured(image: Tensor, rng: np.random.Generator) -> Tensor:
    """A picture (S, S) in 0 to 1 with another exposure and grain; bright stays bright."""
    out = image.clamp(0, 1) ** math.exp(float(rng.uniform(-0.45, 0.45)))
    if rng.random() < 0.3:
        out = F.avg_pool2d(out[None, None], 3, 1, 1)[0, 0]
    # A slow change of brightness across the picture, as from a tilted grid.
    ramp = torch.linspace(-1, 1, out.shape[-1])
    across, down = (float(x) for x in rng.normal(0, 0.06, 2))
    out = out * (1 + across * ramp[None, :] + down * ramp[:, None])
    noise = torch.from_numpy(rng.normal(0, float(rng.uniform(0, 0.03)), tuple(out.shape)).astype(np.float32))
    return torch.where(image > 0.01, out + noise, out)
