"""Tables and box plots of a benchmark."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from statistics import fmean, median

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ..support.outputs import write_bytes, write_text
from .benchmark import Results
from .metrics import precision_and_recall
from .records import Run

LEGEND = (
    "Dice, HD95 and box IoU are means over structures and runs, HD95 over the structures that were found. Worst 10 %: mean Dice of "
    "the worst tenth. Mask box: IoU of the box around the mask; own box: of the box that the method gives beside it. Presence: "
    "precision and recall of saying that a structure is there. s: median seconds of a run, load apart. MB: highest peak memory. "
    "Variants are run with the first reference of each target, and only structures that are still visible count."
)
COLUMNS = (
    *("Method", "Runs", "Failed", "Dice", "Worst 10 %", "HD95 mm", "Mask box", "Own box", "Presence P", "Presence R", "s", "load s", "MB"),
)


def write_report(results: Results, output: Path) -> None:
    """Write ``table.md``."""
    failed = sum(run.error is not None for run in results.runs)
    lines = [LEGEND, "", f"{len(results.runs)} runs, {failed} of them failed. {completeness(results.missing)}", ""]
    for title, runs in groups(results.runs):
        lines += [f"## {title}", "", *markdown_table(COLUMNS, table(runs)), ""]
    write_text(output / "table.md", "table", "\n".join(lines))


def completeness(missing: int) -> str:
    """Whether runs of the list are still missing, as a sentence."""
    return f"{missing} runs of the list are still missing." if missing else "All runs are there."


def markdown_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """The lines of a table in Markdown."""
    return ["| " + " | ".join(cells) + " |" for cells in (columns, ["---"] * len(columns), *rows)]


def groups(runs: Sequence[Run]) -> list[tuple[str, list[Run]]]:
    """Runs that belong into one table, with its title: a data set, a variant and a number of references."""
    found: dict[str, list[Run]] = {}
    for run in sorted(runs, key=lambda run: (run.domain, len(run.references))):
        several = f", {len(run.references)} references" if len(run.references) > 1 else ""
        found.setdefault(f"{run.domain}, {run.variant}{several}", []).append(run)
    return list(found.items())


def table(runs: Sequence[Run]) -> list[list[str]]:
    """A row for every method, in the order of ``COLUMNS``."""
    rows = []
    for method in dict.fromkeys(run.method for run in runs):
        own = [run for run in runs if run.method == method]
        scores = [score for run in own for score in run.structures]
        dice = sorted(score.dice for score in scores if score.dice is not None)
        answers = [(score.said_present, score.is_present) for score in scores if score.is_present is not None]
        precision, recall = precision_and_recall(answers)
        rows.append(
            [
                method,
                str(len(own)),
                str(sum(run.error is not None for run in own)),
                _mean(dice, 3),
                _mean(dice[: max(len(dice) // 10, 1)], 3),
                _mean([score.hd95_mm for score in scores], 1),
                _mean([score.mask_box_iou for score in scores], 3),
                _mean([score.box_iou for score in scores], 3),
                f"{precision:.3f}",
                f"{recall:.3f}",
                _of([run.seconds for run in own], median),
                _of([run.load_seconds for run in own], median),
                _of([run.peak_mb for run in own], max),
            ]
        )
    return rows


def draw_plots(runs: Sequence[Run], output: Path) -> None:
    """Write ``dice_<data set>.png`` for every data set: box plots of Dice by method, a panel a variant."""
    for domain in sorted({run.domain for run in runs if not run.wrong_part}):
        _plot([run for run in runs if run.domain == domain and not run.wrong_part], domain, output / f"dice_{domain}.png")


def _plot(runs: Sequence[Run], domain: str, path: Path) -> None:
    panels = [(title.removeprefix(f"{domain}, "), own) for title, own in groups(runs)]
    # A panel of one method still has to hold its title.
    counts = [max(len({run.method for run in own}), 2) for _, own in panels]
    figure = Figure(figsize=(1.5 + 0.85 * sum(counts) + 0.5 * len(panels), 5.0), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(1, len(panels), sharey=True, squeeze=False, width_ratios=counts)[0]
    for axes, (title, own) in zip(grid, panels, strict=True):
        methods = list(dict.fromkeys(run.method for run in own))
        values = [[s.dice for run in own if run.method == method for s in run.structures if s.dice is not None] for method in methods]
        axes.boxplot(values, tick_labels=methods, widths=0.6, showmeans=True, flierprops={"markersize": 2})
        axes.tick_params(axis="x", rotation=45)
        for label in axes.get_xticklabels():
            label.set_horizontalalignment("right")
            label.set_rotation_mode("anchor")
        axes.set_ylim(-0.02, 1.02)
        axes.set_title(f"{title.replace(', ', chr(10))}\n{len({run.pair for run in own})} pairs", fontsize=10)
        axes.grid(axis="y", alpha=0.3)
    grid[0].set_ylabel("Dice of a structure in a run")
    figure.suptitle(domain)
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=120, format="png")
    write_bytes(path, "picture", drawn.getvalue())


def _mean(values: Iterable[float | None], digits: int) -> str:
    known = [value for value in values if value is not None]
    return f"{fmean(known):.{digits}f}" if known else "-"


def _of(values: Iterable[float | None], summary: Callable[[list[float]], float]) -> str:
    known = [value for value in values if value is not None]
    return f"{summary(known):.0f}" if known else "-"
