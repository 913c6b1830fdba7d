"""Fits how evidence becomes confidence: runs the pipeline on training pairs and regresses the true Dice.

Pairs of different body parts are among them, whose true Dice is zero: a model must know when the reference is the wrong one. So are targets
that miss organs or half of the body, or are mirrored: what is said of a structure must not rest on the rest of the volume alone.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import cycle, islice, permutations
from typing import NamedTuple

import numpy as np
import SimpleITK as sitk
from scipy.optimize import minimize
from scipy.stats import spearmanr

from ..anatomy.terms import lateralized
from ..confidence.calibration import Calibration, StructureEvidence
from ..errors import InputError
from ..imaging import variants
from ..imaging.overlap import dice
from ..imaging.segmentation import Reference, Segmentation
from ..imaging.variants import NATURAL, WITHOUT
from ..pipeline import Pipeline
from ..support import strict_json
from .cases import annotated
from .config import TrainConfig
from .datasets import Datasets
from .settings import CalibrationTraining

FITTED = "calibration.json"
# What claims too much costs so many times as much as what claims too little: a wrong structure that is called found is not looked at again.
_OVERCLAIMED = 2.0
# Organs that operations take out.
_OPERATED, _REMOVED = "operated", frozenset({"gallbladder", "spleen", "left kidney", "right kidney"})
_EVIDENCE = ("round_trip_dice", "presence", "sharpness", "inlier_ratio", "similarity", "volume_ratio", "label_support")
# Likenesses by the seventh weights: of train volumes of different parts of the body .82 to .90, at most .87 where one was a brain; of the
# same part .94 to .97, of hearts .91 to .95; with half of the field missing, another modality or contrast .89 and more. Of 46 pairs with
# hearts that were not trained on one had .87.
_SIMILAR, _FOREIGN = (0.84, 0.94), 0.86


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


def pairs(datasets: Datasets, settings: CalibrationTraining, seed: int) -> Iterator[Pair]:
    """Pairs of train cases of different people: as they are, across data sets, and with targets that are not whole."""
    domains = [name for name in datasets.shares("calibration") if _people(datasets, name) > 1]
    rng = np.random.default_rng(seed)

    def draw(domain: str) -> tuple[str, str]:
        about = datasets[domain]
        while True:
            reference, target = map(str, rng.choice(about.cases("train"), 2, replace=False))
            if about.person(reference) != about.person(target):
                return reference, target

    for domain in domains:
        for _ in range(settings.pairs):
            reference, target = draw(domain)
            yield Pair(domain, reference, domain, target)
    for first, second in islice(cycle(permutations(domains, 2)), settings.wrong):
        reference, target = (str(rng.choice(datasets[one].cases("train"))) for one in (first, second))
        yield Pair(first, reference, second, target)
    for domain in domains:
        names = datasets[domain].names.values()
        changes = ("half", "mirrored", *[_OPERATED] * (2 * (not _REMOVED.isdisjoint(names))))
        for change in islice(cycle(changes), settings.changed):
            reference, target = draw(domain)
            yield Pair(domain, reference, domain, target, change)


def _people(datasets: Datasets, name: str) -> int:
    return len({datasets[name].person(case) for case in datasets[name].cases("train")})


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


def gather(pipeline: Pipeline, datasets: Datasets, chosen: Iterable[Pair]) -> list[dict]:
    """StructureEvidence and true Dice of every structure of every pair; it is zero for what was found and is not there."""
    rows = []
    for pair in chosen:
        source = annotated(datasets[pair.source], pair.reference)
        goal = changed_target(pair, annotated(datasets[pair.domain], pair.target))
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


def run(config: TrainConfig) -> str:
    """Fit the exported model's confidence, or without one that of the model to start from; return what each pair held out says of it.

    Raises:
        InputError: there is no model, or no data set with two people.
    """
    model = str(config.model) if config.model.is_dir() else config.start
    chosen = list(pairs(config.datasets, config.calibration, config.seed))
    if not model or not chosen:
        raise InputError(
            "There is nothing to fit the confidence on.",
            f"It takes a model in {str(config.model)!r} or under 'start', and a data set with train cases of two people.",
            "Run `rauslicer train export` first, and see what `rauslicer train check` says.",
        )
    pipeline = Pipeline(model, config.device)
    # Nothing may be taken back as "not found" here: its Dice is what is to be learned.
    pipeline.model = replace(pipeline.model, calibration=Calibration(low=0.0, absent=-1.0))
    rows = gather(pipeline, config.datasets, chosen)
    config.output.mkdir(parents=True, exist_ok=True)
    (config.output / "calibration.rows.json").write_text(json.dumps(rows, indent=1))
    (config.output / FITTED).write_text(json.dumps(fit(rows), indent=2) + "\n")
    said, truth = held_out(rows), np.array([row["dice"] for row in rows])
    return f"Each pair held out: squared error {((said - truth) ** 2).mean():.4f}, Spearman {spearmanr(said, truth).statistic:.2f}"


def fitted(config: TrainConfig) -> dict | None:
    """What was fitted; None where nothing was."""
    path = config.output / FITTED
    return strict_json.load(path) if path.is_file() else None
