"""What the vision-language model is asked: slice by slice, of the structures that a slice may hold; and what its answers say in between."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..imaging.segmentation import Structure
from ..progress import CancelToken, ProgressCallback, ProgressEvent
from .network import MatchEvidence, Pictures, SlicePair, SliceReader, boxes_of, matched_boxes
from .settings import LocalizerSettings
from .slices import BATCH, MatchedCase, MatchedReference, SlicedProbability

STAGE = "localization"
DEFAULT = LocalizerSettings()
# Sides of boxes, as shares of the image, that a box is compared by.
_SMALLEST = 0.01


@dataclass
class Asked:
    """What was answered of one structure: presence (slice -> probability), box in pixels and ``<Seg>`` state a slice."""

    presence: dict[int, float] = field(default_factory=dict)
    boxes: dict[int, np.ndarray] = field(default_factory=dict)
    queries: dict[int, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True)
class _SliceAnswer:
    """One slice's answer on a structure.

    ``presence`` is a logit, ``box`` and the ``matched`` one (4,) are shares of the image, ``query`` (hidden,) is the ``<Seg>`` state.
    """

    presence: Tensor
    box: Tensor
    matched: Tensor
    query: Tensor

    def on(self, matched: Tensor) -> Tensor:
        """The box (4,) that differs from another slice's matched one as this answer's does from its own."""
        if torch.equal(matched, self.matched):
            return self.box
        own, other = ((sides[2:] - sides[:2]).clamp(min=_SMALLEST) for sides in (self.matched, matched))
        return (self.box - self.matched[:2].repeat(2)) * (other / own).repeat(2) + matched[:2].repeat(2)


def ask(
    vlm: SliceReader,
    slices: MatchedCase,
    reference: MatchedReference,
    heats: Mapping[Structure, SlicedProbability],
    device: torch.device,
    progress: ProgressCallback,
    cancel: CancelToken,
    settings: LocalizerSettings = DEFAULT,
) -> dict[Structure, Asked]:
    """Presence, boxes and states of every structure on all slices that may hold it; nothing after a cancel.

    ``heats`` are the structures' matched probabilities.
    """
    drawn = {structure: reference.areas(structure) >= settings.pixels for structure in heats}
    hot = {structure: heat.peaks >= settings.probability for structure, heat in heats.items()}
    sought = [[structure for structure in heats if drawn[structure][level] or hot[structure][level]] for level in range(len(slices))]
    levels = levels_to_ask(sought, slices.grid.GetSpacing()[2], settings.every_second_mm)
    shown = [_Shown(slices, reference, level, here, heats) for level, here in enumerate(sought)]
    said: dict[int, dict[Structure, _SliceAnswer]] = {}
    try:
        for first in range(0, len(levels), BATCH):
            some = levels[first : first + BATCH]
            if not cancel.cancelled:
                slices.read(reference, some)
            for level in some:
                if cancel.cancelled:
                    return {structure: Asked() for structure in heats}
                said[level] = shown[level].put_to(vlm, device)
                progress(ProgressEvent(STAGE, (level + 1) / len(slices)))
    finally:
        # What a large model keeps of a reference must not reach the next run.
        vlm.forget()
    out = {structure: Asked() for structure in heats}
    size = slices.images.shape[-1]
    for level, here in enumerate(sought):
        if not here:
            continue
        beside = [said[at] for at in ((level,) if level in said else (level - 1, level + 1)) if at in said]
        for structure, matched in zip(here, shown[level].matched, strict=True):
            answers = [near[structure] for near in beside if structure in near]
            present, box, query = (
                torch.stack(parts).mean(0)
                for parts in zip(*((answer.presence, answer.on(matched), answer.query) for answer in answers), strict=True)
            )
            # Geometric mean with the matching's own word, so that either can deny. That counts twice: the language model alone doubted a
            # whole gyrus that matching saw clearly, and with an even vote a vessel that matching had drawn well was lost.
            out[structure].presence[level] = float(np.cbrt(float(present.sigmoid()) * float(heats[structure].peaks[level]) ** 2))
            out[structure].boxes[level] = (box.clamp(0, 1) * size).numpy()
            out[structure].queries[level] = query.numpy()
    return out


def levels_to_ask(sought: Sequence[Sequence[Structure]], apart: float, close: float = DEFAULT.every_second_mm) -> list[int]:
    """The slices to ask about, when each may hold the structures ``sought`` and they lie ``apart`` mm.

    Of slices that lie close every second one, and those with a structure that neither neighbour may hold.
    """
    if apart >= close:
        return [level for level, here in enumerate(sought) if here]
    known = [set(here) if level % 2 == 0 else set() for level, here in enumerate(sought)]
    known.append(set())
    return [level for level, here in enumerate(sought) if here and (level % 2 == 0 or not set(here) <= known[level - 1] | known[level + 1])]


class _Shown:
    """A slice with what matching knows of the structures that it may hold."""

    def __init__(
        self,
        slices: MatchedCase,
        reference: MatchedReference,
        level: int,
        structures: Sequence[Structure],
        heats: Mapping[Structure, SlicedProbability],
    ) -> None:
        self._slices, self._reference, self._level, self._structures, self._heats = slices, reference, level, structures, heats
        self._drawn = self.matched = torch.zeros(0, 4)
        if structures:
            self._drawn = boxes_of(self._region())
            self.matched = matched_boxes(F.avg_pool2d(self._heat()[:, None], 2)[:, 0], self._drawn)

    def _region(self) -> Tensor:
        """The reference's masks (S, H, W)."""
        return torch.from_numpy(np.stack([self._reference.mask(structure, self._level) for structure in self._structures]))

    def _heat(self) -> Tensor:
        """Matched probabilities (S, H, W)."""
        return torch.from_numpy(np.stack([self._heats[structure][self._level] for structure in self._structures])).float()

    def put_to(self, vlm: SliceReader, device: torch.device) -> dict[Structure, _SliceAnswer]:
        """What the model answers."""
        reference, target = (features.take([self._level]).low for features in (self._reference.features, self._slices.features))
        cells = target.shape[-1]
        evidence = MatchEvidence(
            F.adaptive_avg_pool2d(self._region().float(), cells).to(device),
            F.adaptive_avg_pool2d(self._heat(), cells).to(device),
            self._drawn.to(device),
            self.matched.to(device),
        )
        names = tuple(structure.name for structure in self._structures)
        pictures = Pictures(
            self._reference.images,
            self._slices.images,
            self._level,
            lambda number, where: self._reference.mask(self._structures[number], where),
        )
        with torch.inference_mode():
            answer = vlm.read(SlicePair(reference, target, evidence, names, pictures))
        given = (answer.presence.float().cpu(), answer.boxes.float().cpu(), self.matched, answer.queries.float().cpu())
        return {structure: _SliceAnswer(*values) for structure, *values in zip(self._structures, *given, strict=True)}
