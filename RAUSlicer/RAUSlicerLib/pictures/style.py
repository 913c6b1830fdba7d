"""Colours, legend and file writing that all pictures share."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from .. import NOTICE
from ..imaging.palette import label_color
from ..imaging.segmentation import Structure
from ..support.outputs import write_bytes
from ..support.text import printable

BACKGROUND = "#0d1117"
TEXT = "#e6edf3"
MUTED = "#9aa7b4"

Color = tuple[float, float, float]


def new_figure(width: float, height: float) -> Figure:
    """An empty dark figure, sizes in inches.

    Made without pyplot: pyplot keeps every figure alive and may open a window inside a host application.
    """
    figure = Figure(figsize=(width, height), facecolor=BACKGROUND)
    FigureCanvasAgg(figure)
    return figure


def save(figure: Figure, path: Path, dpi: int) -> None:
    """Write the figure as PNG, whole or not at all.

    Raises:
        OutputError: the file can't be written.
    """
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=dpi, facecolor=BACKGROUND, format="png")
    write_bytes(path, "picture", drawn.getvalue())


def structure_color(structure: Structure) -> Color:
    """The structure's own colour, or the palette's for one that has none."""
    return structure.color if structure.color is not None else label_color(structure.label)


def show_slice(
    axes: Axes, image: np.ndarray, extent: tuple[float, float], window: tuple[float, float], interpolation: str
) -> tuple[np.ndarray, np.ndarray]:
    """Draw a slice that is ``extent`` (width, height) mm large, grey from ``window``'s black to its white.

    Returns:
        The centres of its pixels, x and y in mm, with one more pixel all round so that outlines close at the edge of the picture.
    """
    (width, height), (rows, columns) = extent, image.shape
    axes.imshow(image, cmap="gray", vmin=window[0], vmax=window[1], extent=(0, width, height, 0), interpolation=interpolation)
    return (np.arange(columns + 2) - 0.5) * width / columns, (np.arange(rows + 2) - 0.5) * height / rows


def write_title(figure: Figure, title: str, subtitle: str) -> None:
    """Title at the top left, the research notice at the top right; both stand at fixed distances from the edge, in inches."""
    width, height = figure.get_size_inches()
    left, right = 0.22 / width, 1 - 0.22 / width
    figure.text(left, 1 - 0.20 / height, title, color=TEXT, fontsize=15, fontweight="bold", va="top")
    figure.text(left, 1 - 0.50 / height, printable(subtitle), color=MUTED, fontsize=10, va="top", parse_math=False)
    figure.text(right, 1 - 0.22 / height, NOTICE, color="#f0b429", fontsize=10, ha="right", va="top")


def legend_height(entries: int, columns: int) -> float:
    """Inches that ``write_legend`` needs for so many entries."""
    rows = -(-entries // columns)
    return 0.30 + 0.24 * rows


def write_legend(figure: Figure, entries: Sequence[tuple[Structure, str]], columns: int, note: str) -> None:
    """Swatches with labels in columns at the bottom of the figure, and a note below them."""
    width, height = figure.get_size_inches()
    rows = -(-len(entries) // columns)
    cell = (width - 0.44) / columns
    for index, (structure, label) in enumerate(entries):
        column, row = divmod(index, rows)
        x = 0.22 + column * cell
        y = legend_height(len(entries), columns) - 0.14 - 0.24 * row
        swatch = Rectangle((x / width, (y - 0.06) / height), 0.13 / width, 0.13 / height, facecolor=structure_color(structure))
        swatch.set_transform(figure.transFigure)
        figure.add_artist(swatch)
        # Halves of characters and line ends in a name are more than a line of text can show.
        text = printable(label)
        figure.text((x + 0.20) / width, y / height, text, color=TEXT, fontsize=8.5, va="center", parse_math=False)
    figure.text(0.22 / width, 0.13 / height, note, color=MUTED, fontsize=8.5, va="center")
