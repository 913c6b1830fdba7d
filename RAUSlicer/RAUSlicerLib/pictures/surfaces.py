"""The 3D picture: smooth surfaces of all structures, shaded, from three sides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from scipy import ndimage
from skimage import measure

from ..imaging.segmentation import Segmentation, Structure
from .style import MUTED, TEXT, legend_height, new_figure, save, structure_color, write_legend, write_title

_WIDTH = 15.0
_TITLE_HEIGHT = 0.85
_VIEW_WIDTH = (_WIDTH - 0.2) / 3
_MAX_VIEW_HEIGHT = 5.4
_CAPTION_HEIGHT = 0.35
_DPI = 130
_LEGEND_ENTRIES = 20
_LEGEND_COLUMNS = 4
# Finer grids give more triangles than the picture has pixels to show them with.
_MAX_VOXELS = 1_000_000


@dataclass(frozen=True)
class CameraView:
    """A viewpoint: the unit vectors of the picture's right, its up, and towards the viewer, in patient space (LPS)."""

    name: str
    right: tuple[float, float, float]
    up: tuple[float, float, float]
    viewer: tuple[float, float, float]


@dataclass(frozen=True)
class Mesh:
    """Triangles of all structures together.

    ``points`` (F, 3 corners, 3) in mm (LPS), ``normals`` (F, 3) outward, ``colors`` (F, 3) RGB.
    """

    points: np.ndarray
    normals: np.ndarray
    colors: np.ndarray


def _looking_from(name: str, viewer: tuple[float, float, float], up: tuple[float, float, float] = (0, 0, 1)) -> CameraView:
    towards = np.asarray(viewer, float) / np.linalg.norm(viewer)
    right = np.cross(up, towards)
    right /= np.linalg.norm(right)
    upwards = np.cross(towards, right)
    return CameraView(name, _triple(right), _triple(upwards), _triple(towards))


def _triple(vector: np.ndarray) -> tuple[float, float, float]:
    x, y, z = vector.tolist()
    return x, y, z


VIEWS = (
    _looking_from("From the left, in front", (0.75, -0.85, 0.45)),
    _looking_from("From the left", (1, 0, 0.02)),
    _looking_from("From above, the patient's left on the left", (0, 0, 1), up=(0, -1, 0)),
)


def picture_3d(segmentation: Segmentation, path: Path) -> None:
    """Draw the surfaces of all structures from three sides and write a PNG.

    Surfaces are smoothed for display by about one voxel; they are no measurement. Structures without a voxel are left out.

    Raises:
        OutputError: the file can't be written.
    """
    coarse = _coarsened(_cropped(segmentation))
    volumes = {structure: int(np.count_nonzero(coarse.array(structure))) for structure in coarse.structures}
    present = sorted((structure for structure, volume in volumes.items() if volume), key=lambda structure: -volumes[structure])
    named = present[:_LEGEND_ENTRIES]
    legend = legend_height(len(named), _LEGEND_COLUMNS)
    mesh = build_mesh(coarse, present) if present else None
    scale, views = _common_scale(mesh) if mesh else (1.0, 2.0)
    height = _TITLE_HEIGHT + views + legend
    figure = new_figure(_WIDTH, height)
    write_title(figure, "Segmented structures in 3D", f"{len(present)} structures, surfaces smoothed for display")
    if mesh:
        for index, view in enumerate(VIEWS):
            area = ((0.1 + index * _VIEW_WIDTH) / _WIDTH, legend / height, _VIEW_WIDTH / _WIDTH, views / height)
            _draw_view(figure.add_axes(area), mesh, view, scale, views)
    else:
        figure.text(0.5, 0.5, "No structure was found", color=TEXT, fontsize=14, ha="center")
    more = len(present) - len(named)
    note = f"The {len(named)} largest are named; {more} more are drawn." if more else ""
    write_legend(figure, [(structure, structure.name) for structure in named], _LEGEND_COLUMNS, note)
    save(figure, path, _DPI)


def build_mesh(segmentation: Segmentation, structures: Sequence[Structure]) -> Mesh:
    """Triangles of the structures' smoothed surfaces, in patient space; structures without a voxel add none."""
    points, normals, colors = [], [], []
    for structure in structures:
        mask = segmentation.array(structure)
        boxes = ndimage.find_objects(mask.astype(np.uint8))
        if not boxes:
            continue
        start = np.array([part.start for part in boxes[0]])
        smooth = ndimage.gaussian_filter(np.pad(mask[boxes[0]].astype(np.float32), 4), 1.2)
        # A structure thinner than the smoothing has no 0.5 surface; half of its own maximum it always has.
        vertices, faces, _, _ = measure.marching_cubes(smooth, level=min(0.5, 0.5 * float(smooth.max())), gradient_direction="ascent")
        world = _to_world(vertices + start - 4, segmentation.labelmap)
        points.append(world[faces])
        # The gradient of the mask points inwards whatever the handedness of the voxel axes, triangle winding does not.
        gradient = np.stack([ndimage.map_coordinates(part, vertices.T, order=1) for part in np.gradient(smooth)], axis=1)
        normals.append(_outward(gradient[faces].mean(axis=1), segmentation.labelmap))
        colors.append(np.broadcast_to(np.asarray(structure_color(structure)), (len(faces), 3)))
    return Mesh(np.concatenate(points), np.concatenate(normals), np.concatenate(colors))


def _cropped(segmentation: Segmentation) -> Segmentation:
    """The segmentation without its empty borders; unchanged where nothing is labelled."""
    occupied = np.any([sitk.GetArrayViewFromImage(layer) > 0 for layer in segmentation.layers], axis=0)
    boxes = ndimage.find_objects(occupied.astype(np.uint8))
    if not boxes:
        return segmentation
    start = [part.start for part in reversed(boxes[0])]
    size = [part.stop - part.start for part in reversed(boxes[0])]
    return segmentation.map_layers(sitk.RegionOfInterest(layer, size, start) for layer in segmentation.layers)


def _coarsened(segmentation: Segmentation) -> Segmentation:
    """The segmentation on a grid of near-cubic voxels that is fine enough for a picture, and no finer."""
    image = segmentation.labelmap
    extent = [size * step for size, step in zip(image.GetSize(), image.GetSpacing(), strict=True)]
    step = max(min(image.GetSpacing()), float(np.prod(extent) / _MAX_VOXELS) ** (1 / 3))
    size = [max(1, round(length / step)) for length in extent]
    spacing = [length / count for length, count in zip(extent, size, strict=True)]
    shift = [(new - old) / 2 for new, old in zip(spacing, image.GetSpacing(), strict=True)]
    direction = np.reshape(image.GetDirection(), (3, 3))
    origin = np.asarray(image.GetOrigin()) + direction @ shift
    return segmentation.map_layers(
        sitk.Resample(layer, size, sitk.Transform(), sitk.sitkNearestNeighbor, origin.tolist(), spacing, image.GetDirection())
        for layer in segmentation.layers
    )


def _axes_in_world(image: sitk.Image) -> np.ndarray:
    """Columns: the direction (LPS) of one step along array axes z, y, x, without its length."""
    return np.reshape(image.GetDirection(), (3, 3))[:, ::-1]


def _to_world(indices: np.ndarray, image: sitk.Image) -> np.ndarray:
    """Continuous array indices (N, 3: z, y, x) to patient space (N, 3) in mm."""
    steps = _axes_in_world(image) * np.asarray(image.GetSpacing())[::-1]
    return indices @ steps.T + np.asarray(image.GetOrigin())


def _outward(gradient: np.ndarray, image: sitk.Image) -> np.ndarray:
    """Unit normals (N, 3) in patient space from mask gradients (N, 3: z, y, x)."""
    normals = -(gradient / np.asarray(image.GetSpacing())[::-1]) @ _axes_in_world(image).T
    length = np.linalg.norm(normals, axis=1, keepdims=True)
    return np.asarray(normals / np.maximum(length, 1e-9))


def _common_scale(mesh: Mesh) -> tuple[float, float]:
    """Millimetres an inch that let every view fit, and the height in inches that the views then need."""
    extents = [(np.ptp(mesh.points @ view.right), np.ptp(mesh.points @ view.up)) for view in VIEWS]
    scale = max(max(width / (_VIEW_WIDTH - 0.2), height / (_MAX_VIEW_HEIGHT - _CAPTION_HEIGHT)) for width, height in extents)
    return float(scale), float(max(height for _, height in extents) / scale + _CAPTION_HEIGHT + 0.1)


def _draw_view(axes: Axes, mesh: Mesh, view: CameraView, scale: float, height: float) -> None:
    front = mesh.normals @ view.viewer > -0.05
    points, normals, colors = mesh.points[front], mesh.normals[front], mesh.colors[front]
    depth = points.mean(axis=1) @ view.viewer
    order = np.argsort(depth)
    flat = np.stack([points @ view.right, points @ view.up], axis=-1)[order]
    shaded = _shade(normals[order], colors[order], depth[order], view)
    # Edges in the face's colour close the hairline gaps that antialiasing leaves between triangles.
    axes.add_collection(PolyCollection(list(flat), facecolors=shaded, edgecolors=shaded, linewidths=0.35))
    corners = flat.reshape(-1, 2)
    x, y = (corners.min(axis=0) + corners.max(axis=0)) / 2
    y -= _CAPTION_HEIGHT / 2 * scale
    axes.set(xlim=(x - _VIEW_WIDTH / 2 * scale, x + _VIEW_WIDTH / 2 * scale), ylim=(y - height / 2 * scale, y + height / 2 * scale))
    axes.set_axis_off()
    axes.text(0.5, 0.02, view.name, color=MUTED, fontsize=9.5, ha="center", va="bottom", transform=axes.transAxes)


def _shade(normals: np.ndarray, colors: np.ndarray, depth: np.ndarray, view: CameraView) -> np.ndarray:
    """Colours (F, 3) under a key light from the upper left, a weak fill from the right and a highlight; far faces are darker."""
    right, up, viewer = (np.asarray(axis) for axis in (view.right, view.up, view.viewer))
    key = -0.45 * right + 0.65 * up + 0.75 * viewer
    fill = 0.8 * right - 0.2 * up + 0.5 * viewer
    key, fill = key / np.linalg.norm(key), fill / np.linalg.norm(fill)
    half = (key + viewer) / np.linalg.norm(key + viewer)
    diffuse = 0.22 + 0.68 * np.clip(normals @ key, 0, 1) + 0.20 * np.clip(normals @ fill, 0, 1)
    highlight = 0.22 * np.clip(normals @ half, 0, 1) ** 24
    near = (depth - depth.min()) / max(float(np.ptp(depth)), 1e-6)
    lit = colors * (diffuse * (0.62 + 0.38 * near))[:, None] + highlight[:, None]
    return np.asarray(np.clip(lit, 0, 1))
