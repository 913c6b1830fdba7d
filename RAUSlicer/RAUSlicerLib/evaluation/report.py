"""Tables and plots of a benchmark."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean, median
from typing import TYPE_CHECKING

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from .metrics import precision_and_recall

if TYPE_CHECKING:
    from .benchmark import Run

LEGEND = (
    "Dice, box IoU and HD95 are means over structures and runs, HD95 over the structures that were found. Worst 10 %: mean Dice of the "
    "worst tenth. Presence: precision and recall of saying that a structure is there. s: median seconds of a run. MB: highest peak memory."
)
COLUMNS = ("Method", "Runs", "Failed", "Dice", "Worst 10 %", "HD95 mm", "Box IoU", "Presence P", "Presence R", "s", "MB")


def write_report(runs: Sequence[Run], output: Path) -> None:
    """Write ``table.md``, and for every data set ``dice_<data set>.png``."""
    lines = [LEGEND, ""]
    for domain in sorted({run.domain for run in runs}):
        of_domain = [run for run in runs if run.domain == domain]
        lines += [f"## {domain}", "", _line(COLUMNS), _line(["---"] * len(COLUMNS))]
        lines += [_line(row) for row in table(of_domain)]
        lines.append("")
        _plot(of_domain, domain, output / f"dice_{domain}.png")
    (output / "table.md").write_text("\n".join(lines), encoding="utf-8")


def table(runs: Sequence[Run]) -> list[list[str]]:
    """A row for every method, in the order of ``COLUMNS``."""
    rows = []
    for method in dict.fromkeys(run.method for run in runs):
        own = [run for run in runs if run.method == method]
        scores = [score for run in own for score in run.structures]
        dice = sorted(score.dice for score in scores if score.dice is not None)
        precision, recall = precision_and_recall((score.said_present, score.is_present) for score in scores)
        rows.append(
            [
                method,
                str(len(own)),
                str(sum(run.error is not None for run in own)),
                _mean(dice, 3),
                _mean(dice[: max(len(dice) // 10, 1)], 3),
                _mean([score.hd95_mm for score in scores if score.hd95_mm is not None], 1),
                _mean([score.box_iou for score in scores if score.box_iou is not None], 3),
                f"{precision:.3f}",
                f"{recall:.3f}",
                _of([run.seconds for run in own], median),
                _of([run.peak_mb for run in own], max),
            ]
        )
    return rows


def _plot(runs: Sequence[Run], domain: str, path: Path) -> None:
    methods = list(dict.fromkeys(run.method for run in runs))
    values = [
        [score.dice for run in runs if run.method == method for score in run.structures if score.dice is not None] for method in methods
    ]
    figure = Figure(figsize=(1.5 + 1.3 * len(methods), 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.boxplot(values, tick_labels=methods, widths=0.6, showmeans=True)
    axes.set_ylim(-0.02, 1.02)
    axes.set_ylabel("Dice of a structure in a run")
    axes.set_title(f"{domain}, {len({(run.reference, run.target) for run in runs})} pairs")
    axes.grid(axis="y", alpha=0.3)
    figure.savefig(path, dpi=150)


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _mean(values: Sequence[float], digits: int) -> str:
    return f"{fmean(values):.{digits}f}" if values else "-"


def _of(values: Sequence[float | None], summary: Callable[[list[float]], float]) -> str:
    known = [value for value in values if value is not None]
    return f"{summary(known):.0f}" if known else "-"
