"""Compares methods on labelled volumes: seeded pairs, scores of every structure, time and peak memory."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from .. import __version__
from ..errors import InputError, OutputError
from ..progress import CancelToken, ProgressCallback, ProgressEvent
from .methods import LABELMAP, METHODS, OUTCOME
from .metrics import score
from .pairs import REFERENCES_A_TARGET, SEED, Pair, choose_pairs, scored_labels

# Smaller annotations are mostly errors at the edge of the field of view.
FEWEST_VOXELS = 50


@dataclass(frozen=True)
class StructureScore:
    """One structure of one run. ``dice``, ``hd95_mm`` and ``box_iou`` are None where the expert marked too little of it to be scored."""

    name: str
    is_present: bool
    said_present: bool
    dice: float | None
    hd95_mm: float | None
    box_iou: float | None


@dataclass(frozen=True)
class Run:
    """One method on one pair. ``seconds`` are the method's alone, ``peak_mb`` its process's; ``error`` says why it failed."""

    domain: str
    method: str
    reference: str
    target: str
    seconds: float | None
    peak_mb: float | None
    structures: tuple[StructureScore, ...]
    error: str | None = None


def run_benchmark(
    data: Path,
    output: Path,
    *,
    split: str = "val",
    domains: Sequence[str] | None = None,
    methods: Sequence[str] | None = None,
    limit: int | None = None,
    progress: ProgressCallback,
    cancel: CancelToken,
) -> list[Run]:
    """Run every method on every pair; write ``scores.json`` after each, and tables and plots at the end.

    Args:
        data: Folder with ``splits.json`` and a folder a data set.
        output: Folder for the results, created if need be.
        split: Split whose cases are the targets.
        domains: Data sets; None for all.
        methods: Names of ``METHODS``; None for all.
        limit: At most so many pairs a data set.
        progress: Receives an event a run.
        cancel: Asked between runs; what is finished is written.

    Raises:
        InputError: there is no such data, split or method.
        OutputError: the output folder can't be created.
    """
    from .report import write_report

    chosen = list(methods or METHODS)
    for name in chosen:
        if name not in METHODS:
            raise InputError(f"There is no method named {name!r}.", f"Known ones: {', '.join(METHODS)}.", "Choose among these.")
    pairs = choose_pairs(data, split, list(domains) if domains else None, limit)
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"The folder {str(output)!r} can't be created.", f"The system says: {error.strerror or error}.", "Choose another folder."
        ) from error
    runs: list[Run] = []
    jobs = [(pair, method) for pair in pairs for method in chosen]
    for number, (pair, method) in enumerate(jobs):
        if cancel.cancelled:
            break
        progress(ProgressEvent(f"{pair.domain} {pair.reference} to {pair.target}", number / len(jobs), method))
        runs.append(run_pair(pair, method))
        _write_scores(output / "scores.json", runs, split)
    write_report(runs, output)
    progress(ProgressEvent("done", 1.0))
    return runs


def run_pair(pair: Pair, method: str) -> Run:
    """Run one method on one pair in a process of its own, and score it against the target's annotation."""
    expected = sitk.ReadImage(str(pair.segmentation(pair.target)))
    of_reference = sitk.GetArrayFromImage(sitk.ReadImage(str(pair.segmentation(pair.reference))))
    values, counts = np.unique(of_reference[of_reference > 0], return_counts=True)
    labels = scored_labels(pair.domain, [int(value) for value, count in zip(values, counts, strict=True) if count >= FEWEST_VOXELS])
    names = json.loads((pair.folder / "labels.json").read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory(prefix="rauslicer-benchmark-") as scratch:
        folder = Path(scratch)
        job = {
            "method": method,
            "labels": labels,
            "reference": str(pair.volume(pair.reference)),
            "reference_segmentation": str(pair.segmentation(pair.reference)),
            "target": str(pair.volume(pair.target)),
        }
        (folder / "job.json").write_text(json.dumps(job), encoding="utf-8")
        child = subprocess.run([sys.executable, "-m", f"{__package__}.methods", scratch], capture_output=True, text=True, check=False)
        if child.returncode != 0:
            last = child.stderr.strip().splitlines()[-1:] or [f"exit code {child.returncode}"]
            outcome: dict[str, Any] = {"error": f"the process ended: {last[0]}"}
        else:
            outcome = json.loads((folder / OUTCOME).read_text(encoding="utf-8"))
        found = None if "error" in outcome else sitk.GetArrayFromImage(sitk.ReadImage(str(folder / LABELMAP)))
    truth = sitk.GetArrayFromImage(expected)
    # A method that fails has found nothing: leaving the run out would reward it.
    found = np.zeros_like(truth) if found is None else found
    scores = tuple(
        _score(names[str(label)], truth == label, found == label, names[str(label)] in outcome.get("present", ()), expected.GetSpacing())
        for label in labels
    )
    return Run(
        pair.domain, method, pair.reference, pair.target, outcome.get("seconds"), outcome.get("peak_mb"), scores, outcome.get("error")
    )


def _score(name: str, expected: np.ndarray, found: np.ndarray, said: bool, spacing: tuple[float, float, float]) -> StructureScore:
    voxels = int(expected.sum())
    if voxels < FEWEST_VOXELS:
        return StructureScore(name, voxels > 0, said, None, None, None)
    result = score(found, expected, spacing)
    return StructureScore(name, True, said, result.dice, result.hd95_mm, result.box_iou)


def _write_scores(path: Path, runs: Sequence[Run], split: str) -> None:
    document = {
        "rauslicer": __version__,
        "seed": SEED,
        "references_a_target": REFERENCES_A_TARGET,
        "split": split,
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "runs": [asdict(run) for run in runs],
    }
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
