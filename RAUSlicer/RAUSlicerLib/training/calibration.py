"""Fits how evidence becomes confidence: runs the pipeline on training pairs and regresses the true Dice.

    python -m RAUSlicerLib.training.calibration --data ../shared/data --output work/calibration.json

Pairs of different body parts are among them, whose true Dice is zero: a model must know when the reference is the wrong one.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from itertools import cycle, islice, permutations
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from scipy.optimize import minimize

from ..imaging.segmentation import Reference, Segmentation, Structure
from ..pipeline import Pipeline
from ..segmentation.confidence import Calibration, overlap
from .cases import subject_of

# Cortical parcels and other small print would drown the rest.
_HIGHEST = {"brain_t1": 99}
_EVIDENCE = ("back", "presence", "sharpness", "support", "likeness", "size")
# Likenesses by the seventh weights: of train volumes of different parts of the body .82 to .90, below .87 where one was a brain; of the
# same part .94 to .97, of hearts .91 to .95; with half of the field missing, another modality or contrast .89 and more. Of 46 pairs with
# hearts that were not trained on one had .87.
_ALIKE, _FOREIGN = (0.84, 0.94), 0.86


def annotated(data: Path, domain: str, case: str) -> Reference:
    """A labelled case of a domain folder."""
    names = json.loads((data / domain / "labels.json").read_text())
    labels = sitk.ReadImage(str(data / domain / f"{case}_seg.nii.gz"))
    present = [int(value) for value in np.unique(sitk.GetArrayViewFromImage(labels)) if 0 < value <= _HIGHEST.get(domain, 1 << 30)]
    structures = tuple(Structure(value, names[str(value)]) for value in present)
    return Reference(sitk.ReadImage(str(data / domain / f"{case}.nii.gz")), Segmentation(labels, structures))


def pairs(data: Path, count: int, wrong: int, seed: int) -> Iterator[tuple[str, str, str, str]]:
    """(reference's domain, reference, target's domain, target): ``count`` a domain, then ``wrong`` ones across domains."""
    splits = json.loads((data / "splits.json").read_text())
    domains = [domain for domain in splits if "val" in splits[domain]]
    rng = np.random.default_rng(seed)
    for domain in domains:
        cases = splits[domain]["train"]
        for _ in range(count):
            reference, target = rng.choice(cases, 2, replace=False)
            while subject_of(domain, reference, splits) == subject_of(domain, target, splits):
                reference, target = rng.choice(cases, 2, replace=False)
            yield domain, str(reference), domain, str(target)
    for first, second in islice(cycle(permutations(domains, 2)), wrong):
        yield first, str(rng.choice(splits[first]["train"])), second, str(rng.choice(splits[second]["train"]))


def gather(pipeline: Pipeline, data: Path, count: int, wrong: int, seed: int) -> list[dict]:
    """Evidence and true Dice of every structure of every pair."""
    rows = []
    for first, reference, second, target in pairs(data, count, wrong, seed):
        source, goal = annotated(data, first, reference), annotated(data, second, target)
        result = pipeline.transfer(source, goal.volume)
        truth = sitk.GetArrayFromImage(goal.segmentation.labelmap)
        for outcome in result.results:
            label = outcome.structure.label
            known = truth == label if first == second else np.zeros_like(truth, bool)
            if outcome.evidence and (known.any() or first != second):
                found = sitk.GetArrayViewFromImage(result.segmentation.labelmap) == label
                rows.append({"pair": [first, reference, second, target], "label": label, "dice": overlap(found, known), **outcome.evidence})
        mean = np.mean([row["dice"] for row in rows if row["pair"] == [first, reference, second, target]])
        print(first, reference, second, target, f"{mean:.3f}", flush=True)
    return rows


def fit(rows: list[dict]) -> dict:
    """The calibration: intercept and non-negative weights of least squared error, since evidence never speaks against a structure."""
    in_common = Calibration(alike=_ALIKE).in_common
    evidence = np.array([[in_common(row[name]) if name == "likeness" else row[name] for name in _EVIDENCE] for row in rows])
    truth = np.array([row["dice"] for row in rows])

    def loss(parameters: np.ndarray) -> float:
        guess = 1 / (1 + np.exp(-(parameters[0] + evidence @ parameters[1:])))
        return float(((guess - truth) ** 2).mean() + 1e-4 * (parameters[1:] ** 2).sum())

    best = minimize(loss, np.r_[-3.0, np.ones(len(_EVIDENCE))], bounds=[(-10, 2)] + [(0, 10)] * len(_EVIDENCE), method="L-BFGS-B")
    weights = {name: round(float(weight), 4) for name, weight in zip(_EVIDENCE, best.x[1:], strict=True)}
    return {"intercept": round(float(best.x[0]), 4), "weights": weights, "alike": list(_ALIKE), "foreign": _FOREIGN}


def main() -> None:
    """Fit as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--pairs", type=int, default=4, help="pairs a domain")
    parser.add_argument("--wrong", type=int, default=3, help="pairs across domains")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("work/calibration.json"))
    options = parser.parse_args()
    pipeline = Pipeline(options.model)
    # Nothing may be taken back as "not found" here: its Dice is what is to be learned.
    pipeline.calibration = Calibration(low=0.0, absent=-1.0)
    rows = gather(pipeline, options.data, options.pairs, options.wrong, options.seed)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.with_suffix(".rows.json").write_text(json.dumps(rows, indent=1))
    options.output.write_text(json.dumps(fit(rows), indent=2) + "\n")


if __name__ == "__main__":
    main()
