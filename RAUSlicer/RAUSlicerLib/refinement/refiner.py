"""Refines carried structures one by one: each is cut out with its surroundings, target beside matched reference, and redrawn."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch
from scipy import ndimage
from torch import Tensor
from torch.nn import functional as F

from ..device import autocast
from ..imaging.frame import canonical, grid_over, normalized, resample
from ..imaging.names import same_structure
from ..imaging.segmentation import Segmentation, Structure
from ..matching.label_posteriors import UNKNOWN, LabelEvidence
from ..matching.matcher import NEGLIGIBLE, Match, numbered
from ..progress import CancelToken
from ..results import SoftMask, weighted
from ..support.parallel import side_by_side
from .network import RefinerNet, doubled
from .settings import DEFAULT, Margins, RefinementSettings

Window = tuple[slice, slice, slice]
Corner = tuple[int, int, int]

# Convolutions see at least so many voxels along each axis.
_SMALLEST = 24
# To see where a training label lies every second voxel along each axis will do.
_THINNED = 2
# Structures with more voxels in and around them are drawn one after the other: side by side they took 0.8 GB more on an abdomen.
_ALONE = 700_000
# On larger working grids what the networks are given is made one after the other: side by side it took half a gigabyte more on an abdomen.
_SMALL = 2_500_000


@dataclass(frozen=True)
class Cells:
    """Where the voxels of a coarser grid lie on a finer one: at ``first + step * index``, (z, y, x) in voxels of that grid."""

    first: np.ndarray
    step: np.ndarray

    @classmethod
    def over(cls, grid: sitk.Image, cells: sitk.Image) -> Cells:
        """Both grids have the same axes."""
        first = np.array(grid.TransformPhysicalPointToContinuousIndex(cells.GetOrigin()))[::-1]
        return cls(first.astype(np.float32), (np.array(cells.GetSpacing()) / grid.GetSpacing())[::-1].astype(np.float32))

    def at(self, values: Tensor, start: Corner, where: Tensor) -> Tensor:
        """A box of cells (d, h, w), of which the first has the index ``start``, interpolated at voxels (..., 3); zero outside."""
        index = (where - torch.from_numpy(self.first)) / torch.from_numpy(self.step) - torch.tensor(start)
        unit = (2 * index + 1) / torch.tensor(values.shape) - 1
        return F.grid_sample(values[None, None], unit.flip(-1)[None], align_corners=False)[0, 0]

    def covering(self, window: Window, shape: Sequence[int]) -> Window:
        """The box of cells, within so many of them, that determine a window of the finer grid."""
        sides = []
        for side, first, step, count in zip(window, self.first, self.step, shape, strict=True):
            low, high = (math.floor((end - first) / step) for end in (side.start, side.stop - 1))
            sides.append(slice(min(max(low, 0), count - 1), max(min(high + 2, count), 1)))
        return sides[0], sides[1], sides[2]

    def spread(self, values: Tensor, box: Window, window: Window) -> Tensor:
        """Values (d, h, w) of a box of cells, interpolated at the voxels of a window; beyond the box they go on as at its border."""
        # Axis by axis: the grids have the same axes, and a product of matrices reads memory in order.
        for side, cells, first, step in zip(window, box, self.first, self.step, strict=True):
            last = cells.stop - cells.start - 1
            place = ((torch.arange(side.start, side.stop) - float(first)) / float(step) - cells.start).clamp(0, last)
            weight = (1 - (place[:, None] - torch.arange(last + 1)).abs()).clamp(min=0)
            values = torch.tensordot(values, weight, dims=([0], [1]))
        return values


@dataclass(frozen=True)
class ReferenceVote:
    """One of several references' match to a target, and what attention says of each of its structures."""

    match: Match
    attended: Mapping[Structure, SoftMask]

    def own(self, structure: Structure) -> Structure | None:
        """This reference's structure of that name."""
        return same_structure(self.match.reference.segmentation, structure)


@dataclass(frozen=True)
class PlacedPosteriors:
    """What the training labels say of structures by what they are worth in one reference.

    ``places`` are the structures' numbers in ``labels``, whose voxels lie on a finer grid as ``working`` says.
    """

    labels: LabelEvidence
    working: Cells
    places: Mapping[Structure, int]

    def on(self, structures: Sequence[Structure], window: Window) -> np.ndarray:
        """How far they speak for structures taken as one, 0 to 1, in a window of the finer grid."""
        box = self.working.covering(window, self.labels.index.shape[1:])
        return self.working.spread(self.labels.of([self.places[one] for one in structures], box), box, window).numpy()


@dataclass(frozen=True, kw_only=True)
class MatchedPlanes:
    """What the refiner's network sees of a target with a matched reference laid over it; the same in a run and in training.

    ``target`` and ``reference`` (z, y, x) are intensities in 0 to 1. ``attended`` holds the probabilities of each structure of the
    reference and where in the grid they are. ``warped`` is the number of each voxel's structure, counted from 1 in the order of
    ``attended``, 0 for none. ``globally_attended`` holds each structure's probabilities by global attention, on ``cells``, and the first
    cell's index. ``labels`` are the label posteriors, on ``working``, in the order of ``attended`` from 0 on; None where nothing is known.
    ``others`` are those by other references. Bytes count as shares of 255: training keeps them so.
    """

    target: np.ndarray
    reference: np.ndarray
    attended: Mapping[Structure, tuple[np.ndarray, Window]]
    warped: np.ndarray
    globally_attended: Mapping[Structure, tuple[np.ndarray, Corner]]
    cells: Cells
    labels: LabelEvidence | None
    working: Cells
    others: Sequence[PlacedPosteriors] = ()

    def planes(self, structures: Sequence[Structure], window: Window) -> np.ndarray:
        """What the network sees of structures, taken as one, in a window: (6, d, h, w) as in `RefinerNet`."""
        chosen = [self.numbers[structure] for structure in structures]
        first, second, owner = self.rivals
        out = np.zeros((RefinerNet.CHANNELS, *(side.stop - side.start for side in window)), np.float32)
        out[0], out[1] = _shares(self.target[window]), _shares(self.reference[window])
        out[2] = ndimage.uniform_filter(_is_any(self.warped[window], chosen).astype(np.float32), 3)
        for structure in structures:
            values, where = self.attended[structure]
            both = _shared(where, window)
            out[3][inner(both, window)] += _shares(values[inner(both, where)])
        if len(chosen) > 1:
            np.minimum(out[3], 1, out=out[3])
        # Of several taken as one, the second largest may be theirs, too.
        out[4] = np.where(_is_any(owner[window], chosen), _shares(second[window]) * (len(chosen) == 1), _shares(first[window]))
        own = [] if self.labels is None else [PlacedPosteriors(self.labels, self.working, self._places)]
        said = [one.on(structures, window) for one in (*own, *self.others) if all(structure in one.places for structure in structures)]
        out[5] = np.mean(said, axis=0) if said else UNKNOWN
        return out

    def looks(self, structures: Sequence[Structure], where: Tensor) -> Tensor:
        """Probabilities (d, h, w) of structures, taken as one, by looks alone, at voxels (d, h, w, 3)."""
        found = [self.globally_attended[structure] for structure in structures]
        seen = [self.cells.at(torch.from_numpy(_shares(values)), start, where) for values, start in found]
        return seen[0] if len(seen) == 1 else torch.stack(seen).sum(0).clamp(max=1)

    @cached_property
    def numbers(self) -> dict[Structure, int]:
        """The structures' numbers in ``warped``."""
        return {structure: number for number, structure in enumerate(self.attended, start=1)}

    @cached_property
    def _places(self) -> dict[Structure, int]:
        return {structure: number - 1 for structure, number in self.numbers.items()}

    @cached_property
    def rivals(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The largest and second largest probability of each voxel, and the number of the structure that has the largest."""
        shape = self.warped.shape
        # Bytes where probabilities are bytes, which a training keeps hundreds of millions of.
        kind: type[np.generic] = np.uint8 if self.target.dtype == np.uint8 else np.float16
        first, second = np.zeros(shape, kind), np.zeros(shape, kind)
        owner = np.zeros(shape, np.uint16)
        for number, (values, where) in enumerate(self.attended.values(), start=1):
            one = np.float32(255) if values.dtype == np.uint8 else values.dtype.type(1)
            mine = ((values + one * (self.warped[where] == number)) / 2).astype(kind)
            leads = mine > first[where]
            second[where] = np.where(leads, first[where], np.maximum(second[where], mine))
            first[where] = np.where(leads, mine, first[where])
            owner[where] = np.where(leads, number, owner[where])
        return first, second, owner


@dataclass(frozen=True, kw_only=True)
class Overlay(MatchedPlanes):
    """A target with a matched reference laid over it, on a grid as fine as either deserves. ``segmentation`` is the reference's."""

    segmentation: Segmentation
    grid: sitk.Image
    settings: RefinementSettings = DEFAULT

    def box(self, structure: Structure) -> list[Window]:
        """Where the structure was carried to, in one way or the other, and where the training labels see it."""
        number = self.numbers[structure]
        windows = [self.attended[structure][1], self._warped_boxes[number - 1]]
        if self.labels is not None:
            windows += [
                self._label_box(label) for label in (self.labels.ratio[number - 1] > self.settings.telling_worth).nonzero()[:, 0].tolist()
            ]
        return [window for window in windows if window is not None and all(side.stop > side.start for side in window)]

    def extent(self, structure: Structure) -> int:
        """How many voxels lie in and around all of these boxes."""
        boxes = self.box(structure)
        return (
            math.prod(side.stop - side.start for side in surroundings(boxes, self.warped.shape, margins=self.settings.first_margins))
            if boxes
            else 0
        )

    @cached_property
    def _warped_boxes(self) -> list[Window | None]:
        return ndimage.find_objects(self.warped, max_label=len(self.attended))

    def _label_box(self, label: int) -> Window | None:
        """Around the largest island of a label of training; None for background, or where there is nothing of it."""
        if label not in self._label_boxes:
            window = self._label_windows[label - 1] if 0 < label <= len(self._label_windows) else None
            self._label_boxes[label] = None if window is None else self._island(label, window)
        return self._label_boxes[label]

    def _island(self, label: int, window: Window) -> Window:
        islands, count = ndimage.label(self._likeliest[window] == label)
        sizes = np.bincount(islands.ravel(), minlength=count + 1)[1:]
        island = ndimage.find_objects(islands)[int(sizes.argmax())]
        sides = []
        for side, outer, first, step, extent in zip(island, window, self.working.first, self.working.step, self.warped.shape, strict=True):
            low, high = (first + step * _THINNED * (outer.start + end) for end in (side.start, side.stop - 1))
            sides.append(slice(min(max(math.floor(low), 0), extent - 1), max(min(math.ceil(high) + 1, extent), 1)))
        return sides[0], sides[1], sides[2]

    @cached_property
    def _label_boxes(self) -> dict[int, Window | None]:
        return {}

    @cached_property
    def _likeliest(self) -> np.ndarray:
        """The likeliest label of training of every second voxel along each axis, 0 where that is not clear."""
        assert self.labels is not None
        index, share = (values[0, ::_THINNED, ::_THINNED, ::_THINNED].numpy() for values in (self.labels.index, self.labels.share))
        return np.where(share >= self.settings.telling_share, index, 0)

    @cached_property
    def _label_windows(self) -> list[Window | None]:
        return ndimage.find_objects(self._likeliest)


def _is_any(values: np.ndarray, numbers: Sequence[int]) -> np.ndarray:
    return values == numbers[0] if len(numbers) == 1 else np.isin(values, numbers)


def _shares(values: np.ndarray) -> np.ndarray:
    """Values in 0 to 1."""
    return values.astype(np.float32) / 255 if values.dtype == np.uint8 else values


def surroundings(windows: Sequence[Window], shape: tuple[int, ...], *, step: int = 1, margins: Margins = DEFAULT.first_margins) -> Window:
    """The box around some boxes with a margin, within a volume, to be seen at every ``step``-th voxel."""
    around, least, most = margins
    sides = []
    for axis in range(3):
        low, high = min(window[axis].start for window in windows), max(window[axis].stop for window in windows)
        extent = -(-(high - low) // step)
        margin = step * max(int(np.clip(around * extent, least, most)), (_SMALLEST - extent + 1) // 2)
        sides.append(slice(max(low - margin, 0), min(high + margin, shape[axis])))
    return sides[0], sides[1], sides[2]


def _shared(one: Window, other: Window) -> Window:
    """What two boxes have in common; empty where they are apart."""
    starts, stops = zip(*((max(a.start, b.start), min(a.stop, b.stop)) for a, b in zip(one, other, strict=True)), strict=True)
    z, y, x = (slice(low, max(low, high)) for low, high in zip(starts, stops, strict=True))
    return z, y, x


def halved(window: Window) -> Tensor:
    """The voxels (d, h, w, 3) of a window at half of its resolution."""
    axes = [torch.arange(side.start + 0.5, side.stop, 2) for side in window]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)


def inner(where: Window, window: Window) -> Window:
    """A box as seen from the corner of another that holds it."""
    z, y, x = (slice(a.start - b.start, a.stop - b.start) for a, b in zip(where, window, strict=True))
    return z, y, x


def reference_votes(matches: Sequence[Match], cancel: CancelToken) -> list[ReferenceVote]:
    """What attention says by each of several references; nothing of a single one, and nothing after a cancel.

    What several references say together is more often right than what any of them does, and better heard before a structure is drawn than
    after: on training targets three references brought .003 more Dice on abdomens, .005 on hearts.
    """
    several = matches if len(matches) > 1 else ()
    return [ReferenceVote(match, match.attend(match.reference.segmentation.structures)) for match in several if not cancel.cancelled]


def overlay(match: Match, target: sitk.Image, votes: Sequence[ReferenceVote] = (), settings: RefinementSettings = DEFAULT) -> Overlay:
    """Lay a matched reference over a target with all its structures: what becomes of one must not depend on which others are asked for.

    With several references ``votes`` are all of them, this one too: attention and the training labels are heard of each.
    """
    frame, other = normalized(canonical(target)), normalized(canonical(match.reference.volume))
    segmentation = match.reference.segmentation
    fine = max(match.reference_view.grid.GetSpacing()[0] / settings.finer, min(frame.GetSpacing()))
    grid = grid_over(frame, fine, _seen(match.target_view.grid, frame))
    nothing = np.zeros((0, 0, 0), np.float32), (slice(0, 0), slice(0, 0), slice(0, 0))
    structures = segmentation.structures

    def attend() -> dict[Structure, tuple[np.ndarray, Window]]:
        if votes:
            return {structure: _mean(votes, structure, grid) or nothing for structure in structures}
        return {structure: mask.on(grid, least=NEGLIGIBLE) or nothing for structure, mask in match.attend(structures).items()}

    def warp() -> tuple[np.ndarray, np.ndarray]:
        moved = sitk.Resample(other, grid, match.transform, sitk.sitkLinear, 0.0)
        layers = [sitk.Resample(canonical(labels), grid, match.transform, sitk.sitkNearestNeighbor, 0) for labels in segmentation.layers]
        return sitk.GetArrayFromImage(moved), _numbered(layers, structures)

    # The longest first; the last one is the shortest.
    tasks: list[Callable[[], Any]] = [attend, lambda: match.labels, lambda: match.attend_globally(structures), warp]
    attended, labels, looks, (moved, warped) = side_by_side(tasks, when=math.prod(match.target_view.grid.GetSize()) <= _SMALL)
    globally_attended = {structure: (mask.values, mask.start) for structure, mask in looks.items()}
    cells, working = Cells.over(grid, next(iter(looks.values())).grid), Cells.over(grid, match.target_view.grid)
    others = _others(votes, match, structures, grid)
    return Overlay(
        segmentation=segmentation,
        grid=grid,
        target=sitk.GetArrayFromImage(resample(frame, grid)),
        reference=moved,
        attended=attended,
        warped=warped,
        globally_attended=globally_attended,
        cells=cells,
        labels=labels,
        working=working,
        others=others,
        settings=settings,
    )


def _mean(votes: Sequence[ReferenceVote], structure: Structure, grid: sitk.Image) -> tuple[np.ndarray, Window] | None:
    """A structure's mean probability by the attention of all references that have it, and where it is; None if it is negligible."""
    masks = [vote.attended[own] for vote in votes if (own := vote.own(structure)) is not None]
    mean = weighted([(mask, 1 / len(masks)) for mask in masks], grid)
    if float(mean.values.max(initial=0.0)) <= NEGLIGIBLE:
        return None
    z, y, x = (slice(first, first + extent) for first, extent in zip(mean.start, mean.values.shape, strict=True))
    return mean.values, (z, y, x)


def _others(votes: Sequence[ReferenceVote], match: Match, structures: Sequence[Structure], grid: sitk.Image) -> list[PlacedPosteriors]:
    """What the training labels say of structures by other references than that of a match."""
    said = []
    for vote in votes:
        labels = None if vote.match is match else vote.match.labels
        if labels is not None:
            order = {own: place for place, own in enumerate(vote.match.reference.segmentation.structures)}
            places = {structure: order[own] for structure in structures if (own := vote.own(structure)) is not None}
            said.append(PlacedPosteriors(labels, Cells.over(grid, vote.match.target_view.grid), places))
    return said


def _numbered(layers: Sequence[sitk.Image], structures: Sequence[Structure]) -> np.ndarray:
    """The number of each voxel's structure (z, y, x), counted from 1, 0 for none; of several layers the last one's."""
    out = np.zeros(layers[0].GetSize()[::-1], np.uint16)
    for layer, labels in enumerate(layers):
        own = {number: structure.label for number, structure in enumerate(structures, start=1) if structure.layer == layer}
        if own:
            numbers = np.array([0, *own], np.uint16)[numbered(sitk.GetArrayViewFromImage(labels), list(own.values()))]
            out = np.where(numbers > 0, numbers, out)
    return out


def _seen(grid: sitk.Image, frame: sitk.Image) -> Window:
    """The voxels (z, y, x) of a frame that a grid with the same axes covers."""
    ends = [grid.TransformIndexToPhysicalPoint(corner) for corner in ((0, 0, 0), [n - 1 for n in grid.GetSize()])]
    low, high = (np.array(frame.TransformPhysicalPointToContinuousIndex(end))[::-1] for end in ends)
    z, y, x = (
        slice(max(int(np.floor(a)), 0), min(int(np.ceil(b)) + 1, n)) for a, b, n in zip(low, high, frame.GetSize()[::-1], strict=True)
    )
    return z, y, x


class Refiner:
    """Runs the refiner's network over every structure of every reference."""

    def __init__(self, net: RefinerNet, device: torch.device) -> None:
        self._net: RefinerNet = net.to(device).eval()
        if device.type == "cpu":
            self._net.to(memory_format=torch.channels_last_3d)
        self._device = device

    def refine(self, over: Overlay, structures: Sequence[Structure], cancel: CancelToken) -> dict[Structure, SoftMask]:
        """The structures' probabilities on a grid of the target's; those that the reference lacks are left out.

        After a cancel some are still empty.
        """
        own = {structure: same_structure(over.segmentation, structure) for structure in structures}
        asked = {structure: mine for structure, mine in own.items() if mine is not None}
        nothing = SoftMask.empty(over.grid)

        def redrawn(own: Structure) -> SoftMask:
            return nothing if cancel.cancelled else self.redraw(over, own) or nothing

        extents = {own: over.extent(own) for own in asked.values()}
        _ = over.rivals  # Made once, before two threads ask for it.
        # The largest first: begun last, one of them would keep everybody waiting.
        every = sorted(extents, key=extents.__getitem__, reverse=True)
        tasks = [partial(redrawn, own) for own in every]
        alone = sum(extent > _ALONE for extent in extents.values())
        # A GPU has one queue, whoever fills it.
        masks = [*side_by_side(tasks[:alone], when=False), *side_by_side(tasks[alone:], when=self._device.type == "cpu")]
        drawn = dict(zip(every, masks, strict=True))
        return {structure: drawn[own] for structure, own in asked.items()}

    def redraw(self, over: Overlay, structure: Structure) -> SoftMask | None:
        """Both passes over one structure; None where there is nothing of it."""
        boxes = over.box(structure)
        if not boxes:
            return None
        shape = over.warped.shape
        for _ in range(over.settings.first_passes):
            far = surroundings(boxes, shape, step=2, margins=over.settings.first_margins)
            planes = torch.from_numpy(over.planes([structure], far))[None].to(self._device)
            looks = over.looks([structure], halved(far))[None].to(self._device)
            with torch.inference_mode(), autocast(self._device):
                located = doubled(self._net.locate(planes, looks).float().sigmoid(), planes.shape[2:])
            found = [_outer(box, far) for box in _boxed(located[0].cpu().numpy() > over.settings.located)]
            boxes += found
            # Where it goes on beyond the rim, the reference's own is far smaller.
            if not any(_reaches(box, far, shape) for box in found):
                break
        near = _shared(surroundings(boxes, shape, margins=over.settings.second_margins), far)
        z, y, x = inner(near, far)
        with torch.inference_mode(), autocast(self._device):
            drawn = self._net.draw(planes[:, :, z, y, x], located[:, z, y, x])[0].float().sigmoid().cpu().numpy()
        return _kept(drawn, near, over.grid)


def _boxed(inside: np.ndarray) -> list[Window]:
    return ndimage.find_objects(inside.astype(np.uint8))


def _outer(box: Window, window: Window) -> Window:
    """A box given from the corner of a window, as seen from where the window is."""
    z, y, x = (slice(a.start + b.start, a.stop + b.start) for a, b in zip(box, window, strict=True))
    return z, y, x


def _reaches(box: Window, window: Window, shape: Sequence[int]) -> bool:
    """Whether a box ends where a window cuts the volume."""
    return any(
        (side.start <= seen.start and seen.start > 0) or (side.stop >= seen.stop and seen.stop < count)
        for side, seen, count in zip(box, window, shape, strict=True)
    )


def _kept(values: np.ndarray, window: Window, grid: sitk.Image) -> SoftMask | None:
    """Probabilities without their negligible rim; None if they are nothing else."""
    inside = values > NEGLIGIBLE
    if not inside.any():
        return None
    (box,) = _boxed(inside)
    z, y, x = (side.start + first.start for side, first in zip(box, window, strict=True))
    return SoftMask(np.where(inside, values, 0)[box].astype(np.float32), (z, y, x), grid)
