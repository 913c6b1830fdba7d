"""Carries what a user has painted on planes of a structure on to the rest of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from ..results import SoftMask
from .edits import Painted

# Voxels of the grid on which a change is carried on; more bring nothing, since the change is smooth.
_MOST_VOXELS = 1_000_000
_NEGLIGIBLE = 0.02
_SWEEPS = 3
# Outlines that were moved by less than this on average say nothing of other planes: nobody paints more exactly, and neighbours differ as
# much. For every mm beyond, a change reaches so much further, between the least and the most. All chosen on pairs of training cases: with
# the reach taken from the structure's size instead, updates of brains, whose outlines were wrong by 1 to 2 mm, were worse than painting.
_NOISE_MM = 2.0
_PER_MM = 4.0
_DECAYS_MM = (1.0, 12.0)
# Beyond this it makes no difference how far an outline was moved.
_FARTHEST_MM = 20.0


@dataclass(frozen=True)
class EditExtent:
    """How far a change on a painted plane is carried.

    ``decay`` in mm is the standard deviation across the plane, ``clip`` in mm the largest distance from an outline that counts.
    """

    decay: float
    clip: float


def edit_extent(mask: SoftMask, edits: Painted, frame: sitk.Image) -> EditExtent:
    """How far this structure's changes go: as far as the user had to move its outlines.

    Where the outlines of ``mask`` lay almost right on the painted planes, what was wrong there is a matter of that plane; where they lay
    far off, the whole region is wrong in the same way. Measured as the mean distance in mm over both outlines of all painted planes.
    """
    whole, spacing = mask.spread(frame), np.array(frame.GetSpacing()[::-1])
    moves = [np.zeros(0, np.float32)]
    for axis, index in edits.planes:
        now, then = np.take(whole, index, axis) > 0.5, np.take(edits.truth, index, axis)
        flat = [other for other in range(3) if other != axis]
        before, after = (signed_distance(drawn, spacing[flat], _FARTHEST_MM) for drawn in (now, then))
        moves.append(np.abs(after - before)[_outline(now) | _outline(then)])
    moved = np.concatenate(moves)
    beyond = float(moved.mean()) - _NOISE_MM if moved.size else 0.0
    least, most = _DECAYS_MM
    return EditExtent(min(least + _PER_MM * max(beyond, 0.0), most), 6.0)


def propagate_edits(mask: SoftMask, edits: Painted, frame: sitk.Image, reach: EditExtent) -> SoftMask:
    """A structure's probabilities on the canonical frame, changed near the painted planes as the user has changed them there.

    The change is the difference of the two outlines' signed distances in the plane. It fades across planes as a Gaussian; where several
    planes were painted, each adds what the others leave open (Gauss-Seidel on the equations of kriging), so that all are met.
    """
    whole = mask.spread(frame)
    spacing = np.array(frame.GetSpacing()[::-1])
    box = _box_around(whole, edits, margin=np.ceil(reach.clip / spacing).astype(int) + 1)
    part, truth = whole[box].astype(np.float32), edits.truth[box]
    step = _steps(part.shape, spacing)
    coarse = part[:: step[0], :: step[1], :: step[2]]
    change = np.zeros(coarse.shape, np.float32)
    wanted = [_plane_change(part, truth, (axis, index - box[axis].start), spacing, step, reach.clip) for axis, index in edits.planes]
    for sweep in range(_SWEEPS if len(wanted) > 1 else 1):
        for (axis, index), goal in zip(edits.planes, wanted, strict=True):
            at = (index - box[axis].start) / step[axis]
            rest = goal - _sampled(change, axis, at) if sweep or len(wanted) > 1 else goal
            distance = (np.arange(coarse.shape[axis]) - at) * step[axis] * spacing[axis]
            weight = np.exp(-0.5 * (distance / reach.decay) ** 2).astype(np.float32)
            shape = [1, 1, 1]
            shape[axis] = -1
            change += weight.reshape(shape) * np.expand_dims(rest, axis)
    distance = signed_distance(coarse > 0.5, spacing * step, reach.clip)
    soft = float(np.mean(spacing)) / 2
    # Distances are smooth, so they may be interpolated; probabilities are not.
    distance, change = _refined(distance, part.shape, step), _refined(change, part.shape, step)
    values = np.clip(part + _sigmoid((distance + change) / soft) - _sigmoid(distance / soft), 0, 1)
    return SoftMask(values, (box[0].start, box[1].start, box[2].start), frame)


def signed_distance(inside: np.ndarray, spacing: Sequence[float] | np.ndarray, clip: float) -> np.ndarray:
    """Distance to the outline in mm, positive inside, at most ``clip`` both ways; float32."""
    if not inside.any():
        return np.full(inside.shape, -clip, np.float32)
    if inside.all():
        return np.full(inside.shape, clip, np.float32)
    # Voxel centres lie half a voxel from the outline between them; the two transforms' difference puts it there.
    into, out = ndimage.distance_transform_edt(inside, spacing), ndimage.distance_transform_edt(~inside, spacing)
    half = float(np.min(spacing)) / 2
    return np.clip(np.where(inside, into - half, half - out), -clip, clip).astype(np.float32)


def _outline(inside: np.ndarray) -> np.ndarray:
    """Pixels that have a pixel of the other kind beside them."""
    out = np.zeros_like(inside)
    for axis in range(inside.ndim):
        step = np.diff(inside, axis=axis)
        ends = [(0, 0)] * inside.ndim
        for side in ((1, 0), (0, 1)):
            ends[axis] = side
            out |= np.pad(step, ends)
    return out


def _plane_change(
    part: np.ndarray, truth: np.ndarray, plane: tuple[int, int], spacing: np.ndarray, step: tuple[int, int, int], clip: float
) -> np.ndarray:
    axis, index = plane
    flat = [other for other in range(3) if other != axis]
    now, then = np.take(part, index, axis) > 0.5, np.take(truth, index, axis)
    change = signed_distance(then, spacing[flat], clip) - signed_distance(now, spacing[flat], clip)
    return change[:: step[flat[0]], :: step[flat[1]]]


def _sampled(volume: np.ndarray, axis: int, at: float) -> np.ndarray:
    low = min(int(at), volume.shape[axis] - 1)
    high = min(low + 1, volume.shape[axis] - 1)
    share = at - low
    return (1 - share) * np.take(volume, low, axis) + share * np.take(volume, high, axis)


def _refined(values: np.ndarray, shape: tuple[int, ...], step: tuple[int, int, int]) -> np.ndarray:
    """A strided array at its full shape again, linear between."""
    for axis, (size, stride) in enumerate(zip(shape, step, strict=True)):
        if stride > 1:
            at = np.minimum(np.arange(size) / stride, values.shape[axis] - 1)
            low = at.astype(int)
            high = np.minimum(low + 1, values.shape[axis] - 1)
            flat = [1, 1, 1]
            flat[axis] = -1
            share = (at - low).astype(np.float32).reshape(flat)
            values = np.take(values, low, axis) * (1 - share) + np.take(values, high, axis) * share
    return values


def _steps(shape: tuple[int, ...], spacing: np.ndarray) -> tuple[int, int, int]:
    """Strides that leave few enough voxels, the finest axes first."""
    step = [1, 1, 1]
    while np.prod([-(-n // s) for n, s in zip(shape, step, strict=True)]) > _MOST_VOXELS:
        axis = int(np.argmin(spacing * step))
        step[axis] += 1
    return step[0], step[1], step[2]


def _box_around(whole: np.ndarray, edits: Painted, margin: np.ndarray) -> tuple[slice, slice, slice]:
    """Slices (z, y, x) around what the mask or a painted plane has, and ``margin`` voxels beyond; the planes themselves are inside."""
    sides = []
    marked = whole > _NEGLIGIBLE
    spans = [np.flatnonzero(marked.any(axis=tuple(o for o in range(3) if o != axis))) for axis in range(3)]
    low = [int(span[0]) if len(span) else whole.shape[axis] for axis, span in enumerate(spans)]
    high = [int(span[-1]) if len(span) else -1 for span in spans]
    for axis, index in edits.planes:
        drawn = np.argwhere(np.take(edits.truth, index, axis))
        low[axis], high[axis] = min(low[axis], index), max(high[axis], index)
        for column, other in enumerate(o for o in range(3) if o != axis):
            if len(drawn):
                low[other] = min(low[other], int(drawn[:, column].min()))
                high[other] = max(high[other], int(drawn[:, column].max()))
    for axis in range(3):
        if high[axis] < low[axis]:
            low[axis], high[axis] = 0, 0
        sides.append(slice(max(low[axis] - int(margin[axis]), 0), min(high[axis] + int(margin[axis]) + 1, whole.shape[axis])))
    return sides[0], sides[1], sides[2]


def _sigmoid(values: np.ndarray) -> np.ndarray:
    return (1 / (1 + np.exp(-np.clip(values, -30, 30)))).astype(np.float32)
