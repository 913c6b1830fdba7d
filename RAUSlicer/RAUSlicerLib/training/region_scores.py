"""How the region model does on held-out people: boxes, maps of names, phrases on regions; beside what the train cases say without a model.

Intervals come from drawing the people anew, not their pictures.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.metrics import compute_roc_auc
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import box_convert, box_iou

from ..interpretation.region.network import RegionNet, Regions
from ..interpretation.region.text import encode, negation
from .regions_batches import FALSE, TRUE, Batch, Vocabulary, assemble
from .regions_cases import RegionCase

DRAWS = 200
# Draws of each projection with a part cut off, for the finding that says so.
_CROPS = 4
# A mask that no pixel is left of says nothing.
_FEWEST = 9
Figure = dict[str, float]


def figure(patients: Sequence[str], values: np.ndarray, of: Callable[[np.ndarray], float], seed: int = 0) -> Figure:
    """A figure of rows of ``values`` (n, ...), each of one of ``patients``, and the bounds of its 95 % interval; NaN if undefined."""
    people = sorted(set(patients))
    rows = {person: np.flatnonzero(np.array(patients) == person) for person in people}
    rng = np.random.default_rng(seed)
    drawn = []
    for _ in range(DRAWS if people else 0):
        chosen = rng.integers(0, len(people), len(people))
        drawn.append(of(values[np.concatenate([rows[people[i]] for i in chosen])]))
    kept = np.array(drawn)[~np.isnan(drawn)]
    low, high = np.percentile(kept, [2.5, 97.5]) if len(kept) else (float("nan"),) * 2
    return {"value": of(values), "low": float(low), "high": float(high), "n": len(values), "patients": len(people)}


def mean(values: np.ndarray) -> float:
    """The mean; NaN of nothing."""
    return float(values.mean()) if len(values) else float("nan")


def area(values: np.ndarray) -> float:
    """Area under the ROC curve of rows (score, truth); NaN where all or none is true."""
    truths = values[:, 1] > 0.5
    if truths.all() or not truths.any():
        return float("nan")
    with warnings.catch_warnings():
        # MONAI warns of values it can't compute; they were sorted out above.
        warnings.simplefilter("ignore")
        return float(compute_roc_auc(torch.from_numpy(values[:, 0]).double(), torch.from_numpy(truths.astype(int))))


@torch.inference_mode()
def score(net: RegionNet, train: Sequence[RegionCase], held: Sequence[RegionCase], vocabulary: Vocabulary) -> dict[str, dict[str, Figure]]:
    """All figures of a network, by what they are of: ``boxes/GRAPH``, ``maps/GRAPH`` and ``phrases/GRAPH/FINDING``."""
    # What one would say without a look: the mean box and mask of the train cases.
    boxes = assemble(train, vocabulary, net.config.image_size, None)
    there = (boxes.visible == TRUE).float()
    usual = (boxes.boxes * there[..., None]).sum(0) / there.sum(0)[:, None].clamp_min(1)
    places: dict[str, list[np.ndarray]] = {}
    for case in train:
        for name, plane in _planes(case, net.config.image_size).items():
            places.setdefault(name, []).append(plane)
    batch, regions = _look(net, held, vocabulary)
    rows: dict[str, list[tuple[str, dict[str, Any]]]] = {}
    heats = _maps(net, regions, vocabulary)
    for b, case in enumerate(held):
        masks = _planes(case, net.config.image_size)
        for name in case.regions:
            n = vocabulary.number.get(name)
            if n is None or batch.visible[b, n] != TRUE:
                continue
            found = {"iou": _iou(regions.boxes[b, n], batch.boxes[b, n]), "mean_box_iou": _iou(usual[n], batch.boxes[b, n])}
            rows.setdefault(f"boxes/{case.graph}", []).append((case.patient, found))
            if name in vocabulary.located and name in places and masks[name].sum() >= _FEWEST:
                k = vocabulary.located.index(name)
                pointed = {
                    "point": points_at(heats[b, k], masks[name]),
                    "mean_mask_point": points_at(np.mean(places[name], 0), masks[name]),
                }
                rows.setdefault(f"maps/{case.graph}", []).append((case.patient, pointed))
    out = {
        key: {name: figure([person for person, _ in made], np.array([row[name] for _, row in made], float), mean) for name in made[0][1]}
        for key, made in sorted(rows.items())
    }
    cropped = [case for case in held if case.graph == "abdomen" for _ in range(_CROPS)]
    phrases = _phrases(net, held, batch, regions, vocabulary, cut=False)
    if cropped:
        phrases |= _phrases(net, cropped, *_look(net, cropped, vocabulary, np.random.default_rng(0)), vocabulary, cut=True)
    for key, said in phrases.items():
        out[key] = {"score": figure([person for person, _, _ in said], np.array([row[1:] for row in said], float), area)}
    return out


def trust_of(figures: Mapping[str, Mapping[str, Figure]]) -> dict[str, Figure]:
    """For ``config.json``: the area under the curve of each finding on regions, where it is defined."""
    out = {}
    for key, value in figures.items():
        if key.startswith("phrases/") and not np.isnan(value["score"]["low"]):
            one = value["score"]
            shown = {name: round(one[source], 3) for name, source in (("auc", "value"), ("low", "low"), ("high", "high"))}
            out[key.removeprefix("phrases/")] = shown | {"n": one["n"], "patients": one["patients"]}
    return out


def described(figures: Mapping[str, Mapping[str, Figure]]) -> str:
    """The figures as lines of Markdown; brackets hold 95 % intervals."""
    lines = []
    for key, values in figures.items():
        shown = [f"{name} {one['value']:.2f} [{one['low']:.2f}, {one['high']:.2f}]" for name, one in values.items()]
        first = next(iter(values.values()))
        lines.append(f"- {key}: {', '.join(shown)} ({first['n']} of {first['patients']} people)")
    return "\n".join(lines)


def points_at(heat: np.ndarray, mask: np.ndarray) -> bool:
    """The pointing game: whether the highest place of a map lies in the mask."""
    return bool(mask[np.unravel_index(int(heat.argmax()), heat.shape)])


def _look(
    net: RegionNet, cases: Sequence[RegionCase], vocabulary: Vocabulary, rng: np.random.Generator | None = None
) -> tuple[Batch, Regions]:
    batch = assemble(cases, vocabulary, net.config.image_size, rng)
    return batch, net.ask(net.see(batch.images))


def _planes(case: RegionCase, side: int) -> dict[str, np.ndarray]:
    """Masks of a case's regions at the network's resolution."""
    small = F.interpolate(case.planes[None].float(), (side, side), mode="area")[0] >= 0.5
    return {name: plane.numpy() for name, plane in zip(case.regions, small, strict=True)}


def _maps(net: RegionNet, regions: Regions, vocabulary: Vocabulary) -> np.ndarray:
    """Maps (B, K, S, S) of the located regions' names."""
    phrases = net.phrases(encode([vocabulary.spoken[name][0] for name in vocabulary.located]))
    heats = net.ground_by_regions(regions, phrases, [vocabulary.number[name] for name in vocabulary.located])
    cells, side = net.config.cells, net.config.image_size
    whole = F.interpolate(heats.unflatten(2, (cells, cells)).float(), (side, side), mode="bilinear", align_corners=False)
    maps: np.ndarray = whole.numpy()
    return maps


def _iou(found: Tensor, wanted: Tensor) -> float:
    corners = [box_convert(box[None], "cxcywh", "xyxy") for box in (found, wanted)]
    return float(box_iou(*corners)[0, 0])


def _phrases(
    net: RegionNet, cases: Sequence[RegionCase], batch: Batch, regions: Regions, vocabulary: Vocabulary, *, cut: bool
) -> dict[str, list[tuple[str, float, bool]]]:
    """Patient, score and truth of every finding on every region it can be said of, where the truth is known."""
    out: dict[str, list[tuple[str, float, bool]]] = {}
    for f, (graph, finding) in enumerate(vocabulary.findings):
        if (finding.id == "cut") != cut:
            continue
        said, denied = (net.phrases(encode([p])) for p in (finding.present[0], negation(finding.present[0])))
        difference = (regions.embeddings @ (said - denied).t())[..., 0]
        for b, case in enumerate(cases):
            for n in (vocabulary.number[region] for region in vocabulary.regions_of(f)):
                truth = int(batch.facts[b, n, f])
                if case.graph == graph and truth in (TRUE, FALSE) and batch.visible[b, n] == TRUE:
                    out.setdefault(f"phrases/{graph}/{finding.id}", []).append((case.patient, float(difference[b, n]), truth == TRUE))
    return out
