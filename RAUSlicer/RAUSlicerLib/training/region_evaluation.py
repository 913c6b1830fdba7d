"""Judges the region model on held-out people: boxes, phrases on regions, grounding; beside what one would use without a model.

    python -m RAUSlicerLib.training.region_evaluation --data ../shared/data --output OUT
    python -m RAUSlicerLib.training.region_evaluation --output OUT --model "with=work/regions/b_region/state.pt" --model without=...

Models are folders or training states. Writes ``regions.md`` and ``regions.json``.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..interpretation.region.model import REGION_MODEL, RegionModel
from ..interpretation.region.network import RegionConfig, RegionNet, Regions, Seen
from ..interpretation.region.text import encode, negation
from ..support.outputs import make_folder, write_json, write_text
from .export import take
from .region_metrics import Figure, area, box_iou, figure, mean, overlap, points_at
from .region_report import write_tables
from .regions import load_all, make_vocabulary
from .regions_batches import FALSE, TRUE, Batch, Vocabulary, assemble
from .regions_cases import ABDOMEN, CHEST, RegionCase, model_nodes

_THRESHOLDS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
# Draws of each projection with a part cut off, for the finding that says so.
_CROPS = 4


@dataclass(frozen=True)
class Guess:
    """What the train cases say without looking at a picture.

    ``boxes`` (N, 4) and ``planes`` are means by node; ``facts`` is how often a finding was there in a region.
    """

    boxes: Tensor
    planes: dict[str, np.ndarray]
    facts: dict[tuple[int, int], float]


@dataclass(frozen=True)
class Looked:
    """Cases as one batch, what the network saw of them, and the planes that they were drawn with."""

    cases: Sequence[RegionCase]
    batch: Batch
    seen: Seen
    regions: Regions
    planes: list[dict[str, np.ndarray]]


def open_net(path: str) -> RegionNet:
    """The network of a model's name, folder or training state."""
    if not path.endswith(".pt"):
        return RegionModel.load(path).net
    net = RegionNet(RegionConfig(nodes=model_nodes()))
    take(torch.load(path, weights_only=True)["ema"], "net.", net)
    return net.eval()


def planes_of(case: RegionCase, side: int) -> dict[str, np.ndarray]:
    """Masks of a case's regions and drawn findings at the network's resolution."""
    names = [*case.regions, *case.finding_planes]
    stack = torch.cat([case.planes, *(plane[None] for plane in case.finding_planes.values())]).float()
    small = F.interpolate(stack[None], (side, side), mode="area")[0] >= 0.5
    return {name: plane.numpy() for name, plane in zip(names, small, strict=True)}


@torch.inference_mode()
def look_at(net: RegionNet, cases: Sequence[RegionCase], vocabulary: Vocabulary, crops: int = 0) -> Looked:
    """Show the network cases as they are, or ``crops`` random draws of each (without planes)."""
    side = net.config.image_size
    if crops:
        cases = [case for case in cases for _ in range(crops)]
        batch = assemble(cases, vocabulary, side, np.random.default_rng(0))
        planes: list[dict[str, np.ndarray]] = []
    else:
        batch = assemble(cases, vocabulary, side, None)
        planes = [planes_of(case, side) for case in cases]
    seen = net.see(batch.images)
    return Looked(cases, batch, seen, net.ask(seen), planes)


def guess(train: Looked, vocabulary: Vocabulary) -> Guess:
    """Means over the train cases."""
    there = (train.batch.visible == TRUE).float()
    boxes = (train.batch.boxes * there[..., None]).sum(0) / there.sum(0)[:, None].clamp_min(1)
    found: dict[str, list[np.ndarray]] = {}
    for planes in train.planes:
        for name, plane in planes.items():
            found.setdefault(name, []).append(plane)
    facts = {}
    for f in range(len(vocabulary.findings)):
        for name in vocabulary.regions_of(f):
            known = train.batch.facts[:, vocabulary.number[name], f]
            facts[vocabulary.number[name], f] = mean((known[known >= 0] == TRUE).float().numpy())
    return Guess(boxes, {name: np.mean(planes, 0) for name, planes in found.items()}, facts)


def box_rows(held: Looked, prior: Guess, vocabulary: Vocabulary) -> list[dict[str, Any]]:
    """Boxes of visible regions."""
    out = []
    for b, case in enumerate(held.cases):
        for name in case.regions:
            n = vocabulary.number[name]
            if held.batch.visible[b, n] == TRUE:
                wanted = held.batch.boxes[b, n]
                row = {"iou": box_iou(held.regions.boxes[b, n], wanted), "mean_box_iou": box_iou(prior.boxes[n], wanted)}
                out.append({"patient": case.patient, "graph": case.graph, "region": name, **row})
    return out


@torch.inference_mode()
def score_rows(net: RegionNet, held: Looked, prior: Guess | None, vocabulary: Vocabulary, only: str = "") -> list[dict[str, Any]]:
    """Every finding on every region it can be said of, where the truth is known; brightness and how often it is so beside it."""
    out = []
    for f, (graph, finding) in enumerate(vocabulary.findings):
        if only and finding.id != only:
            continue
        asked = {"score": finding.present[0], **({"unseen": finding.unseen[0]} if finding.unseen else {})}
        differences = {}
        for name, phrase in asked.items():
            said, denied = (net.phrases(encode([p])) for p in (phrase, negation(phrase)))
            differences[name] = (held.regions.embeddings @ (said - denied).t())[..., 0]
        for b, case in enumerate(held.cases):
            for region in vocabulary.regions_of(f):
                n = vocabulary.number[region]
                truth = int(held.batch.facts[b, n, f])
                if case.graph != graph or truth not in (TRUE, FALSE) or held.batch.visible[b, n] != TRUE:
                    continue
                row = {name: float(value[b, n]) for name, value in differences.items()}
                row["brightness"] = _brightness(held.batch.images[b, 0], held.regions.boxes[b, n])
                if prior is not None:
                    row["prior"] = prior.facts[n, f]
                out.append(
                    {"patient": case.patient, "graph": graph, "finding": finding.id, "region": region, "truth": truth == TRUE, **row}
                )
    return out


def _brightness(image: Tensor, box: Tensor) -> float:
    side = image.shape[-1]
    cx, cy, width, height = (float(value) * side for value in box)
    rows = slice(max(0, round(cy - height / 2)), max(1, round(cy + height / 2)))
    columns = slice(max(0, round(cx - width / 2)), max(1, round(cx + width / 2)))
    inside = image[rows, columns]
    return float(inside.mean()) if inside.numel() else 0.0


@torch.inference_mode()
def image_rows(net: RegionNet, held: Looked, vocabulary: Vocabulary) -> list[dict[str, Any]]:
    """Findings of whole pictures."""
    out = []
    for f, (graph, finding) in enumerate(vocabulary.findings):
        said, denied = (net.phrases(encode([p])) for p in (finding.present[0], negation(finding.present[0])))
        values = sum(a - b for a, b in zip(net.image_scores(held.seen, said), net.image_scores(held.seen, denied), strict=True))
        assert isinstance(values, Tensor)
        for b, case in enumerate(held.cases):
            truth = int(held.batch.image_facts[b, f])
            if case.graph == graph and truth in (TRUE, FALSE):
                row = {"finding": finding.id, "truth": truth == TRUE, "score": float(values[b, 0])}
                out.append({"patient": case.patient, "graph": graph, **row})
    return out


@torch.inference_mode()
def grounding_rows(net: RegionNet, looked: Looked, vocabulary: Vocabulary, prior: Guess | None) -> list[dict[str, Any]]:
    """Maps of phrases against the masks of what they name: regions by their names, drawn findings by theirs."""
    side, cells = net.config.image_size, net.config.cells
    findings = {finding.id: finding.present[0] for _, finding in vocabulary.findings}
    asked = {name: vocabulary.spoken[name][0] for name in vocabulary.located} | findings
    phrases = net.phrases(encode(list(asked.values())))
    heats = net.ground_by_regions(looked.regions, phrases, [vocabulary.number[name] for name in vocabulary.located])
    by_patch = net.ground(looked.seen, phrases)
    out = []
    for b, case in enumerate(looked.cases):
        for k, (name, phrase) in enumerate(asked.items()):
            mask = looked.planes[b].get(name)
            if mask is None or mask.sum() < 9:
                continue
            full = full_map(heats[b, k], cells, side)
            is_region = name in vocabulary.number
            row: dict[str, Any] = {"patient": case.patient, "graph": case.graph, "kind": "region" if is_region else "finding", "name": name}
            row |= {"phrase": phrase, "point": points_at(full, mask), "chance": float(mask.mean())}
            row |= {f"iou@{threshold}": overlap(full, mask, threshold) for threshold in _THRESHOLDS}
            row["patch_point"] = points_at(full_map(by_patch[b, k], cells, side), mask)
            if is_region:
                attention = full_map(looked.regions.attention[b, vocabulary.number[name]], cells, side)
                row["attention_point"] = points_at(attention, mask)
            if prior is not None and name in prior.planes:
                row["prior_point"] = points_at(prior.planes[name], mask)
                row |= {f"prior_iou@{threshold}": overlap(prior.planes[name], mask, threshold) for threshold in _THRESHOLDS}
            out.append(row)
    return out


def full_map(patches: Tensor, cells: int, side: int) -> np.ndarray:
    """A map over patches (P,) on the picture's pixels (side, side)."""
    return F.interpolate(patches.view(1, 1, cells, cells).float(), (side, side), mode="bilinear", align_corners=False)[0, 0].numpy()


@torch.inference_mode()
def dependence(net: RegionNet, held: Looked, vocabulary: Vocabulary) -> dict[str, float]:
    """How much maps depend on phrases: mean correlation between maps of different names on one picture, 1 if they ignore the phrase; and
    how often the map of a right region has its highest place further left in the picture than that of the same left one.
    """
    cells = net.config.cells
    correlations, sides = [], []
    for graph in (CHEST, ABDOMEN):
        names = [name for name in vocabulary.located if name.startswith(f"{graph}/")]
        if len(names) < 2:
            continue
        mine = [b for b, case in enumerate(held.cases) if case.graph == graph]
        phrases = net.phrases(encode([vocabulary.spoken[name][0] for name in names]))
        heats = net.ground_by_regions(held.regions, phrases, [vocabulary.number[name] for name in vocabulary.located])
        for b in mine:
            matrix = np.corrcoef(heats[b].numpy())
            correlations.append(float(matrix[~np.eye(len(names), dtype=bool)].mean()))
            for name in names:
                other = name.replace("/right_", "/left_")
                if other != name and other in names:
                    columns = [int(heats[b, names.index(which)].argmax()) % cells for which in (name, other)]
                    sides.append(columns[0] < columns[1])
    return {"correlation": mean(np.array(correlations)), "right_left_order": mean(np.array(sides))}


def judge(net: RegionNet, train: Sequence[RegionCase], held: Sequence[RegionCase], vocabulary: Vocabulary) -> dict[str, Any]:
    """All figures of one network."""
    plain = [case for case in train if case.graph == CHEST or case.name.endswith("-0")]
    seen_train, seen = look_at(net, plain, vocabulary), look_at(net, held, vocabulary)
    prior = guess(seen_train, vocabulary)
    projections = [case for case in held if case.graph == ABDOMEN]
    scores = [row for row in score_rows(net, seen, prior, vocabulary) if row["finding"] != "cut"]
    scores += score_rows(net, look_at(net, projections, vocabulary, _CROPS), prior, vocabulary, "cut")
    rows = {"boxes": box_rows(seen, prior, vocabulary), "scores": scores, "images": image_rows(net, seen, vocabulary)}
    grounded, tuned = grounding_rows(net, seen, vocabulary, prior), grounding_rows(net, seen_train, vocabulary, prior)
    for row in grounded:
        like = [r for r in tuned if (r["graph"], r["kind"]) == (row["graph"], row["kind"])]
        for key in ("iou", "prior_iou"):
            # One threshold for each graph and kind, from the train cases.
            best = max(_THRESHOLDS, key=lambda t: mean(np.array([r.get(f"{key}@{t}", 0.0) for r in like])))
            row[key] = row.get(f"{key}@{best}", float("nan"))
    rows["grounding"] = [{key: value for key, value in row.items() if "@" not in key} for row in grounded]
    known = {"figures": figures(rows), "dependence": dependence(net, seen, vocabulary), "trained": vocabulary.located}
    return known | {"rows": rows}


def figures(rows: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Means and areas with their intervals, by what they are of."""
    out: dict[str, Any] = {}

    def of_means(name: str, chosen: list[dict[str, Any]], keys: Sequence[str]) -> None:
        patients = [row["patient"] for row in chosen]
        made = {key: figure(patients, np.array([float(row[key]) for row in chosen]), mean) for key in keys if all(key in r for r in chosen)}
        out[name] = {key: asdict(value) for key, value in made.items()}

    def of_areas(name: str, chosen: list[dict[str, Any]], keys: Sequence[str]) -> None:
        patients = [row["patient"] for row in chosen]
        made: dict[str, Figure] = {}
        for key in keys:
            if all(key in row for row in chosen):
                made[key] = figure(patients, np.array([[float(row[key]), float(row["truth"])] for row in chosen]), area)
        out[name] = {key: asdict(value) for key, value in made.items()} | {"positive": sum(bool(row["truth"]) for row in chosen)}

    for graph in (CHEST, ABDOMEN):
        of_means(f"boxes/{graph}", [row for row in rows["boxes"] if row["graph"] == graph], ("iou", "mean_box_iou"))
        for kind in ("region", "finding"):
            chosen = [row for row in rows["grounding"] if (row["graph"], row["kind"]) == (graph, kind)]
            if chosen:
                of_means(
                    f"grounding/{graph}/{kind}",
                    chosen,
                    ("point", "iou", "patch_point", "attention_point", "prior_point", "prior_iou", "chance"),
                )
    for which in ("scores", "images"):
        for graph, finding in sorted({(row["graph"], row["finding"]) for row in rows[which]}):
            chosen = [row for row in rows[which] if (row["graph"], row["finding"]) == (graph, finding)]
            of_areas(f"{which}/{graph}/{finding}", chosen, ("score", "unseen", "prior", "brightness"))
    return out


def compare(first: list[dict[str, Any]], second: list[dict[str, Any]]) -> dict[str, Any]:
    """Grounding of two networks on the same pictures: mean differences, first minus second, with their intervals."""
    out = {}
    for graph, kind in sorted({(row["graph"], row["kind"]) for row in first}):
        pairs = [(a, b) for a, b in zip(first, second, strict=True) if (a["graph"], a["kind"]) == (graph, kind)]
        for key in ("point", "iou"):
            values = np.array([float(a[key]) - float(b[key]) for a, b in pairs])
            out[f"{graph}/{kind}/{key}"] = asdict(figure([a["patient"] for a, _ in pairs], values, mean))
    return out


def options(description: str | None) -> argparse.ArgumentParser:
    """The command line of what is judged on the same cases: data, projections, output."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="../shared/data", help="folder with splits.json, cxr_findings and abdomen_ct")
    parser.add_argument("--cache", default="work/regions/drr", help="folder of the projections, made if they are missing")
    parser.add_argument("--output", required=True, help="folder of the results: a table as Markdown, all figures as JSON")
    parser.add_argument("--threads", type=int, default=1)
    return parser


def read_cases(args: argparse.Namespace) -> tuple[list[RegionCase], list[RegionCase]]:
    """Train and held-out cases; torch is given the threads that were asked for."""
    torch.set_num_threads(args.threads)
    train, held = (load_all(Path(args.data), split, Path(args.cache)) for split in ("train", "val"))
    return train, held


def write(args: argparse.Namespace, name: str, document: dict[str, Any], tables: str) -> None:
    """Both files of the results."""
    output = Path(args.output)
    make_folder(output)
    write_json(output / f"{name}.json", "figures", document, indent=1)
    write_text(output / f"{name}.md", "table", tables)
    print(f"Written to {output}: {name}.md, {name}.json")


def run(args: argparse.Namespace) -> None:
    """ConfidenceScorer and write as asked for."""
    train, held = read_cases(args)
    models = dict(text.split("=", 1) for text in args.model) or {"shipped": REGION_MODEL}
    judged = {}
    for name, path in models.items():
        net = open_net(path)
        judged[name] = judge(net, train, held, make_vocabulary(net.config.nodes, train))
        print(f"{name}: done", flush=True)
    differences = {}
    for text in args.compare:
        first, second = text.split(",")
        differences[f"{first} minus {second}"] = compare(*(judged[name]["rows"]["grounding"] for name in (first, second)))
    counted = {
        split: {g: len({c.patient for c in cases if c.graph == g}) for g in (CHEST, ABDOMEN)}
        for split, cases in (("train", train), ("val", held))
    }
    figures_only = {name: {key: value for key, value in one.items() if key != "rows"} for name, one in judged.items()}
    document = {"people": counted, "models": figures_only, "differences": differences}
    write(args, "regions", document, write_tables(document))


def main() -> None:
    """ConfidenceScorer as the command line says."""
    parser = options(__doc__)
    parser.add_argument(
        "--model", action="append", default=[], metavar="NAME=PATH", help="a model folder or a training state; may be repeated"
    )
    parser.add_argument("--compare", action="append", default=[], metavar="NAME,NAME", help="two of these: differences of grounding")
    run(parser.parse_args())


if __name__ == "__main__":
    main()
