"""A picture for every structure: in two or three planes the slice that shows most of it, with its outline."""

from __future__ import annotations

import io
from collections.abc import Mapping

import numpy as np
import SimpleITK as sitk
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from PIL import Image

from ...anatomy.shapes import label_boxes
from ...imaging.segmentation import Segmentation, Structure
from ...pictures.slices import AXIAL, CORONAL, SAGITTAL, Oriented, PicturePlane
from ...pictures.style import MUTED, TEXT, new_figure, show_slice, structure_color

_SIDE = 2.6
_DPI = 100
_COLORS = 64
# A structure is shown with as much around it as lets one see where it is.
_LEAST_SHOWN_MM = 90.0
_SHOWN_TIMES = 2.0


def structure_pictures(
    volume: sitk.Image, segmentation: Segmentation, structures: Mapping[str, Structure], uncertain: frozenset[str] = frozenset()
) -> dict[str, bytes]:
    """A PNG for every structure that has a voxel: square slices side by side.

    Axial and coronal, those across thick slices first, and sagittal where that shows more of the structure; one slice of a picture.
    Radiological convention: the patient's right is on the left of the picture.

    Args:
        volume: The segmented image.
        segmentation: On the volume's grid.
        structures: Those to draw, by the name that the picture is wanted under.
        uncertain: Names of those that get a dashed outline.
    """
    side = Oriented.of(volume, segmentation)
    window = side.window()
    boxes = [label_boxes(layer) for layer in side.layers]
    figures: dict[int, Figure] = {}
    pictures = {}
    for name, structure in structures.items():
        box = boxes[structure.layer].get(structure.label)
        if box is not None:
            planes = _planes(side, side.layers[structure.layer][box] == structure.label)
            figure = figures.setdefault(len(planes), _row_of_axes(len(planes)))
            for axes, plane in zip(figure.axes, planes, strict=True):
                axes.clear()
                _draw(axes, side, plane, window, structure, box, name in uncertain)
            pictures[name] = _png(figure)
    return pictures


def _row_of_axes(count: int) -> Figure:
    figure = new_figure(_SIDE * count, _SIDE)
    for number in range(count):
        figure.add_axes((number / count, 0, 1 / count, 1))
    return figure


def _planes(side: Oriented, mask: np.ndarray) -> tuple[PicturePlane, ...]:
    """The planes in which a structure is shown; ``mask`` (z, y, x) is its box."""
    planes, first = side.planes(), _sharpest(side)
    shown = [first, *(plane for plane in planes if plane in (AXIAL, CORONAL) and plane is not first)]
    areas = {plane.name: _largest_area(side, plane, mask) for plane in planes}
    if SAGITTAL in planes and SAGITTAL not in shown and areas[SAGITTAL.name] > max(areas[plane.name] for plane in shown):
        shown.append(SAGITTAL)
    return tuple(shown)


def _largest_area(side: Oriented, plane: PicturePlane, mask: np.ndarray) -> float:
    """The structure's largest cross-section in a plane, in square millimetres."""
    others = tuple(axis for axis in range(3) if axis != plane.axis)
    return float(mask.sum(axis=others).max()) * side.spacing[others[0]] * side.spacing[others[1]]


def _sharpest(side: Oriented) -> PicturePlane:
    """The plane across the thickest slices; the first one of a volume without such."""
    planes = side.planes()
    thickest = max(planes, key=lambda plane: side.spacing[plane.axis])
    return thickest if side.spacing[thickest.axis] > 1.5 * min(side.spacing) else planes[0]


def _draw(
    axes: Axes,
    side: Oriented,
    plane: PicturePlane,
    window: tuple[float, float],
    structure: Structure,
    box: tuple[slice, ...],
    uncertain: bool,
) -> None:
    others = tuple(axis for axis in range(3) if axis != plane.axis)
    mask = side.layers[structure.layer][box] == structure.label
    index = box[plane.axis].start + int(np.argmax(mask.sum(axis=others)))
    cut = side.cut(side.layers[structure.layer], plane, index) == structure.label
    width, height = side.extent(plane)
    x, y = show_slice(axes, side.cut(side.volume, plane, index), (width, height), window, "bilinear")
    outline = np.pad(cut.astype(np.float32), 1)
    # A dark rim, so that an outline is seen on tissue as bright as itself.
    axes.contour(x, y, outline, levels=(0.5,), colors=["black"], linewidths=2.6, alpha=0.6)
    axes.contour(
        x, y, outline, levels=(0.5,), colors=[structure_color(structure)], linewidths=1.4, linestyles="dashed" if uncertain else "solid"
    )
    _frame(axes, cut, (width, height))
    axes.set(aspect="equal", xticks=[], yticks=[], facecolor="black")
    axes.set_axis_off()
    _write_letters(axes, plane)


def _frame(axes: Axes, cut: np.ndarray, extent: tuple[float, float]) -> None:
    """Show a square around the structure, moved so that it holds as much of the slice as it can."""
    size = [
        float(np.ptp(indices) + 1) * length / count for indices, length, count in zip(np.nonzero(cut), extent[::-1], cut.shape, strict=True)
    ]
    shown = min(max(_LEAST_SHOWN_MM, _SHOWN_TIMES * max(size)), max(extent))
    limits = []
    for indices, length, count in zip(np.nonzero(cut), extent[::-1], cut.shape, strict=True):
        middle = (indices.min() + indices.max() + 1) / 2 * length / count
        middle = length / 2 if shown >= length else float(np.clip(middle, shown / 2, length - shown / 2))
        limits.append((middle - shown / 2, middle + shown / 2))
    axes.set(xlim=limits[1], ylim=limits[0][::-1])


def _write_letters(axes: Axes, plane: PicturePlane) -> None:
    for letter, (x, y, horizontal) in zip(
        (*plane.letters[:2], plane.name), ((0.02, 0.5, "left"), (0.98, 0.5, "right"), (0.02, 0.97, "left")), strict=True
    ):
        text = axes.text(
            x, y, letter, color=MUTED if letter == plane.name else TEXT, fontsize=8, ha=horizontal, va="top", transform=axes.transAxes
        )
        text.set_path_effects([withStroke(linewidth=2, foreground="black")])


def _png(figure: Figure) -> bytes:
    """The figure as a PNG of few colours: a grey picture with one outline needs no more, and a report holds many."""
    drawn, small = io.BytesIO(), io.BytesIO()
    figure.savefig(drawn, dpi=_DPI, facecolor="black", format="png")
    Image.open(drawn).convert("RGB").quantize(_COLORS).save(small, format="png", optimize=True)
    return small.getvalue()
