"""The command ``rauslicer benchmark``."""

from __future__ import annotations

import argparse
import sys

from rich import box
from rich.console import Console
from rich.table import Table

from .cli import CANCELLED
from .cli_progress import cancel_on_interrupt, show_progress
from .evaluation.benchmark import run_benchmark
from .evaluation.report import COLUMNS, table


def run_benchmark_command(options: argparse.Namespace) -> int:
    """Run the benchmark and print a table for every data set; return the exit code."""
    with cancel_on_interrupt() as cancel, show_progress() as progress:
        runs = run_benchmark(
            options.data,
            options.output,
            split=options.split,
            domains=_names(options.domains),
            methods=_names(options.methods),
            limit=options.limit,
            progress=progress,
            cancel=cancel,
        )
    # A log has no width of its own, and figures that are cut off are no use.
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 120)
    for domain in dict.fromkeys(run.domain for run in runs):
        printed = Table(*COLUMNS, title=domain, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
        for row in table([run for run in runs if run.domain == domain]):
            printed.add_row(*row)
        console.print(printed)
    for error in dict.fromkeys(f"{run.method}: {run.error}" for run in runs if run.error):
        console.print(f"Failed: {error}", markup=False, soft_wrap=True)
    console.print(f"Written to {options.output}.", markup=False, soft_wrap=True)
    return CANCELLED if cancel.cancelled else 0


def _names(text: str | None) -> list[str] | None:
    return None if text is None else [name.strip() for name in text.split(",") if name.strip()]
