"""The canonical frame: axes in a known order, a working grid of a known scale, and the exact way back to the target's voxels.

A canonical volume has its array axes nearest to left-right, anterior-posterior and foot-head (LPS). Orientation is judged by the volume's
own axes, never by its origin: the world positions of two patients do not correspond, and a tilted scan must give what the same voxels give
untilted. Volumes of one run are opened together: two that are tilted by about 45 degrees would each for itself be opened along other axes
though they lie alike. What was chosen for a volume is noted on the image, and holds for its masks too.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
import SimpleITK as sitk

from .dicom import MODALITY_KEY
from .grids import from_array
from .intensity import normalize

# Voxels along the longer in-plane side of the reference's foreground. The networks were trained at this scale.
WORKING_EXTENT = 128


# The note on an image: the directions in patient space (columns, row by row) that its canonical axes lie nearest to, where not LPS.
_NOTE = "RAUSlicer.axes"
# Files hold slices last. Where two orders of axes fit nearly alike, the one in the file is the better guess of what the networks have seen:
# worth half of what a perfect fit of one axis is, or two orders that are 55 and 35 degrees off. A heart in thick slices across the second
# axis is not found at all.
_AS_STORED = 0.5
# All ways to permute and flip three axes, as matrices whose columns are the new axes in terms of the old; as it is comes first.
_TURNS = np.array(
    [np.eye(3, dtype=int)[:, order] * signs for order in itertools.permutations(range(3)) for signs in itertools.product((1, -1), repeat=3)]
)


def canonical(image: sitk.Image, like: sitk.Image | None = None) -> sitk.Image:
    """The same voxels with axes in LPS order, or as noted (flipped and permuted, never interpolated).

    ``like`` is the volume of a mask, which is opened as that is.
    """
    like = like or image
    opened = _turned(image, _own_turn(like))
    for source, keys in ((image, (MODALITY_KEY,)), (like, (_NOTE,))):
        for key in keys:
            if source.HasMetaDataKey(key) and not opened.HasMetaDataKey(key):
                opened.SetMetaData(key, source.GetMetaData(key))
    return opened


def stored_like(image: sitk.Image, volume: sitk.Image) -> sitk.Image:
    """An image on a volume's canonical frame in the volume's own axis order, flips and all, with the volume's very own geometry."""
    native = _turned(image, _own_turn(volume).T)
    native.CopyInformation(volume)
    return native


def opened_together(images: Sequence[sitk.Image]) -> list[sitk.Image]:
    """Volumes with notes on how `canonical` opens them, so that axes which lie nearest to each other in patient space correspond.

    Which common order is LPS they decide together. An image that would be opened so anyway comes back as it is.
    """
    first, *others = directions = [np.reshape(image.GetDirection(), (3, 3)) for image in images]
    best: list[np.ndarray] = []
    most = -math.inf
    for turn in _TURNS:
        frame = first @ turn
        if np.linalg.det(frame) > 0:
            turns = [turn, *(_nearest(other, frame) for other in others)]
            fit = sum(_fit(direction, each) for direction, each in zip(directions, turns, strict=True))
            if fit > most + 1e-6:
                best, most = turns, fit
    return [_noted(image, turn) for image, turn in zip(images, best, strict=True)]


def _fit(direction: np.ndarray, turn: np.ndarray) -> float:
    """How well a volume that is turned so lies to LPS: 3 is exactly."""
    return float(np.trace(direction @ turn)) + _AS_STORED * bool(np.abs(turn.diagonal()).all())


def _nearest(direction: np.ndarray, toward: np.ndarray) -> np.ndarray:
    """The turn that brings a volume's axes (columns) nearest to others.

    These are right-handed, and so is the outcome: the nearest left-handed one is farther away than the farthest of the nearest.
    """
    fits = np.einsum("ij,ik,nkj->n", toward, direction, _TURNS)
    # Of those that are as near the first one, whatever the last digits say.
    return np.asarray(_TURNS[np.argmax(fits > fits.max() - 1e-6)])


def _own_turn(image: sitk.Image) -> np.ndarray:
    note = image.GetMetaData(_NOTE).split() if image.HasMetaDataKey(_NOTE) else np.eye(3).ravel()
    return _nearest(np.reshape(image.GetDirection(), (3, 3)), np.array(note, float).reshape(3, 3))


def _noted(image: sitk.Image, turn: np.ndarray) -> sitk.Image:
    if np.array_equal(_own_turn(image), turn):
        return image
    noted = sitk.Image(image)
    noted.SetMetaData(_NOTE, " ".join(f"{cosine:.6f}" for cosine in (np.reshape(image.GetDirection(), (3, 3)) @ turn).ravel()))
    return noted


def _turned(image: sitk.Image, turn: np.ndarray) -> sitk.Image:
    order, flips = np.abs(turn).argmax(axis=0).tolist(), (turn.sum(axis=0) < 0).tolist()
    # Large volumes are not copied where nothing changes.
    turned = sitk.PermuteAxes(image, order) if order != [0, 1, 2] else sitk.Image(image)
    return sitk.Flip(turned, flips, flipAboutOrigin=False) if any(flips) else turned


def foreground(values: np.ndarray) -> np.ndarray:
    """Voxels that are not air, for normalized intensities of shape (z, y, x)."""
    return values > 0.06


def foreground_box(values: np.ndarray) -> tuple[slice, slice, slice]:
    """Slices (z, y, x) that hold all but stray foreground voxels of normalized intensities."""
    inside = foreground(values)
    box = []
    for axis in range(3):
        profile = inside.sum(axis=tuple(a for a in range(3) if a != axis)).astype(np.float64)
        if profile.sum() == 0:
            box.append(slice(0, values.shape[axis]))
            continue
        mass = np.cumsum(profile) / profile.sum()
        box.append(slice(int(np.searchsorted(mass, 0.001)), int(np.searchsorted(mass, 0.999)) + 1))
    return box[0], box[1], box[2]


def working_spacing(image: sitk.Image, values: np.ndarray) -> float:
    """Isotropic spacing in mm at which a reference is matched: the in-plane extent of its foreground fixes it."""
    _, rows, columns = foreground_box(values)
    sx, sy, _ = image.GetSpacing()
    extent = max((rows.stop - rows.start) * sy, (columns.stop - columns.start) * sx)
    return min(max(extent / WORKING_EXTENT, 0.2), 4.0)


def grid_over(image: sitk.Image, spacing: float, box: tuple[slice, slice, slice], margin: int = 4) -> sitk.Image:
    """An empty grid in a canonical image's axes that covers a box (z, y, x) of its voxels with ``margin`` grid voxels around it.

    The margin does not reach beyond the image.
    """
    start, size = [], []
    for axis in range(3):
        span = box[2 - axis]
        step, native = spacing, image.GetSpacing()[axis]
        low = max(span.start * native - margin * step, 0.0)
        high = min((span.stop - 1) * native + margin * step, (image.GetSize()[axis] - 1) * native)
        start.append(low / native)
        size.append(math.floor((high - low) / step + 1e-6) + 1)
    grid = sitk.Image(size, sitk.sitkUInt8)
    grid.SetSpacing((spacing,) * 3)
    grid.SetDirection(image.GetDirection())
    grid.SetOrigin(image.TransformContinuousIndexToPhysicalPoint(start))
    return grid


def resample(image: sitk.Image, grid: sitk.Image, *, nearest: bool = False, outside: float = 0.0) -> sitk.Image:
    """The image on another grid; what lies outside of it gets ``outside``."""
    interpolator = sitk.sitkNearestNeighbor if nearest else sitk.sitkLinear
    return sitk.Resample(image, grid, sitk.Transform(), interpolator, outside)


def normalized(image: sitk.Image) -> sitk.Image:
    """A canonical image with intensities in 0 to 1 (float32)."""
    modality = image.GetMetaData(MODALITY_KEY) if image.HasMetaDataKey(MODALITY_KEY) else None
    return from_array(normalize(sitk.GetArrayViewFromImage(image), modality=modality), image)
