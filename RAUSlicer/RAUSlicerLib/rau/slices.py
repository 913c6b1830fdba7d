"""The vision tower that the language model and SAM2 share, run over those slices of a target and its references that are asked for."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property, partial

import numpy as np
import SimpleITK as sitk
import torch

from ..device import autocast
from ..imaging.frame import canonical, normalized
from ..imaging.labelmap import label_counts
from ..imaging.names import same_structure
from ..imaging.segmentation import Structure
from ..imaging.slicing import bring, slice_grid
from ..matching.matcher import Match
from ..results import SoftMask
from ..support.parallel import side_by_side
from .sam2 import MemorySegmenter, SliceFeatures

# Larger batches leave the processor's cache and take longer a slice.
BATCH = 4


class TowerFeatures:
    """What the vision tower says of a stack of slices (N, S, S): each is read when it is first asked for, and kept."""

    def __init__(self, images: np.ndarray, segmenter: MemorySegmenter, device: torch.device) -> None:
        self._images, self._segmenter, self.device = images, segmenter, device
        self._read: dict[int, SliceFeatures] = {}

    def read(self, levels: Sequence[int]) -> None:
        """Read slices that will be asked for: several at once take less time each."""
        missing = sorted(set(levels) - self._read.keys())
        for first in range(0, len(missing), BATCH):
            some = missing[first : first + BATCH]
            batch = torch.from_numpy(self._images[some])[:, None].to(self.device)
            with torch.inference_mode(), autocast(self.device):
                features = self._segmenter.encode(batch)
            for row, level in enumerate(some):
                self._read[level] = features.take(torch.tensor([row], device=self.device))

    def take(self, levels: Sequence[int]) -> SliceFeatures:
        """Features of these slices, one a row; a slice may be named more than once."""
        self.read(levels)
        parts = [self._read[level] for level in levels]
        low, mid, high = (torch.cat([getattr(one, name) for one in parts]) for name in ("low", "mid", "high"))
        return SliceFeatures(low, mid, high, parts[0].position)

    @property
    def nbytes(self) -> int:
        """What is kept, in bytes."""
        return sum(tensor.nbytes for one in self._read.values() for tensor in (one.low, one.mid, one.high))


class MatchedReference:
    """A reference brought to the target's slices: images (N, S, S) and, a layer, labels (N, S, S).

    Structures may come from another reference; they are found here by their names.
    """

    def __init__(self, match: Match, grid: sitk.Image, segmenter: MemorySegmenter, device: torch.device) -> None:
        self.match = match
        segmentation = match.reference.segmentation
        self.images = bring(normalized(canonical(match.reference.volume)), grid, match.affine)
        self.labels = [bring(canonical(layer), grid, match.affine, nearest=True) for layer in segmentation.layers]
        # Once for all structures: a hundred times over, comparing and counting takes seconds.
        self._areas = [_areas(labels) for labels in self.labels]
        self._found: dict[Structure, Structure | None] = {}
        self.features = TowerFeatures(self.images, segmenter, device)

    def _own(self, structure: Structure) -> Structure | None:
        """This reference's structure of that name: asked for on every slice, sought once."""
        if structure not in self._found:
            self._found[structure] = same_structure(self.match.reference.segmentation, structure)
        return self._found[structure]

    def volume(self, structure: Structure) -> float:
        """The structure's annotated volume in mm^3; 0 if this reference lacks it."""
        own = self._own(structure)
        if own is None:
            return 0.0
        return self._counts[own.layer].get(own.label, 0) * float(np.prod(self.match.reference.volume.GetSpacing()))

    @cached_property
    def _counts(self) -> list[dict[int, int]]:
        return [label_counts(layer) for layer in self.match.reference.segmentation.layers]

    def areas(self, structure: Structure) -> np.ndarray:
        """The structure's pixels on every slice (N,); none if this reference lacks it."""
        own = self._own(structure)
        nowhere = np.zeros(len(self.images), int)
        return nowhere if own is None else self._areas[own.layer].get(own.label, nowhere)

    def masks(self, structure: Structure) -> np.ndarray:
        """The structure on every slice, booleans (N, S, S); nowhere if this reference lacks it."""
        own = self._own(structure)
        return np.zeros(self.images.shape, bool) if own is None else self.labels[own.layer] == own.label

    def mask(self, structure: Structure, level: int) -> np.ndarray:
        """The structure on one slice, booleans (S, S)."""
        own = self._own(structure)
        return np.zeros(self.images.shape[1:], bool) if own is None else self.labels[own.layer][level] == own.label


def _areas(labels: np.ndarray) -> dict[int, np.ndarray]:
    """The pixels of each label on every slice, (N,) a label."""
    out: dict[int, np.ndarray] = {}
    for level, plane in enumerate(labels):
        for label, count in zip(*np.unique(plane, return_counts=True), strict=True):
            out.setdefault(int(label), np.zeros(len(labels), int))[level] = count
    return out


class SlicedProbability:
    """A structure's probability on the slices of a grid, kept only where it is: ``peaks`` and ``sums`` (N,) are those of each slice."""

    def __init__(self, mask: SoftMask | None, grid: sitk.Image) -> None:
        size = grid.GetSize()[::-1]
        found = mask.on(grid, least=0.0) if mask is not None else None
        values, where = found if found is not None else (np.zeros((0, 0, 0)), (slice(0, 0), slice(0, 0), slice(0, 0)))
        self.values, self.where = values.astype(np.float16), where
        self._shape = size[1:]
        self.peaks, self.sums = np.zeros(size[0], np.float32), np.zeros(size[0])
        if found is not None:
            self.peaks[self.where[0]] = self.values.max((1, 2))
            self.sums[self.where[0]] = self.values.sum((1, 2), dtype=np.float64)

    def __getitem__(self, level: int) -> np.ndarray:
        """The probabilities on one slice, float16 (S, S)."""
        depth, rows, columns = self.where
        plane = np.zeros(self._shape, np.float16)
        if depth.start <= level < depth.stop:
            plane[rows, columns] = self.values[level - depth.start]
        return plane


class MatchedCase:
    """A target's slices with all references matched to them, which the vision-language model and SAM 2 both read."""

    def __init__(self, target: sitk.Image, matches: Sequence[Match], segmenter: MemorySegmenter, device: torch.device) -> None:
        self.target = target
        frame = normalized(canonical(target))
        self.grid = slice_grid(frame, sitk.GetArrayViewFromImage(frame), segmenter.config.image_size)
        self.images = sitk.GetArrayFromImage(sitk.Resample(frame, self.grid, sitk.Transform(), sitk.sitkLinear, 0.0))
        self.references = [MatchedReference(match, self.grid, segmenter, device) for match in matches]
        self.features = TowerFeatures(self.images, segmenter, device)

    def __len__(self) -> int:
        return int(self.images.shape[0])

    @property
    def matches(self) -> list[Match]:
        """How each reference lies over the target."""
        return [reference.match for reference in self.references]

    def read(self, reference: MatchedReference, levels: Sequence[int]) -> None:
        """Read slices of the target and of a reference that will be asked for; on a processor both at a time."""
        tasks = [partial(features.read, levels) for features in (self.features, reference.features)]
        side_by_side(tasks, when=self.features.device.type == "cpu")
