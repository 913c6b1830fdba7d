"""The contact sheet: the reference with its structures beside the target with the result, in three planes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from ..imaging.segmentation import Reference, Segmentation, Structure
from ..results import Status, StructureResult, Transfer
from .slices import Oriented, PicturePlane, visible
from .style import BACKGROUND, MUTED, TEXT, legend_height, new_figure, save, show_slice, structure_color, write_legend, write_title

LEGEND_ENTRIES = 20
LEGEND_COLUMNS = 4

_WIDTH = 15.0
_TITLE_HEIGHT = 1.15
_DPI = 130


def contact_sheet(reference: Reference, target: sitk.Image, transfer: Transfer, path: Path) -> None:
    """Draw reference and target side by side, each through the middle of its structures, and write a PNG.

    Radiological convention: the patient's right is on the left of the picture. Low-confidence structures have a dashed outline.
    The legend names the largest structures of the reference among those that were asked for.

    Raises:
        OutputError: the file can't be written.
    """
    results = {result.structure.name: result for result in transfer.results}
    asked = tuple(structure for structure in reference.segmentation.structures if structure.name in results)
    shown = Segmentation(reference.segmentation.labelmap, asked, reference.segmentation.overlays)
    sides = (Oriented.of(reference.volume, shown), Oriented.of(target, transfer.segmentation))

    entries = _largest(transfer.results)
    legend = legend_height(len(entries), LEGEND_COLUMNS)
    pictures = _pictures_height(sides)
    figure = new_figure(_WIDTH, _TITLE_HEIGHT + pictures + legend)
    write_title(figure, "Anatomical structures transferred from a reference to a target", _summary(transfer))
    height = _TITLE_HEIGHT + pictures + legend
    for index, (side, heading) in enumerate(zip(sides, ("Reference, annotated", "Target, result (draft)"), strict=True)):
        structures = shown if index == 0 else transfer.segmentation
        dashed = frozenset() if index == 0 else _low_confidence(transfer.results)
        left = (0.22 + index * (_WIDTH - 0.22) / 2) / _WIDTH
        figure.text(left, (legend + pictures + 0.14) / height, heading, color=TEXT, fontsize=12, va="center")
        area = (left, (legend + 0.05) / height, ((_WIDTH - 0.22) / 2 - 0.22) / _WIDTH, (pictures - 0.1) / height)
        _draw_side(figure, area, side, structures.structures, dashed)
    named = [(entry.structure, _caption(entry)) for entry in entries]
    write_legend(figure, named, LEGEND_COLUMNS, _note(transfer, len(entries)))
    save(figure, path, _DPI)


def _largest(results: Sequence[StructureResult]) -> list[StructureResult]:
    by_volume = sorted(results, key=lambda result: result.reference_volume_ml, reverse=True)
    return by_volume[:LEGEND_ENTRIES]


def _caption(result: StructureResult) -> str:
    if result.status is Status.NOT_FOUND:
        return f"{result.structure.name}: not found"
    mark = " (low confidence)" if result.status is Status.LOW_CONFIDENCE else ""
    return f"{result.structure.name}{mark}"


def _summary(transfer: Transfer) -> str:
    counts = [f"{sum(result.status is status for result in transfer.results)} {status}" for status in Status]
    made_by = [f"{kind} {name}" for kind, name in (("model", transfer.model), ("localizer", transfer.localizer)) if name]
    return "   |   ".join((f"{len(transfer.results)} structures: {', '.join(counts)}", *made_by))


def _note(transfer: Transfer, listed: int) -> str:
    more = len(transfer.results) - listed
    parts = [f"The {listed} largest are named; {more} more are drawn."] if more > 0 else []
    if _low_confidence(transfer.results):
        parts.append("Dashed outline: low confidence.")
    parts.append("Radiological convention: the patient's right is on the left of the picture.")
    return "  ".join(parts)


def _low_confidence(results: Sequence[StructureResult]) -> frozenset[str]:
    return frozenset(result.structure.name for result in results if result.status is Status.LOW_CONFIDENCE)


def _columns(side: Oriented) -> tuple[tuple[PicturePlane, ...], ...]:
    """One large plane, the others stacked beside it."""
    first, *others = side.planes()
    return ((first,), tuple(others)) if others else ((first,),)


def _column_widths(side: Oriented) -> list[float]:
    """Width of each column when every column is one unit high."""
    widths = []
    for planes in _columns(side):
        extents = [side.extent(plane) for plane in planes]
        widths.append(max(width for width, _ in extents) / sum(height for _, height in extents))
    return widths


def _pictures_height(sides: Sequence[Oriented]) -> float:
    """Inches that let the wider side fill its half of the sheet."""
    widest = max(sum(_column_widths(side)) for side in sides)
    return float(np.clip((_WIDTH - 0.22) / 2 / widest, 2.5, 7.5))


def _draw_side(
    figure: Figure, area: tuple[float, float, float, float], side: Oriented, structures: Sequence[Structure], dashed: frozenset[str]
) -> None:
    left, bottom, width, height = area
    by_label = {(structure.layer, structure.label): structure for structure in structures}
    center = side.center()
    window = side.window()
    columns = _columns(side)
    widths = _column_widths(side)
    for planes, share in zip(columns, widths, strict=True):
        column_width = width * share / sum(widths)
        heights = [side.extent(plane)[1] for plane in planes]
        top = bottom + height
        for plane, plane_height in zip(planes, heights, strict=True):
            pane_height = height * plane_height / sum(heights)
            top -= pane_height
            pane = (left + 0.002, top + 0.003, column_width - 0.004, pane_height - 0.006)
            _draw_plane(figure.add_axes(pane), side, plane, center[plane.axis], window, by_label, dashed)
        left += column_width


def _draw_plane(
    axes: Axes,
    side: Oriented,
    plane: PicturePlane,
    index: int,
    window: tuple[float, float],
    by_label: Mapping[tuple[int, int], Structure],
    dashed: frozenset[str],
) -> None:
    width, height = side.extent(plane)
    x, y = show_slice(axes, side.cut(side.volume, plane, index), (width, height), window, "bicubic")
    cuts = tuple(side.cut(layer, plane, index) for layer in side.layers)
    for layer, label in visible(cuts, by_label):
        structure = by_label[layer, label]
        mask = np.pad((cuts[layer] == label).astype(np.float32), 1)
        color = structure_color(structure)
        axes.contourf(x, y, mask, levels=(0.5, 1.5), colors=[color], alpha=0.42, antialiased=True)
        line = "dashed" if structure.name in dashed else "solid"
        axes.contour(x, y, mask, levels=(0.5,), colors=[color], linewidths=0.9, linestyles=line)
    axes.set(xlim=(0, width), ylim=(height, 0), aspect="equal", xticks=[], yticks=[], facecolor="black")
    for spine in axes.spines.values():
        spine.set_color(BACKGROUND)
    _write_letters(axes, plane)


def _write_letters(axes: Axes, plane: PicturePlane) -> None:
    near, far = 0.015, 0.985
    places = ((near, 0.5, "left", "center"), (far, 0.5, "right", "center"), (0.5, far, "center", "top"), (0.5, near, "center", "bottom"))
    for letter, (x, y, horizontal, vertical) in zip(plane.letters, places, strict=True):
        text = axes.text(x, y, letter, color=TEXT, fontsize=10, fontweight="bold", ha=horizontal, va=vertical, transform=axes.transAxes)
        text.set_path_effects([withStroke(linewidth=2.5, foreground="black")])
    axes.text(0.015, 0.985, plane.name, color=MUTED, fontsize=8.5, ha="left", va="top", transform=axes.transAxes)
