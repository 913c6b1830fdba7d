"""What the benchmark does to a target to see whether methods cope: turned, half missing, scaled, mirrored, an organ taken out.

Every variant moves voxels and leaves the header's directions alone: a header that only says so changes nothing for a method that works in
the canonical frame. Labels move with the voxels.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from itertools import product

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from .frame import canonical, foreground_box, from_array, normalized

NATURAL = "natural"
WITHOUT = "without "
# Slices so much thicker than their pixels would be torn apart by a turn out of their plane.
_THICK = 4.0
# Registration needs as many.
_FEWEST_SLICES = 4
SCALE = 1.2

Volumes = tuple[sitk.Image, sitk.Image]


def change(variant: str, volume: sitk.Image, labels: sitk.Image, seed: str) -> Volumes:
    """A target and its label map in one of ``VARIANTS``, or in ``WITHOUT`` and a label: with that structure taken out.

    ``seed`` fixes what is drawn, for example the axis of a turn.
    """
    if variant == NATURAL:
        return volume, labels
    volume, labels, draw = canonical(volume), canonical(labels), random.Random(seed)
    if variant.startswith(WITHOUT):
        return without(volume, labels, int(variant.removeprefix(WITHOUT)), draw)
    return VARIANTS[variant](volume, labels, draw)


def rotated(volume: sitk.Image, labels: sitk.Image, degrees: float, axis: tuple[float, float, float]) -> Volumes:
    """The anatomy turned around an axis (x, y, z) within the voxel grid, which grows by what would be cut off."""
    turn = sitk.VersorTransform(axis, math.radians(degrees))
    return _moved(volume, labels, np.reshape(turn.GetMatrix(), (3, 3)))


def scaled(volume: sitk.Image, labels: sitk.Image, factor: float) -> Volumes:
    """The anatomy larger by a factor on the same spacing; the grid grows where it has to."""
    return _moved(volume, labels, np.eye(3) * factor)


def halved(volume: sitk.Image, labels: sitk.Image, *, upper: bool) -> Volumes:
    """The upper or the lower half of the anatomy's extent along the body; the other slices are not there."""
    box = _foreground(volume)[0]
    middle, count = (box.start + box.stop) // 2, volume.GetSize()[2]
    first, last = (min(middle, count - _FEWEST_SLICES), count) if upper else (0, max(middle, _FEWEST_SLICES))
    return volume[:, :, max(first, 0) : last], labels[:, :, max(first, 0) : last]


def mirrored(volume: sitk.Image, labels: sitk.Image) -> Volumes:
    """Left and right exchanged. A structure keeps its label: its laterality is that of the anatomy, no longer that of the coordinates."""
    flipped = [from_array(np.ascontiguousarray(sitk.GetArrayViewFromImage(image)[:, :, ::-1]), image) for image in (volume, labels)]
    return flipped[0], flipped[1]


def without(volume: sitk.Image, labels: sitk.Image, label: int, draw: random.Random) -> Volumes:
    """A structure taken out: its voxels, and a rim of one, get the intensities of the tissue around it. Stands in for an operation."""
    values, marked = sitk.GetArrayFromImage(volume), sitk.GetArrayFromImage(labels)
    gone = ndimage.binary_dilation(marked == label)
    if gone.any():
        rim = ndimage.binary_dilation(gone, iterations=3) & ~gone
        nearest = ndimage.distance_transform_edt(~rim, return_distances=False, return_indices=True)
        filled = values[tuple(nearest)].astype(np.float32)
        smooth = ndimage.gaussian_filter(np.where(gone, filled, values).astype(np.float32), 1.0)
        grain = np.random.default_rng(draw.randrange(2**32)).choice(
            (values - ndimage.gaussian_filter(values, 1.0, output=np.float32))[rim], gone.sum()
        )
        values[gone] = (smooth[gone] + grain).astype(values.dtype)
        marked[marked == label] = 0
    return from_array(values, volume), from_array(marked, labels)


def _moved(volume: sitk.Image, labels: sitk.Image, forward: np.ndarray) -> Volumes:
    """Both images after a linear map (3, 3; x, y, z along the image's axes) around the grid's centre, on a grid that holds all of it."""
    spacing, size = np.array(volume.GetSpacing()), np.array(volume.GetSize())
    centre = (size - 1) / 2 * spacing
    box = _foreground(volume)[::-1]
    corners = np.array(list(product(*[(side.start, side.stop - 1) for side in box]))) * spacing
    moved = ((corners - centre) @ forward.T + centre) / spacing
    before = np.maximum(np.ceil(-moved.min(0)), 0).astype(int)
    after = np.maximum(np.ceil(moved.max(0)) - (size - 1), 0).astype(int)
    # Along the image's axes from its first voxel; the header's own directions and origin come back at the end.
    inverse = sitk.AffineTransform(3)
    inverse.SetMatrix(np.linalg.inv(forward).ravel().tolist())
    inverse.SetCenter(centre.tolist())
    air = float(sitk.GetArrayViewFromImage(volume).min())
    out = []
    for image, interpolator, outside in ((volume, sitk.sitkLinear, air), (labels, sitk.sitkNearestNeighbor, 0.0)):
        plain = sitk.Image(image)
        plain.SetOrigin((0.0, 0.0, 0.0))
        plain.SetDirection(np.eye(3).ravel().tolist())
        plain = sitk.Resample(
            plain,
            (size + before + after).tolist(),
            inverse,
            interpolator,
            (-before * spacing).tolist(),
            plain.GetSpacing(),
            plain.GetDirection(),
            outside,
        )
        origin = image.TransformContinuousIndexToPhysicalPoint((-before).astype(float).tolist())
        plain.SetOrigin(origin)
        plain.SetDirection(image.GetDirection())
        out.append(plain)
    return out[0], out[1]


def _foreground(volume: sitk.Image) -> tuple[slice, slice, slice]:
    # The image must outlive the view of its voxels.
    plain = normalized(volume)
    return foreground_box(sitk.GetArrayViewFromImage(plain))


def _turn(degrees: float) -> Callable[[sitk.Image, sitk.Image, random.Random], Volumes]:
    def turn(volume: sitk.Image, labels: sitk.Image, draw: random.Random) -> Volumes:
        axis = (draw.gauss(0, 1), draw.gauss(0, 1), draw.gauss(0, 1))
        spacing = volume.GetSpacing()
        if max(spacing) > _THICK * min(spacing):
            axis = tuple(float(step == max(spacing)) * draw.choice((-1, 1)) for step in spacing)  # type: ignore[assignment]
        return rotated(volume, labels, degrees, axis)

    return turn


def _stretch(volume: sitk.Image, labels: sitk.Image, draw: random.Random) -> Volumes:
    return scaled(volume, labels, draw.choice((SCALE, 1 / SCALE)))


def _cut(volume: sitk.Image, labels: sitk.Image, draw: random.Random) -> Volumes:
    return halved(volume, labels, upper=draw.random() < 0.5)


VARIANTS: dict[str, Callable[[sitk.Image, sitk.Image, random.Random], Volumes]] = {
    NATURAL: lambda volume, labels, _draw: (volume, labels),
    "rotated": _turn(15.0),
    "half": _cut,
    "scaled": _stretch,
    "mirrored": lambda volume, labels, _draw: mirrored(volume, labels),
    "rotated20": _turn(20.0),
}
