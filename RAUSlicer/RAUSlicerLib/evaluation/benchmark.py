"""Compares methods on labelled volumes: runs trials, scores every structure, and keeps each run as soon as it is there."""

from __future__ import annotations

import os
import platform
import tempfile
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import SimpleITK as sitk

from .. import __version__
from ..imaging.variants import NATURAL
from ..progress import CancelToken, ProgressCallback, ProgressEvent
from ..support.outputs import write_json
from ..support.scratch import ScratchFolder
from .methods import METHODS, check_methods, default_methods, fingerprint
from .pairs import REFERENCES_A_TARGET, SEED, Trial, choose_trials
from .processes import Cancelled, Processes
from .records import RecordedRuns, Run, key_of
from .scoring import Truth, prepare
from .worker import LABELMAP

SCORES = "scores.json"
# Each target as it is, turned, and with half of its field of view; with one reference, and with three at a time.
DEFAULT_VARIANTS = (NATURAL, "rotated", "half")
DEFAULT_COUNTS = (1, 3)


@dataclass(frozen=True)
class Plan:
    """What is to be run: each trial with the names of its methods. ``model`` and ``device`` are those of the methods that have weights."""

    jobs: tuple[tuple[Trial, tuple[str, ...]], ...]
    model: str = "embedded"
    device: str = "auto"
    # Runs of these methods are done again although they are there.
    redo: tuple[str, ...] = ()


@dataclass
class Results:
    """The runs of a plan that are there so far, in the plan's order, and how many are missing."""

    runs: list[Run] = field(default_factory=list)
    missing: int = 0


def plan_benchmark(
    data: Path,
    *,
    split: str = "val",
    domains: Sequence[str] | None = None,
    methods: Sequence[str] | None = None,
    limit: int | None = None,
    variants: Sequence[str] = DEFAULT_VARIANTS,
    counts: Sequence[int] = DEFAULT_COUNTS,
    model: str = "embedded",
    device: str = "auto",
    redo: Collection[str] = (),
) -> Plan:
    """The benchmark's fixed list.

    Args:
        data: Folder with ``splits.json`` and a folder a data set.
        split: Split whose cases are the targets.
        domains: Data sets; None for all.
        methods: Names of ``METHODS``, run on every trial; None takes those that ``default_methods`` names for each kind of trial.
        limit: At most so many pairs a data set.
        variants: Of ``variants.VARIANTS``.
        counts: How many references are used at a time.
        model: Name or folder of the model.
        device: ``auto``, ``cpu`` or ``cuda``.
        redo: Methods whose recorded runs are dropped first.

    Raises:
        InputError: there is no such data, split, method or variant.
        ResourceError: the package of an optional peer is not installed.
    """
    check_methods([*(methods or ()), *redo])
    jobs = []
    for trial in choose_trials(data, split, domains, limit, variants, counts):
        chosen = methods or default_methods(natural=trial.variant == NATURAL, references=len(trial.references))
        jobs.append((trial, tuple(chosen)))
    return Plan(tuple(jobs), model, device, tuple(redo))


def run_plan(
    plan: Plan, output: Path, *, progress: ProgressCallback, cancel: CancelToken, report: Callable[[Results], None] | None = None
) -> Results:
    """Run what of a plan isn't in the output folder yet.

    Args:
        plan: What to run.
        output: Folder of the results, created if need be; an earlier, interrupted benchmark in it goes on.
        progress: Receives an event a run.
        cancel: Stops the run in progress; what is finished is kept.
        report: Called after every trial with what is there so far.

    Returns:
        All runs of the plan that are there, earlier ones included. Runs that failed are tried again next time.

    Raises:
        ModelError: there is no such model.
        OutputError: the output folder can't be created.
    """
    weights = {name: fingerprint(plan.model) if METHODS[name].weights else "" for _, names in plan.jobs for name in names}
    log = RecordedRuns(output)
    if plan.redo:
        log.forget(plan.redo)
    total, number = sum(len(names) for _, names in plan.jobs), 0
    with Processes(plan.model, plan.device) as processes:
        for trial, names in plan.jobs:
            keys = {name: key_of(trial, name, weights[name]) for name in names}
            open_ = [name for name, key in keys.items() if key not in log or log[key].error is not None]
            number += len(names) - len(open_)
            if not open_ or cancel.cancelled:
                continue
            with ScratchFolder(Path(tempfile.gettempdir()), "rauslicer-benchmark-") as scratch:
                truth = prepare(trial, scratch)
                for name in open_:
                    progress(ProgressEvent(_words(trial), number / total, name))
                    try:
                        log.add(_run(trial, truth, name, weights[name], processes, scratch, cancel))
                    except Cancelled:
                        break
                    number += 1
            if report is not None:
                report(gathered(plan, log, weights))
    progress(ProgressEvent("done", 1.0))
    return gathered(plan, log, weights)


def gathered(plan: Plan, log: RecordedRuns, weights: dict[str, str]) -> Results:
    """The runs of a plan that a log has, and those of optional peers that another environment has run on the same trials."""
    results = Results()
    for trial, names in plan.jobs:
        optional = [name for name, method in METHODS.items() if method.package is not None and name not in names]
        for name in (*names, *optional):
            key = key_of(trial, name, weights.get(name, ""))
            if key in log:
                results.runs.append(log[key])
            elif name in names:
                results.missing += 1
    return results


def write_scores(results: Results, path: Path, **settings: Any) -> None:
    """Everything as one JSON document."""
    document = {
        "rauslicer": __version__,
        "seed": SEED,
        "references_a_target": REFERENCES_A_TARGET,
        **settings,
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "missing_runs": results.missing,
        "runs": [asdict(run) for run in results.runs],
    }
    write_json(path, "file", document, indent=1)


def _words(trial: Trial) -> str:
    variant = "" if trial.variant == NATURAL else f", {trial.variant}"
    return f"{trial.domain} {'+'.join(trial.reference_names)} to {trial.target.name}{variant}"


def _run(trial: Trial, truth: Truth, method: str, weights: str, processes: Processes, folder: Path, cancel: CancelToken) -> Run:
    request = {
        "method": method,
        "references": [(str(case.volume), str(case.segmentation)) for case in trial.references],
        "target": str(truth.volume),
        "labels": list(truth.names),
        "folder": str(folder),
    }
    outcome = processes.ask(METHODS[method].process, request, cancel)
    found = None if "error" in outcome else sitk.ReadImage(str(folder / LABELMAP))
    scores = truth.scores(outcome, found, mirrored=trial.variant == "mirrored")
    return Run(
        trial.domain,
        method,
        trial.reference_names,
        trial.target.name,
        trial.variant,
        weights,
        outcome.get("seconds"),
        outcome.get("load_seconds"),
        outcome.get("peak_mb"),
        scores,
        outcome.get("error"),
    )
