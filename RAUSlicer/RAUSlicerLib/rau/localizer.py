"""The vision-language localizer: reads matched slices, answers presence and box of every structure, and makes the answers agree in 3D."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import SimpleITK as sitk
import torch

from ..imaging.frame import canonical
from ..imaging.segmentation import Structure
from ..progress import CancelToken, ProgressCallback, part
from ..results import Localization, SlicePrompt, SoftMask
from .assignment import assign
from .network import SliceReader
from .queries import Asked, ask
from .settings import LocalizerSettings
from .slices import MatchedCase, SlicedProbability


class VlmLocalizer:
    """Presence and boxes by the vision-language model, from the evidence of dense matching."""

    name = "vlm"

    def __init__(self, vlm: SliceReader, device: torch.device, settings: LocalizerSettings | None = None) -> None:
        self._vlm = vlm.placed(device)
        self._device = device
        self._settings = settings or LocalizerSettings()

    def locate(
        self,
        case: MatchedCase,
        structures: Sequence[Structure],
        refined: Sequence[Mapping[Structure, SoftMask]],
        priors: Mapping[Structure, SoftMask],
        progress: ProgressCallback,
        cancel: CancelToken,
    ) -> list[Localization]:
        """See ``protocols.Localizer``. Each reference answers for the structures it has; the answers are averaged."""
        asked: dict[Structure, list[Asked]] = {structure: [] for structure in structures}
        for number, (reference, masks) in enumerate(zip(case.references, refined, strict=True)):
            share = part(progress, number / len(refined), (number + 1) / len(refined))
            sliced = {structure: SlicedProbability(mask, case.grid) for structure, mask in masks.items()}
            answered = ask(self._vlm, case, reference, sliced, self._device, share, cancel, self._settings)
            if cancel.cancelled:
                return []
            for structure, answer in answered.items():
                asked[structure].append(answer)
        merged = {structure: _merge(asked[structure]) for structure in structures}
        return _jointly(structures, merged, priors, case.grid, canonical(case.target), self._settings.present)


def _merge(asked: Sequence[Asked]) -> Asked:
    """The mean of several references' answers; a reference that was not asked on a slice says "not there"."""
    if len(asked) == 1:
        return asked[0]
    out = Asked()
    for level in sorted({level for one in asked for level in one.presence}):
        says = [one for one in asked if level in one.presence]
        weight = np.array([one.presence[level] + 1e-3 for one in says], np.float32)
        out.presence[level] = float(sum(one.presence[level] for one in says) / len(asked))
        out.boxes[level] = np.average([one.boxes[level] for one in says], axis=0, weights=weight)
        out.queries[level] = np.average([one.queries[level] for one in says], axis=0, weights=weight)
    return out


def _jointly(
    structures: Sequence[Structure],
    asked: dict[Structure, Asked],
    priors: Mapping[Structure, SoftMask],
    grid: sitk.Image,
    frame: sitk.Image,
    present: float,
) -> list[Localization]:
    """Boxes that agree over the slices of a structure and between structures; slices less likely than ``present`` hold none."""
    heats = {structure: SlicedProbability(prior, grid) for structure, prior in priors.items()}
    ranges = {structure: _contiguous(asked[structure], heats[structure], present) for structure in structures}
    presence = np.array([_present(asked[structure]) for structure in structures])
    holders = [structure for structure in structures if ranges[structure]]
    stacks = np.stack([_stack(asked[structure], ranges[structure], grid.GetSize()[2]) for structure in structures])
    rows = {structure: row for row, structure in enumerate(structures)}
    evidence = np.zeros((len(structures), len(holders)))
    for row, structure in enumerate(structures):
        heat = heats[structure]
        mass = float(heat.sums.sum())
        # A large box holds the small ones inside of it: it is evidence only as far as it is the structure's own.
        own = _overlaps(stacks[row], stacks) if mass > 0 else np.zeros(len(structures))
        for column, holder in enumerate(holders):
            alike = own[rows[holder]]
            if alike > 0:
                evidence[row, column] = alike * _held(heat, asked[holder], ranges[holder]) / mass
    chosen = assign(evidence, presence) if holders else [None] * len(structures)
    out = []
    for structure, box, probability in zip(structures, chosen, presence, strict=True):
        soft = priors[structure]
        if box is None:
            out.append(Localization(structure, min(float(probability), 0.5) if holders else float(probability), None, prior=soft))
            continue
        holder = holders[box]
        levels = ranges[holder]
        # A box taken over from another structure comes without that structure's ``<Seg>`` state.
        prompts = {
            level: SlicePrompt(_box(asked[holder].boxes[level]), asked[structure].queries[level])
            for level in levels
            if level in asked[structure].queries
        }
        boxes = {level: _box(asked[holder].boxes[level]) for level in levels}
        out.append(Localization(structure, float(probability), _box_mm(boxes, grid), _on_frame(boxes, grid, frame), soft, prompts))
    return out


def _box(values: np.ndarray) -> tuple[float, float, float, float]:
    left, top, right, bottom = (float(value) for value in values)
    return left, top, right, bottom


def _on_frame(
    boxes: dict[int, tuple[float, float, float, float]], grid: sitk.Image, frame: sitk.Image
) -> dict[int, tuple[float, float, float, float]]:
    """Boxes of the slice grid as boxes on the canonical frame's own slices, each from the nearest slice of the grid."""
    out = {}
    levels = np.array(sorted(boxes))
    ends = [grid.TransformIndexToPhysicalPoint((0, 0, int(level))) for level in (levels[0], levels[-1])]
    first, last = (frame.TransformPhysicalPointToContinuousIndex(end)[2] for end in ends)
    step = grid.GetSpacing()[2] / frame.GetSpacing()[2]
    for number in range(max(0, round(first - (step - 1) / 2)), min(frame.GetSize()[2] - 1, round(last + (step - 1) / 2)) + 1):
        level = int(levels[np.argmin(np.abs(first + (levels - levels[0]) * step - number))])
        left, top, right, bottom = boxes[level]
        # Edges lie half a pixel before the first pixel's centre and half a pixel behind the last one's.
        corners = ((left - 0.5, top - 0.5, float(level)), (right - 0.5, bottom - 0.5, float(level)))
        low, high = (frame.TransformPhysicalPointToContinuousIndex(grid.TransformContinuousIndexToPhysicalPoint(c)) for c in corners)
        out[number] = (low[0] + 0.5, low[1] + 0.5, high[0] + 0.5, high[1] + 0.5)
    return out


def _present(asked: Asked) -> float:
    """Presence in the volume: the mean of the three surest slices, so that one slice's error doesn't decide."""
    best = sorted(asked.presence.values(), reverse=True)[:3]
    return float(np.mean(best)) if best else 0.0


def _contiguous(asked: Asked, prior: SlicedProbability, present: float) -> list[int]:
    """The run of present slices that holds most of the prior; gaps of one slice are bridged."""
    levels = sorted(level for level, probability in asked.presence.items() if probability >= present)
    runs: list[list[int]] = []
    for level in levels:
        if runs and level - runs[-1][-1] <= 2:
            runs[-1].extend(range(runs[-1][-1] + 1, level + 1))
        else:
            runs.append([level])
    if not runs:
        return []
    best = max(runs, key=lambda run: float(prior.sums[run].sum()) + 1e-3 * len(run))
    return [level for level in best if level in asked.boxes]


def _stack(asked: Asked, levels: Sequence[int], count: int) -> np.ndarray:
    """Boxes of every slice (N, 4), empty where the structure isn't."""
    out = np.zeros((count, 4))
    for level in levels:
        out[level] = asked.boxes[level]
    return out


def _overlaps(one: np.ndarray, stacks: np.ndarray) -> np.ndarray:
    """3D intersection over union of a stack of boxes (N, 4) with others (S, N, 4)."""
    low, high = np.maximum(one[:, :2], stacks[..., :2]), np.minimum(one[:, 2:], stacks[..., 2:])
    shared = np.clip(high - low, 0, None).prod(-1).sum(-1)
    union = _area(one).sum() + _area(stacks).sum(-1) - shared
    return np.where(union > 0, shared / np.maximum(union, 1e-9), 0.0)


def _area(boxes: np.ndarray) -> np.ndarray:
    return np.clip(boxes[..., 2:] - boxes[..., :2], 0, None).prod(-1)


def _held(prior: SlicedProbability, asked: Asked, levels: Sequence[int]) -> float:
    """The prior's mass inside another structure's boxes."""
    depth, rows, columns = prior.where
    total = 0.0
    for level in levels:
        if depth.start <= level < depth.stop:
            sides = np.round(asked.boxes[level]) - np.array([columns.start, rows.start] * 2)
            left, top, right, bottom = sides.clip(0).astype(int)
            total += float(prior.values[level - depth.start, top:bottom, left:right].sum(dtype=np.float64))
    return total


def _box_mm(boxes: dict, grid: sitk.Image) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Axis-aligned box (LPS, mm) around slice boxes given in pixels."""
    levels = sorted(boxes)
    sides = np.array(list(boxes.values()))
    low = (*sides[:, :2].min(0), levels[0])
    high = (*sides[:, 2:].max(0), levels[-1] + 1)
    # Pixel edges lie half a pixel before their centres.
    corners = [[(low, high)[(n >> axis) & 1][axis] - 0.5 for axis in range(3)] for n in range(8)]
    points = np.array([grid.TransformContinuousIndexToPhysicalPoint([float(c) for c in corner]) for corner in corners])
    first, last = points.min(0), points.max(0)
    return (float(first[0]), float(first[1]), float(first[2])), (float(last[0]), float(last[1]), float(last[2]))
