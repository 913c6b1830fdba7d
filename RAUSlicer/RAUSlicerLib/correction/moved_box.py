"""Takes a structure's first guess and prompts along to where the user has moved its box."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import SimpleITK as sitk

from ..rau.propagation import cropped
from ..rau.slices import MatchedCase
from ..results import Localization, SlicePrompt, SoftMask
from .edits import Corner

Box = tuple[Corner, Corner]


def move(localization: Localization, box: Box, slices: MatchedCase, frame: sitk.Image) -> Localization:
    """The localization with its first guess and its prompts where the user has moved the box to.

    Along an axis where both sides went the same way, all goes along. Else a side that went outwards stretches what is there, and one that
    went inwards cuts it off. A structure that was not found takes the reference's shape.
    """
    new = _sorted(box)
    prior, old = localization.prior, localization.box_mm
    if prior is None or old is None or float(prior.values.max(initial=0.0)) <= 0.5:
        drawn = slices.references[0].masks(localization.structure)
        prior = SoftMask(drawn.astype(np.float32), (0, 0, 0), slices.grid)
        way = _way(_box_of(drawn, slices.grid) or new, new, whole=True)
    else:
        way = _way(old, new, whole=False)
    there = sitk.Resample(prior.image(), frame, way.GetInverse(), sitk.sitkLinear, 0.0)
    values = sitk.GetArrayFromImage(there) * _inside(frame, new)
    return replace(
        localization,
        box_mm=new,
        prior=cropped(values, 0, frame),
        prompts=_moved_prompts(localization.prompts, way, slices.grid),
        slice_boxes={},
    )


def cut(mask: SoftMask, box: Box, frame: sitk.Image) -> SoftMask:
    """The mask on the canonical frame, without what lies outside of a box."""
    return cropped(mask.spread(frame) * _inside(frame, _sorted(box)), 0, frame)


def _sorted(box: Box) -> Box:
    low, high = np.min(box, axis=0).tolist(), np.max(box, axis=0).tolist()
    return (low[0], low[1], low[2]), (high[0], high[1], high[2])


def _way(old: Box, new: Box, *, whole: bool) -> sitk.AffineTransform:
    """World points of the old box to those of the new one; not ``whole`` only as far as `move` says."""
    transform = sitk.AffineTransform(3)
    scale, shift = np.ones(3), np.zeros(3)
    for axis in range(3):
        first, last = old[0][axis], max(old[1][axis], old[0][axis] + 1e-3)
        low, high = new[0][axis], new[1][axis]
        if not whole and (low - first) * (high - last) <= 0:
            low, high = min(low, first), max(high, last)
        scale[axis] = (high - low) / (last - first)
        shift[axis] = low - scale[axis] * first
    transform.SetMatrix(np.diag(np.maximum(scale, 1e-3)).ravel().tolist())
    transform.SetTranslation(shift.tolist())
    return transform


def _inside(frame: sitk.Image, box: Box) -> np.ndarray:
    """Which voxels (z, y, x) have their centre in a box of patient space."""
    columns, rows, slices = frame.GetSize()
    turn = np.reshape(frame.GetDirection(), (3, 3)) * np.asarray(frame.GetSpacing())
    x, y = np.arange(columns), np.arange(rows)[:, None]
    out = np.ones((slices, rows, columns), bool)
    for axis in range(3):
        flat = frame.GetOrigin()[axis] + turn[axis, 0] * x + turn[axis, 1] * y
        # Slice by slice: the positions of a whole volume would take more memory than the volume.
        for level in range(slices):
            world = flat + turn[axis, 2] * level
            out[level] &= (world >= box[0][axis]) & (world <= box[1][axis])
    return out


def _box_of(mask: np.ndarray, grid: sitk.Image) -> Box | None:
    hits = np.argwhere(mask)
    if len(hits) == 0:
        return None
    ends = [(hits[:, axis].min() - 0.5, hits[:, axis].max() + 0.5) for axis in (2, 1, 0)]
    corners = [[float(ends[axis][(n >> axis) & 1]) for axis in range(3)] for n in range(8)]
    points = np.array([grid.TransformContinuousIndexToPhysicalPoint(corner) for corner in corners])
    first, last = points.min(0).tolist(), points.max(0).tolist()
    return (first[0], first[1], first[2]), (last[0], last[1], last[2])


def _moved_prompts(prompts: Mapping[int, SlicePrompt], way: sitk.Transform, grid: sitk.Image) -> dict[int, SlicePrompt]:
    """Prompts on the slices that they come to lie on; every slice between takes the nearest one's."""
    placed: dict[float, SlicePrompt] = {}
    for level, prompt in prompts.items():
        corners = []
        for x, y in (prompt.box[:2], prompt.box[2:]):
            point = grid.TransformContinuousIndexToPhysicalPoint((x, y, float(level)))
            corners.append(grid.TransformPhysicalPointToContinuousIndex(way.TransformPoint(point)))
        (left, top, at), (right, bottom, _) = corners
        placed[at] = SlicePrompt((left, top, right, bottom), prompt.query)
    if not placed:
        return {}
    first, last = max(round(min(placed)), 0), min(round(max(placed)), grid.GetSize()[2] - 1)
    return {level: placed[min(placed, key=lambda at: abs(at - level))] for level in range(first, last + 1)}
