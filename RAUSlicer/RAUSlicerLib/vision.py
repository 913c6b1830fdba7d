"""The vision tower that the language model and SAM2 share, run once over a target's slices and the reference's slices that match them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import SimpleITK as sitk
import torch

from .imaging.frame import canonical, normalized
from .imaging.names import same_structure
from .imaging.segmentation import Reference, Structure
from .imaging.slicing import bring, slice_grid
from .localization.matching.matcher import Match, Matcher
from .models.device import autocast, keep_memory, release_memory
from .progress import CancelToken, ProgressCallback, ProgressEvent, part
from .results import SoftMask
from .segmentation.refiner import Refiner
from .segmentation.sam2 import MemorySegmenter, SliceFeatures

STAGE = "reading slices"
BATCH = 8


class MatchedReference:
    """A reference brought to the target's slices: images (N, S, S) and, a layer, labels (N, S, S).

    Structures may come from another reference; they are found here by their names.
    """

    def __init__(self, match: Match, grid: sitk.Image) -> None:
        self.match = match
        segmentation = match.reference.segmentation
        self.images = bring(normalized(canonical(match.reference.volume)), grid, match.affine)
        self.labels = [bring(canonical(layer), grid, match.affine, nearest=True) for layer in segmentation.layers]
        self.features: SliceFeatures | None = None

    def masks(self, structure: Structure) -> np.ndarray:
        """The structure on every slice, booleans (N, S, S); nowhere if this reference lacks it."""
        own = same_structure(self.match.reference.segmentation, structure)
        return np.zeros(self.images.shape, bool) if own is None else self.labels[own.layer] == own.label

    def mask(self, structure: Structure, level: int) -> np.ndarray:
        """The structure on one slice, booleans (S, S)."""
        own = same_structure(self.match.reference.segmentation, structure)
        return np.zeros(self.images.shape[1:], bool) if own is None else self.labels[own.layer][level] == own.label


class MatchedSlices:
    """A target's slices with all references matched to them; made once a run and shared by the localizer and the propagator."""

    def __init__(self, target: sitk.Image, matches: Sequence[Match], size: int) -> None:
        frame = normalized(canonical(target))
        self.grid = slice_grid(frame, sitk.GetArrayViewFromImage(frame), size)
        self.images = sitk.GetArrayFromImage(sitk.Resample(frame, self.grid, sitk.Transform(), sitk.sitkLinear, 0.0))
        self.references = [MatchedReference(match, self.grid) for match in matches]
        self.features: SliceFeatures | None = None

    def __len__(self) -> int:
        return int(self.images.shape[0])

    def encode(self, segmenter: MemorySegmenter, device: torch.device, progress: ProgressCallback, cancel: CancelToken) -> bool:
        """Run the vision tower over all slices; False after a cancel."""
        stacks = [self.images, *(reference.images for reference in self.references)]
        done: list[SliceFeatures] = []
        total = len(self) * len(stacks)
        for number, stack in enumerate(stacks):
            parts: list[SliceFeatures] = []
            for first in range(0, len(self), BATCH):
                if cancel.cancelled:
                    return False
                batch = torch.from_numpy(stack[first : first + BATCH])[:, None].to(device)
                with torch.inference_mode(), autocast(device):
                    parts.append(segmenter.encode(batch))
                progress(ProgressEvent(STAGE, (number * len(self) + first + len(batch)) / total))
            done.append(
                SliceFeatures(
                    torch.cat([p.low for p in parts]),
                    torch.cat([p.mid for p in parts]),
                    torch.cat([p.high for p in parts]),
                    parts[0].position,
                )
            )
        self.features = done[0]
        for reference, features in zip(self.references, done[1:], strict=True):
            reference.features = features
        return True


class Vision:
    """Matches and encodes once a run, for whoever asks first; localizer and propagator hold the same one.

    With a ``refiner`` carried structures are redrawn; without, they stay as matched.
    """

    def __init__(self, matcher: Matcher, segmenter: MemorySegmenter, device: torch.device, refiner: Refiner | None = None) -> None:
        keep_memory()
        self._matcher = matcher
        self._refiner = refiner
        self.segmenter = segmenter.to(device).eval()
        self.device = device
        self._for: tuple[Sequence[Reference], sitk.Image] | None = None
        self._slices: MatchedSlices | None = None

    def look(
        self, references: Sequence[Reference], target: sitk.Image, progress: ProgressCallback, cancel: CancelToken
    ) -> MatchedSlices | None:
        """The target's slices with every reference matched to them; None after a cancel."""
        if self._slices is not None and self._for is not None and self._for[0] is references and self._for[1] is target:
            progress(ProgressEvent(STAGE, 1.0))
            return self._slices
        self.forget()
        if cancel.cancelled:
            return None
        matches = []
        for number, reference in enumerate(references):
            share = (0.7 * number / len(references), 0.7 * (number + 1) / len(references))
            match = self._matcher.match(reference, target, part(progress, *share), cancel)
            if match is None:
                return None
            matches.append(match)
        slices = MatchedSlices(target, matches, self.segmenter.config.image_size)
        if not slices.encode(self.segmenter, self.device, part(progress, 0.7, 1.0), cancel):
            return None
        self._for, self._slices = (references, target), slices
        return slices

    def carry(self, match: Match, target: sitk.Image, structures: Sequence[Structure], cancel: CancelToken) -> dict[Structure, SoftMask]:
        """The structures' probabilities in the target; those that the reference lacks are left out. Partly empty after a cancel."""
        if self._refiner is None:
            return match.carry(structures, canonical(target))
        return self._refiner.refine(match, target, structures, cancel)

    @property
    def matches(self) -> list[Match]:
        """The matches of the run in progress; none before it has come that far."""
        return [reference.match for reference in self._slices.references] if self._slices is not None else []

    def forget(self) -> None:
        """Let go of the last run's volumes and features."""
        self._for, self._slices = None, None
        release_memory()
