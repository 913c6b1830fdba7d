"""Fits how evidence becomes confidence: runs the pipeline on training pairs and regresses the true Dice.

    python -m RAUSlicerLib.training.calibration --data ../shared/data --output work/calibration.json

Pairs of different body parts are among them, whose true Dice is zero: a model must know when the reference is the wrong one. So are targets
that miss organs or half of the body, or are mirrored: what is said of a structure must not rest on the rest of the volume alone.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import cycle, islice, permutations
from pathlib import Path
from typing import NamedTuple

import numpy as np
import SimpleITK as sitk
from scipy.optimize import minimize
from scipy.stats import spearmanr

from ..anatomy.terms import lateralized
from ..confidence.calibration import Calibration, StructureEvidence
from ..imaging import variants
from ..imaging.image_file import read_image
from ..imaging.overlap import dice
from ..imaging.segmentation import Reference, Segmentation, Structure
from ..imaging.variants import NATURAL, WITHOUT
from ..pipeline import Pipeline
from ..support import strict_json
from .cases import subject_of

# Cortical parcels and other small print would drown the rest.
_HIGHEST = {"brain_t1": 99}
# What claims too much costs so many times as much as what claims too little: a wrong structure that is called found is not looked at again.
_OVERCLAIMED = 2.0
# Organs that operations take out.
_OPERATED, _REMOVED = "operated", frozenset({"gallbladder", "spleen", "left kidney", "right kidney"})
_EVIDENCE = ("round_trip_dice", "presence", "sharpness", "inlier_ratio", "similarity", "volume_ratio", "label_support")
# Likenesses by the seventh weights: of train volumes of different parts of the body .82 to .90, at most .87 where one was a brain; of the
# same part .94 to .97, of hearts .91 to .95; with half of the field missing, another modality or contrast .89 and more. Of 46 pairs with
# hearts that were not trained on one had .87.
_SIMILAR, _FOREIGN = (0.84, 0.94), 0.86


def annotated(data: Path, domain: str, case: str) -> Reference:
    """A labelled case of a domain folder."""
    names = strict_json.load(data / domain / "labels.json")
    labels = read_image(data / domain / f"{case}_seg.nii.gz")
    present = [int(value) for value in np.unique(sitk.GetArrayViewFromImage(labels)) if 0 < value <= _HIGHEST.get(domain, 1 << 30)]
    structures = tuple(Structure(value, names[str(value)]) for value in present)
    return Reference(read_image(data / domain / f"{case}.nii.gz"), Segmentation(labels, structures))


class Pair(NamedTuple):
    """Data set and case of a reference and of a target, and what is done to the target."""

    source: str
    reference: str
    domain: str
    target: str
    change: str = NATURAL

    @property
    def wrong(self) -> bool:
        """Whether they show different parts of the body."""
        return self.source != self.domain


def pairs(data: Path, count: int, wrong: int, changed: int, seed: int) -> Iterator[Pair]:
    """``count`` pairs a domain as they are, ``wrong`` ones across domains, and ``changed`` ones a domain whose targets are not whole."""
    splits = strict_json.load(data / "splits.json")
    domains = [domain for domain in splits if "val" in splits[domain]]
    rng = np.random.default_rng(seed)

    def draw(domain: str) -> tuple[str, str]:
        while True:
            reference, target = map(str, rng.choice(splits[domain]["train"], 2, replace=False))
            if subject_of(domain, reference, splits) != subject_of(domain, target, splits):
                return reference, target

    for domain in domains:
        for _ in range(count):
            reference, target = draw(domain)
            yield Pair(domain, reference, domain, target)
    for first, second in islice(cycle(permutations(domains, 2)), wrong):
        yield Pair(first, str(rng.choice(splits[first]["train"])), second, str(rng.choice(splits[second]["train"])))
    for domain in domains:
        names = strict_json.load(data / domain / "labels.json").values()
        changes = ("half", "mirrored", *[_OPERATED] * (2 * (not _REMOVED.isdisjoint(names))))
        for change in islice(cycle(changes), changed):
            reference, target = draw(domain)
            yield Pair(domain, reference, domain, target, change)


def changed_target(pair: Pair, target: Reference) -> Reference:
    """What is done to the target of a pair."""
    if pair.change == NATURAL:
        return target
    volume, labels, structures = target.volume, target.segmentation.labelmap, target.segmentation.structures
    if pair.change != _OPERATED:
        volume, labels = variants.change(pair.change, volume, labels, str(pair))
        return Reference(volume, Segmentation(labels, structures))
    for structure in structures:
        if structure.name in _REMOVED:
            volume, labels = variants.change(f"{WITHOUT}{structure.label}", volume, labels, str(pair))
    return Reference(volume, Segmentation(labels, tuple(structure for structure in structures if structure.name not in _REMOVED)))


def gather(pipeline: Pipeline, data: Path, chosen: Iterable[Pair]) -> list[dict]:
    """StructureEvidence and true Dice of every structure of every pair; it is zero for what was found and is not there."""
    rows = []
    for pair in chosen:
        source = annotated(data, pair.source, pair.reference)
        goal = changed_target(pair, annotated(data, pair.domain, pair.target))
        result = pipeline.transfer(source, goal.volume)
        truth = sitk.GetArrayFromImage(goal.segmentation.labelmap)
        # Sides that are exchanged are no matter of a structure's own evidence: they are checked for and doubted.
        sided = lateralized(source.segmentation.structures) if pair.change == "mirrored" else ()
        scores: list[float] = []
        for outcome in result.results:
            label = outcome.structure.label
            known = (truth == label) & (not pair.wrong)
            found = sitk.GetArrayViewFromImage(result.segmentation.labelmap) == label
            if outcome.evidence and (known.any() or found.any()) and outcome.structure not in sided:
                scores.append(dice(found, known))
                rows.append({"pair": list(pair), "label": label, "dice": scores[-1], **outcome.evidence})
        print(*pair, f"{np.mean(scores):.3f}" if scores else "nothing found", flush=True)
    return rows


def fit(rows: list[dict]) -> dict:
    """The calibration: intercept and weights of least squared error, non-negative since evidence never speaks against a structure."""
    in_common = Calibration(similar=_SIMILAR).in_common
    evidence = np.array([[in_common(row[name]) if name == "similarity" else row[name] for name in _EVIDENCE] for row in rows])
    truth = np.array([row["dice"] for row in rows])

    def loss(parameters: np.ndarray) -> float:
        guess = 1 / (1 + np.exp(-(parameters[0] + evidence @ parameters[1:])))
        error = guess - truth
        return float((np.where(error > 0, _OVERCLAIMED, 1) * error**2).mean() + 1e-4 * (parameters[1:] ** 2).sum())

    best = minimize(loss, np.r_[-3.0, np.ones(len(_EVIDENCE))], bounds=[(-12, 2)] + [(0, 10)] * len(_EVIDENCE), method="L-BFGS-B")
    weights = {name: round(float(weight), 4) for name, weight in zip(_EVIDENCE, best.x[1:], strict=True)}
    return {"intercept": round(float(best.x[0]), 4), "weights": weights, "similar": list(_SIMILAR), "other_body_part": _FOREIGN}


def held_out(rows: list[dict]) -> np.ndarray:
    """The confidence (N,) of every row by a fit on the other pairs."""
    said = np.zeros(len(rows))
    for pair in {tuple(row["pair"]) for row in rows}:
        calibration = Calibration(**fit([row for row in rows if tuple(row["pair"]) != pair]))
        for number, row in enumerate(rows):
            if tuple(row["pair"]) == pair:
                said[number] = calibration.confidence(StructureEvidence(**{name: row[name] for name in _EVIDENCE}))
    return said


def main() -> None:
    """Fit as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--pairs", type=int, default=6, help="pairs a domain as they are")
    parser.add_argument("--wrong", type=int, default=12, help="pairs across domains")
    parser.add_argument("--changed", type=int, default=8, help="pairs a domain whose target misses something or is mirrored")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("work/calibration.json"))
    options = parser.parse_args()
    pipeline = Pipeline(options.model)
    # Nothing may be taken back as "not found" here: its Dice is what is to be learned.
    pipeline.model = replace(pipeline.model, calibration=Calibration(low=0.0, absent=-1.0))
    rows = gather(pipeline, options.data, pairs(options.data, options.pairs, options.wrong, options.changed, options.seed))
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.with_suffix(".rows.json").write_text(json.dumps(rows, indent=1))
    options.output.write_text(json.dumps(fit(rows), indent=2) + "\n")
    said, dice = held_out(rows), np.array([row["dice"] for row in rows])
    print(f"Each pair held out: squared error {((said - dice) ** 2).mean():.4f}, Spearman {spearmanr(said, dice).statistic:.2f}")


if __name__ == "__main__":
    main()
