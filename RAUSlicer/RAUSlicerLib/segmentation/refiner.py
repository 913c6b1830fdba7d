"""Refines carried structures one by one: each is cut out with its surroundings, target beside matched reference, and redrawn."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk
import torch
from scipy import ndimage
from torch import Tensor

from ..imaging.frame import canonical, grid_over, normalized, resample
from ..imaging.names import same_structure
from ..imaging.segmentation import Structure
from ..localization.matching.matcher import NEGLIGIBLE, Match
from ..models.device import autocast
from ..progress import CancelToken
from ..results import SoftMask
from .refiner_network import RefinerNet

Window = tuple[slice, slice, slice]

# Voxels this much smaller than those of the match, but not smaller than the target's own.
FINER = 1.4
# Surroundings: this share of the structure's extent, within limits in voxels.
_AROUND, _LEAST, _MOST = 0.25, 8, 20
# Convolutions see at least so many voxels along each axis.
_SMALLEST = 24


@dataclass(frozen=True)
class Overlay:
    """A target with a matched reference laid over it, on a grid as fine as either deserves.

    ``target`` and ``reference`` (z, y, x) are intensities in 0 to 1; ``attended`` holds the probabilities of each structure of the
    reference and where in the grid they are; ``warped`` is the number of each voxel's structure, counted from 1 in the order of
    ``attended``, 0 for none.
    """

    grid: sitk.Image
    target: np.ndarray
    reference: np.ndarray
    attended: Mapping[Structure, tuple[np.ndarray, Window]]
    warped: np.ndarray

    def crops(self, wanted: Collection[Structure]) -> Iterator[tuple[Structure, Window, np.ndarray]]:
        """The wanted structures' surroundings and what the network sees of them, (5, d, h, w)."""
        first, second, owner = self.rivals()
        windows = ndimage.find_objects(self.warped, max_label=len(self.attended))
        for number, (structure, (values, where)) in enumerate(self.attended.items(), start=1):
            window = surroundings([where, windows[number - 1]], self.warped.shape) if structure in wanted else None
            if window is None:
                continue
            crop = np.zeros((RefinerNet.CHANNELS, *(side.stop - side.start for side in window)), np.float32)
            crop[0], crop[1] = self.target[window], self.reference[window]
            crop[2] = ndimage.uniform_filter((self.warped[window] == number).astype(np.float32), 3)
            crop[3][inner(where, window)] = values
            crop[4] = np.where(owner[window] == number, second[window], first[window])
            yield structure, window, crop

    def rivals(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The largest and second largest probability of each voxel, and the number of the structure that has the largest."""
        shape = self.warped.shape
        first, second = np.zeros(shape, np.float16), np.zeros(shape, np.float16)
        owner = np.zeros(shape, np.uint16)
        for number, (values, where) in enumerate(self.attended.values(), start=1):
            mine = ((values + (self.warped[where] == number)) / 2).astype(np.float16)
            leads = mine > first[where]
            second[where] = np.where(leads, first[where], np.maximum(second[where], mine))
            first[where] = np.where(leads, mine, first[where])
            owner[where] = np.where(leads, number, owner[where])
        return first, second, owner


def surroundings(windows: Sequence[Window | None], shape: tuple[int, ...]) -> Window | None:
    """The box around some boxes with a margin, within a volume; None where there is none of them."""
    given = [window for window in windows if window is not None and all(side.stop > side.start for side in window)]
    if not given:
        return None
    sides = []
    for axis in range(3):
        low, high = min(window[axis].start for window in given), max(window[axis].stop for window in given)
        margin = max(int(np.clip(_AROUND * (high - low), _LEAST, _MOST)), (_SMALLEST - (high - low) + 1) // 2)
        sides.append(slice(max(low - margin, 0), min(high + margin, shape[axis])))
    return sides[0], sides[1], sides[2]


def inner(where: Window, window: Window) -> Window:
    """A box as seen from the corner of another that holds it."""
    z, y, x = (slice(a.start - b.start, a.stop - b.start) for a, b in zip(where, window, strict=True))
    return z, y, x


def overlay(match: Match, target: sitk.Image) -> Overlay:
    """Lay a matched reference over a target with all its structures: what becomes of one must not depend on which others are asked for."""
    frame, other = normalized(canonical(target)), normalized(canonical(match.reference.volume))
    segmentation = match.reference.segmentation
    fine = max(match.reference_view.grid.GetSpacing()[0] / FINER, min(frame.GetSpacing()))
    grid = grid_over(frame, fine, _seen(match.target_view.grid, frame))
    nothing = np.zeros((0, 0, 0), np.float32), (slice(0, 0), slice(0, 0), slice(0, 0))
    attended = {structure: mask.on(grid, least=NEGLIGIBLE) or nothing for structure, mask in match.attend(segmentation.structures).items()}
    warped = np.zeros(grid.GetSize()[::-1], np.uint16)
    for layer, labels in enumerate(segmentation.layers):
        values = sitk.GetArrayFromImage(sitk.Resample(canonical(labels), grid, match.transform, sitk.sitkNearestNeighbor, 0))
        table = np.zeros(int(values.max()) + 1, np.uint16)
        for number, structure in enumerate(attended, start=1):
            if structure.layer == layer and structure.label < len(table):
                table[structure.label] = number
        warped = np.where(table[values] > 0, table[values], warped)
    moved = sitk.GetArrayFromImage(sitk.Resample(other, grid, match.transform, sitk.sitkLinear, 0.0))
    return Overlay(grid, sitk.GetArrayFromImage(resample(frame, grid)), moved, attended, warped)


def _seen(grid: sitk.Image, frame: sitk.Image) -> Window:
    """The voxels (z, y, x) of a frame that a grid with the same axes covers."""
    ends = [grid.TransformIndexToPhysicalPoint(corner) for corner in ((0, 0, 0), [n - 1 for n in grid.GetSize()])]
    low, high = (np.array(frame.TransformPhysicalPointToContinuousIndex(end))[::-1] for end in ends)
    z, y, x = (
        slice(max(int(np.floor(a)), 0), min(int(np.ceil(b)) + 1, n)) for a, b, n in zip(low, high, frame.GetSize()[::-1], strict=True)
    )
    return z, y, x


class Refiner:
    """Runs the refiner's network over every structure of a match."""

    def __init__(self, net: RefinerNet, device: torch.device) -> None:
        self._net: RefinerNet = net.to(device).eval()
        if device.type == "cpu":
            self._net.to(memory_format=torch.channels_last_3d)
        self._device = device

    def refine(self, match: Match, target: sitk.Image, structures: Sequence[Structure], cancel: CancelToken) -> dict[Structure, SoftMask]:
        """Probabilities of the structures on a grid of the target's; those that the reference lacks are left out.

        After a cancel some are still empty.
        """
        over = overlay(match, target)
        asked = {structure: own for structure in structures if (own := same_structure(match.reference.segmentation, structure)) is not None}
        drawn = {own: SoftMask(np.zeros((1, 1, 1), np.float32), (0, 0, 0), over.grid) for own in asked.values()}
        for own, window, crop in over.crops(drawn):
            if cancel.cancelled:
                break
            drawn[own] = _kept(self.redraw(torch.from_numpy(crop)), window, over.grid)
        return {structure: drawn[own] for structure, own in asked.items()}

    def redraw(self, crop: Tensor) -> np.ndarray:
        """Probabilities (d, h, w) of one structure; ``crop`` (5, d, h, w) as for `RefinerNet`."""
        with torch.inference_mode(), autocast(self._device):
            return self._net(crop[None].to(self._device))[0].float().sigmoid().cpu().numpy()


def _kept(values: np.ndarray, window: Window, grid: sitk.Image) -> SoftMask:
    """Probabilities without their negligible rim."""
    inside = values > NEGLIGIBLE
    if not inside.any():
        return SoftMask(np.zeros((1, 1, 1), np.float32), (0, 0, 0), grid)
    box = ndimage.find_objects(inside.astype(np.uint8))[0]
    z, y, x = (side.start + first.start for side, first in zip(box, window, strict=True))
    return SoftMask(np.where(inside, values, 0)[box].astype(np.float32), (z, y, x), grid)
