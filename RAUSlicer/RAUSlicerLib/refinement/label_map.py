"""From probabilities to a label map on the target's own grid: structures compete for voxels, islands are judged in 3D."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from ..imaging.frame import canonical, from_array, stored_like
from ..imaging.segmentation import Segmentation, Structure
from ..results import SoftMask
from .settings import DEFAULT


def resolve(
    masks: Mapping[Structure, SoftMask],
    structures: Sequence[Structure],
    target: sitk.Image,
    *,
    least: float = 0.5,
    island: float = DEFAULT.island,
) -> Segmentation:
    """Label maps of the structures' own values on the target's own grid; structures of one layer exclude each other.

    Args:
        masks: Probabilities, on any grids.
        structures: All structures of the result, in order; those without a mask come out empty.
        target: Gives the grid.
        least: A voxel belongs to a structure only above this probability.
        island: An island is kept from this share of the largest one's voxels on.
    """
    frame = canonical(target)
    count = 1 + max((structure.layer for structure in structures), default=0)
    layers = []
    for layer in range(count):
        labels = compete({s: m for s, m in masks.items() if s.layer == layer}, frame, least=least, island=island)
        layers.append(stored_like(from_array(labels, frame), target))
    return Segmentation(layers[0], tuple(structures), tuple(layers[1:]))


def compete(masks: Mapping[Structure, SoftMask], frame: sitk.Image, *, least: float = 0.5, island: float = DEFAULT.island) -> np.ndarray:
    """Label array (z, y, x) of a canonical frame: every voxel goes to the likeliest structure if that is likelier than ``least``.

    Islands are judged twice, before structures meet and after. In what order they are given doesn't matter.
    """
    size = frame.GetSize()[::-1]
    largest = max((structure.label for structure in masks), default=0)
    labels = np.zeros(size, np.uint8 if largest < 256 else np.uint16 if largest < 65536 else np.uint32)
    best = np.full(size, least, np.float32)
    places = {}
    for structure in sorted(masks, key=lambda s: s.label):
        found = masks[structure].on(frame, least=least)
        if found is None:
            continue
        values, where = found
        wins = without_specks(values > least, island=island) & (values > best[where])
        best[where][wins] = values[wins]
        labels[where][wins] = structure.label
        places[structure] = where
    for structure, where in places.items():
        part = labels[where]
        mine = part == structure.label
        part[mine & ~without_specks(mine, island=island)] = 0
    return labels


def without_specks(mask: np.ndarray, kept: np.ndarray | None = None, *, island: float = DEFAULT.island) -> np.ndarray:
    """Booleans without islands much smaller than the largest one; an island that touches one of the voxels ``kept`` stays."""
    islands, count = ndimage.label(mask, np.ones((3, 3, 3)))
    if count <= 1:
        return mask
    sizes = np.bincount(islands.ravel())
    sizes[0] = 0
    large = sizes >= island * sizes.max()
    if kept is not None:
        large[np.unique(islands[kept])] = True
    return large[islands] & mask
