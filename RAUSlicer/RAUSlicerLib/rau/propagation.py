"""SAM2 with the reference in its memory: each structure is followed both ways from the slice where it is surest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import SimpleITK as sitk
import torch
from torch import Tensor
from torch.nn import functional as F

from ..device import autocast
from ..imaging.segmentation import Structure
from ..progress import CancelToken, ProgressCallback, ProgressEvent
from ..results import Localization, SoftMask, weighted
from .sam2 import MemorySegmenter, SliceFeatures
from .settings import PropagationSettings
from .slices import MatchedCase, MatchedReference, SlicedProbability

STAGE = "segmentation"
_EMPTY = 0.02


@dataclass(frozen=True)
class Frame:
    """A slice of the target whose mask is known, for SAM2's memory.

    ``level`` is its place on the slice grid, maybe between two slices; ``features`` are the vision tower's of it, ``mask`` (S, S) booleans.
    """

    level: float
    features: SliceFeatures
    mask: np.ndarray


@dataclass(frozen=True)
class _Slot:
    """A slice in an object's memory: ``memory`` (C', h, w), its ``pointer`` (C,) where SAM2 has them, and how many slices it is away.

    A reference's slice counts as the one before the target's: a video of both would have it there.
    """

    memory: Tensor
    pointer: Tensor | None
    distance: float = 1.0


def _pointed(slots: Sequence[Sequence[_Slot]]) -> tuple[Tensor | None, Tensor | None]:
    """Pointers (O, M, C) and distances (O, M) of the objects' memories."""
    pointers = [[slot.pointer for slot in mine if slot.pointer is not None] for mine in slots]
    if not pointers[0]:
        return None, None
    return torch.stack([torch.stack(mine) for mine in pointers]), torch.tensor([[slot.distance for slot in mine] for mine in slots])


class Sam2Propagator:
    """Masks from SAM2's memory of matched reference slices, starting at the localizer's prior where it has one.

    With ``use_prior`` and ``use_prompts`` off it is the peer "SAM2 with the reference in its memory and nothing else".
    """

    name = "sam2"

    def __init__(self, segmenter: MemorySegmenter, device: torch.device, *, use_prior: bool = True, use_prompts: bool = True) -> None:
        self.segmenter = segmenter.to(device).eval()
        self.settings = segmenter.config.settings
        self.device = device
        self._use_prior = use_prior
        self._use_prompts = use_prompts

    def segment(
        self,
        slices: MatchedCase,
        localizations: Sequence[Localization],
        progress: ProgressCallback,
        cancel: CancelToken,
        frames: Mapping[Structure, Sequence[Frame]] | None = None,
    ) -> dict[Structure, SoftMask]:
        """Probability of every localized structure; those not finished before a cancel are left out.

        ``frames`` are further slices whose mask is known; they are remembered and not put into the answer.
        """
        out: dict[Structure, SoftMask] = {}
        # A structure is finished before the next group starts, so that a cancel keeps whole structures.
        size = self.settings.batch
        groups = [localizations[n : n + size] for n in range(0, len(localizations), size)]
        for number, group in enumerate(groups):
            tracks = [_Track(slices, one, self.settings, self._use_prior, (frames or {}).get(one.structure, ())) for one in group]
            for step in range(len(slices)):
                for direction in (-1, 1) if step else (1,):
                    self._advance(slices, tracks, step * direction, cancel)
                if cancel.cancelled:
                    return out
                fraction = (number + (step + 1) / len(slices)) / len(groups)
                progress(ProgressEvent(STAGE, fraction))
            for track in tracks:
                out[track.structure] = track.soft_mask()
                progress(ProgressEvent(STAGE, (number + 1) / len(groups), track.structure.name))
        return out

    def _advance(self, slices: MatchedCase, tracks: Sequence[_Track], offset: int, cancel: CancelToken) -> None:
        """One slice further for every track that has not ended on that side; tracks on the same slice form a batch.

        Incomplete after a cancel: with a large model a batch takes as long as a user will wait.
        """
        wanted: dict[int, list[_Track]] = {}
        for track in tracks:
            level = track.start + offset
            if track.goes_on(offset) and 0 <= level < len(slices):
                wanted.setdefault(level, []).append(track)
        for level, here in wanted.items():
            # A batch has one kind of prompt and as much memory an object: what becomes of a structure must not depend on the others.
            batches: dict[tuple[bool, int], list[_Track]] = {}
            for track in here:
                batches.setdefault((track.prompted(level), track.slots(level)), []).append(track)
            for (_, slots), batch in batches.items():
                if cancel.cancelled:
                    return
                unsure = [track for track in batch if slots and not track.sure(level)]
                for track in batch:
                    if track not in unsure:
                        track.leave(level, offset)
                for track, logits in zip(unsure, self._decode(slices, unsure, level) if unsure else (), strict=True):
                    track.keep(level, logits, offset)

    def _decode(self, slices: MatchedCase, tracks: Sequence[_Track], level: int) -> np.ndarray:
        segmenter, device = self.segmenter, self.device
        size = segmenter.config.image_size
        with torch.inference_mode(), autocast(device):
            slots = [self._memory(slices, track, level) for track in tracks]
            memory = torch.stack([torch.stack([slot.memory for slot in mine]) for mine in slots])
            mine = slices.features.take([level] * len(tracks))
            attended = segmenter.attend(mine, memory, *_pointed(slots), farthest=min(len(slices), 16) - 1)
            prior = None
            if self._use_prior:
                full = torch.from_numpy(np.stack([track.prior_logits(level) for track in tracks])).to(device)
                share = F.avg_pool2d(full.sigmoid()[:, None], size // (4 * mine.low.shape[-1]))
                prior = torch.logit(share.clamp(0.02, 0.98))
            boxes, query = self._prompts(tracks, level) if self._use_prompts else (None, None)
            low, score = segmenter.decode(attended, mine, prior, boxes, query, memory)
        if self._use_prior and segmenter.config.residual:
            assert prior is not None
            # The prior is sharper than the decoder's grid: only the decoder's change is upsampled.
            logits = full.float() + segmenter.upsampled((low - prior[:, 0]).clamp(-12, 12))
        else:
            logits = segmenter.upsampled(low)
            logits = torch.where((score > 0)[:, None, None], logits, logits.clamp(max=-4.0))
        return logits.clamp(-15, 15).cpu().numpy()

    def _memory(self, slices: MatchedCase, track: _Track, level: int) -> list[_Slot]:
        """One matched slice a reference, and one more for the nearest frame where there is one."""
        slots = [
            replace(self._conditioning(slices.references[number], track, number, at), distance=1 + abs(at - level))
            for number, at in track.memory_levels(level)
        ]
        nearest = track.nearest_frame(level)
        if nearest is not None:
            if nearest not in track.remembered:
                track.remembered[nearest] = self._memorize(track.frames[nearest].features, track.frames[nearest].mask)
            slots.append(replace(track.remembered[nearest], distance=max(1, abs(track.frames[nearest].level - level))))
        return slots

    def _conditioning(self, reference: MatchedReference, track: _Track, number: int, level: int) -> _Slot:
        key = (number, level)
        if key not in track.cache:
            track.cache[key] = self._memorize(reference.features.take([level]), reference.mask(track.structure, level))
        return track.cache[key]

    def _memorize(self, here: SliceFeatures, mask: np.ndarray) -> _Slot:
        drawn = torch.from_numpy(mask.astype(np.float32))[None, None].to(self.device)
        pointers = self.segmenter.point(here, drawn)
        return _Slot(self.segmenter.memorize(here, drawn)[0], None if pointers is None else pointers[0])

    def _prompts(self, tracks: Sequence[_Track], level: int) -> tuple[Tensor | None, Tensor | None]:
        """Boxes (O, 4) and ``<Seg>`` queries (O, hidden) of tracks that all have them here, or that all have none."""
        if not tracks[0].prompted(level):
            return None, None
        device = self.device
        prompts = [track.localization.prompts[level] for track in tracks]
        boxes = torch.tensor([prompt.box for prompt in prompts], device=device)
        return boxes, torch.from_numpy(np.stack([prompt.query for prompt in prompts])).to(device)


class _Track:
    """One structure on its way through the slices."""

    def __init__(
        self,
        slices: MatchedCase,
        localization: Localization,
        settings: PropagationSettings,
        use_prior: bool,
        frames: Sequence[Frame] = (),
    ) -> None:
        self._settings = settings
        self.structure, self.localization, self.frames = localization.structure, localization, frames
        self._grid = slices.grid
        self._sharp = localization.prior if use_prior else None
        self._prior = SlicedProbability(self._sharp, slices.grid)
        self._doubt = _doubt(self._prior, settings.pixels) if self._sharp is not None else np.full(len(slices), np.inf)
        self._areas = [reference.areas(localization.structure) for reference in slices.references]
        self._drawn = [np.flatnonzero(areas >= settings.pixels) for areas in self._areas]
        self.cache: dict[tuple[int, int], _Slot] = {}
        self.remembered: dict[int, _Slot] = {}
        self._kept: dict[int, np.ndarray] = {}
        self._left: set[int] = set()
        self._silent = {-1: 0, 1: 0}
        self._limits = self._range(len(slices))
        self.start = self._surest()

    def _range(self, count: int) -> tuple[int, int]:
        """Slices that can hold the structure: where it was located, the prior says so, or a reference has it."""
        levels = [*self.localization.prompts, *np.flatnonzero(self._prior.peaks > 0.3).tolist()]
        if not levels:
            levels = [int(level) for drawn in self._drawn for level in drawn]
        return (max(min(levels) - 1, 0), min(max(levels) + 1, count - 1)) if levels else (0, -1)

    def _surest(self) -> int:
        first, last = self._limits
        mass = self._prior.sums
        if mass.max() <= 0:
            mass = np.sum(self._areas, axis=0)
        return first + int(np.argmax(mass[first : last + 1])) if last >= first else 0

    def goes_on(self, offset: int) -> bool:
        first, last = self._limits
        if not first <= self.start + offset <= last:
            return False
        return offset == 0 or self._silent[1 if offset > 0 else -1] < self._settings.patience

    def memory_levels(self, level: int) -> list[tuple[int, int]]:
        """(reference, its slice nearest to this level that shows the structure), for every reference that has one."""
        out = []
        for number, drawn in enumerate(self._drawn):
            if len(drawn):
                nearest = int(drawn[np.argmin(np.abs(drawn - level))])
                if abs(nearest - level) <= self._settings.nearest:
                    out.append((number, nearest))
        return out

    def slots(self, level: int) -> int:
        """How many slices are in its memory here."""
        return len(self.memory_levels(level)) + bool(self.frames)

    def prompted(self, level: int) -> bool:
        return level in self.localization.prompts

    def sure(self, level: int) -> bool:
        """Whether the prior says enough of this slice."""
        return bool(self._doubt[level] < self._settings.doubt)

    def nearest_frame(self, level: int) -> int | None:
        """The number of the frame nearest to a slice."""
        return min(range(len(self.frames)), key=lambda number: abs(self.frames[number].level - level)) if self.frames else None

    def prior_logits(self, level: int) -> np.ndarray:
        share = np.clip(self._prior[level].astype(np.float32), 0.003, 0.997)
        return np.log(share / (1 - share)).astype(np.float32)

    def keep(self, level: int, logits: np.ndarray, offset: int) -> None:
        """What was decoded of a slice."""
        probability = 1 / (1 + np.exp(-logits.astype(np.float32)))
        self._listen(level, offset, bool((probability > 0.5).any()))
        self._kept[level] = probability.astype(np.float16)

    def leave(self, level: int, offset: int) -> None:
        """A slice stays as the prior has it."""
        self._listen(level, offset, False)
        self._left.add(level)

    def _listen(self, level: int, offset: int, found: bool) -> None:
        if offset:
            side = 1 if offset > 0 else -1
            self._silent[side] = 0 if found or self._prior.peaks[level] > 0.5 else self._silent[side] + 1

    def soft_mask(self) -> SoftMask:
        """What was kept, as a change of the prior where there is one: it has the target's full resolution, the slices have less."""
        if self._sharp is None:
            return self._stacked({**{level: self._prior[level] for level in self._left}, **self._kept})
        # Slices that were not reached lose what the prior has there.
        beyond = [level for level in np.flatnonzero(self._prior.peaks > _EMPTY).tolist() if level not in self._left]
        if not beyond and not self._kept:
            return self._sharp
        before = self._stacked({level: self._prior[level] for level in {*beyond, *self._kept}})
        return weighted([(self._sharp, 1.0), (self._stacked(self._kept), 1.0), (before, -1.0)], self._sharp.grid)

    def _stacked(self, planes: Mapping[int, np.ndarray]) -> SoftMask:
        """Some slices as a mask, nothing between them."""
        if not planes:
            return SoftMask.empty(self._grid)
        first, last = min(planes), max(planes)
        empty = np.zeros_like(planes[first])
        return cropped(np.stack([planes.get(level, empty) for level in range(first, last + 1)]), first, self._grid)


def _doubt(prior: SlicedProbability, least: int) -> np.ndarray:
    """The undecided area of every slice (N,), as a share of what is inside, at ``least`` so many pixels: 0 sure, 1 and more anything."""
    share = prior.values.astype(np.float32)
    out = np.zeros(len(prior.peaks))
    out[prior.where[0]] = np.minimum(share, 1 - share).sum((1, 2)) / np.maximum((share > 0.5).sum((1, 2)), least)
    return out


def cropped(stack: np.ndarray, first: int, grid: sitk.Image) -> SoftMask:
    """Probabilities (n, S, S) of slices from ``first`` on, cut down to where they are not negligible."""
    keep = np.argwhere(stack > _EMPTY)
    if len(keep) == 0:
        return SoftMask.empty(grid)
    low, high = keep.min(0), keep.max(0) + 1
    values = stack[low[0] : high[0], low[1] : high[1], low[2] : high[2]].astype(np.float32)
    return SoftMask(values, (first + int(low[0]), int(low[1]), int(low[2])), grid)
