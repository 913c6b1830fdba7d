"""The command ``rauslicer benchmark``: its options, and its three suites."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .options import add_model

if TYPE_CHECKING:
    from ..evaluation.benchmark import Plan, Results
    from ..evaluation.records import Run
    from ..progress import CancelToken, ProgressCallback

SUITES = ("bars", "trust", "vqa")


def add_options(command: argparse.ArgumentParser) -> None:
    """Define the options; nothing heavy is imported for ``--help``."""
    command.add_argument(
        "--suite",
        choices=SUITES,
        default="bars",
        help="bars: ours and all peers on the same pairs; trust: does it know when it is wrong; vqa: questions on slices "
        "(default: %(default)s)",
    )
    command.add_argument("--data", type=Path, default=Path("../shared/data"), help="data folder with splits.json (default: %(default)s)")
    command.add_argument("--split", default="val", help="split whose cases are the targets (default: %(default)s)")
    command.add_argument("--domains", help="names of data sets, separated by commas (default: all that have the split)")
    command.add_argument("--limit", type=int, metavar="N", help="only the first N pairs of each data set")
    add_model(command)
    command.add_argument("--output", type=Path, required=True, metavar="DIR", help="where results go; an interrupted run in it goes on")
    bars = command.add_argument_group("suite bars")
    bars.add_argument(
        "--methods",
        help="separated by commas, run on every pair: copy, affine, demons, elastix, ants, sam2-memory, rauslicer, "
        "rauslicer-registration (default: what each kind of pair needs)",
    )
    bars.add_argument(
        "--variants",
        default="natural,rotated,half",
        help="states of the target: natural, rotated, half, scaled, mirrored, rotated20 (default: %(default)s)",
    )
    bars.add_argument("--references", default="1,3", metavar="K", help="numbers of references used at a time (default: %(default)s)")
    bars.add_argument("--redo", metavar="METHODS", help="methods whose recorded runs are dropped and run again")


def run_benchmark_command(options: argparse.Namespace) -> int:
    """Run a suite and print its tables; return the exit code."""
    from ..evaluation.records import require_own
    from ..models.store import model_folders
    from ..support.outputs import require_outside
    from .exit_codes import CANCELLED
    from .progress import cancel_on_interrupt, show_progress

    run = {"bars": _run_bars, "trust": _run_trust, "vqa": _run_vqa}[options.suite]
    require_outside([("output", options.output / "any")], model_folders(options.model))
    require_own(options.output, *_FILES[options.suite])
    with cancel_on_interrupt() as cancel:
        with show_progress() as progress:
            tables, notes = run(options, progress, cancel)
        _print(tables, [*notes, f"Written to {options.output}."])
    return CANCELLED if cancel.cancelled else 0


# The log of each suite, which makes its other files known as its own.
_FILES = {
    "bars": ("runs.jsonl", ("table.md", "scores.json", "dice_*.png")),
    "trust": ("runs.jsonl", ("trust.md", "trust.json")),
    "vqa": ("vqa.jsonl", ("vqa.md",)),
}

Tables = list[tuple[str, Sequence[str], list[list[str]]]]


def _common(options: argparse.Namespace) -> dict[str, Any]:
    """What all suites are told."""
    said = {name: getattr(options, name) for name in ("split", "limit", "model", "device")}
    return {**said, "domains": _names(options.domains)}


def _run_bars(options: argparse.Namespace, progress: ProgressCallback, cancel: CancelToken) -> tuple[Tables, list[str]]:
    from ..evaluation.benchmark import SCORES, plan_benchmark
    from ..evaluation.report import COLUMNS, draw_plots, groups, table, write_report

    plan = plan_benchmark(
        options.data,
        methods=_names(options.methods),
        variants=_names(options.variants) or (),
        counts=_numbers(options.references, "--references"),
        redo=_names(options.redo) or (),
        **_common(options),
    )

    def report(results: Results) -> None:
        write_report(results, options.output)

    results = _carried_out(plan, options, progress, cancel, report, SCORES)
    draw_plots(results.runs, options.output)
    tables: Tables = [(title, COLUMNS, table(runs)) for title, runs in groups(results.runs)]
    return tables, _failures(results.runs, results.missing)


def _run_trust(options: argparse.Namespace, progress: ProgressCallback, cancel: CancelToken) -> tuple[Tables, list[str]]:
    from ..evaluation.trust import COLUMNS, SIDE_COLUMNS, plan_trust, rows, side_rows, write_trust

    def report(results: Results) -> None:
        write_trust(results.runs, results.missing, options.output)

    results = _carried_out(plan_trust(options.data, **_common(options)), options, progress, cancel, report, "trust.json")
    runs = results.runs
    tables: Tables = [
        ("Does it know when it is wrong", COLUMNS, rows(runs)),
        ("Mirrored targets, lateralised structures", SIDE_COLUMNS, side_rows(runs)),
    ]
    return tables, _failures(runs, results.missing)


def _carried_out(
    plan: Plan, options: argparse.Namespace, progress: ProgressCallback, cancel: CancelToken, report: Callable[[Results], None], scores: str
) -> Results:
    """The results of a plan, reported after each run and at the end, with their scores in a file."""
    from ..evaluation.benchmark import run_plan, write_scores

    results = run_plan(plan, options.output, progress=progress, cancel=cancel, report=report)
    report(results)
    write_scores(results, options.output / scores, split=options.split)
    return results


def _run_vqa(options: argparse.Namespace, progress: ProgressCallback, cancel: CancelToken) -> tuple[Tables, list[str]]:
    from ..evaluation.vqa_suite import NAMING, PRESENCE, naming_rows, presence_rows, run_vqa

    sheets = run_vqa(options.data, options.output, progress=progress, cancel=cancel, **_common(options))
    return [("Name a marked region", NAMING, naming_rows(sheets)), ("Is X present in this slice", PRESENCE, presence_rows(sheets))], []


def _failures(runs: Sequence[Run], missing: int) -> list[str]:
    notes = list(dict.fromkeys(f"Failed: {run.method}: {run.error}" for run in runs if run.error))
    return [*notes, f"{missing} runs of the list are missing; the same command goes on with them."] if missing else notes


def _print(tables: Tables, notes: Sequence[str]) -> None:
    from ..support.printing import Table, say, show

    for title, columns, lines in tables:
        printed = Table(*columns, title=title)
        for line in lines:
            printed.add_row(*line)
        show(printed)
    for note in notes:
        say(note)


def _names(text: str | None) -> list[str] | None:
    return None if text is None else [name.strip() for name in text.split(",") if name.strip()]


def _numbers(text: str, option: str) -> list[int]:
    from ..errors import InputError

    try:
        return [int(number) for number in _names(text) or []]
    except ValueError as error:
        raise InputError(
            f"{option} {text!r} is no list of numbers.", str(error).capitalize() + ".", "Separate whole numbers by commas."
        ) from error
