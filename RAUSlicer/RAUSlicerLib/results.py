"""What the stages hand to each other and what a run returns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np
import SimpleITK as sitk

from .imaging.checks import distinct_names
from .imaging.segmentation import Segmentation, Structure


@dataclass(frozen=True)
class SoftMask:
    """A structure's probability on a grid, kept only where it is not negligible.

    ``values`` has shape (z, y, x), 0 to 1; its first voxel lies at ``start`` (z, y, x) of ``grid``, an image that is used for its
    geometry alone.
    """

    values: np.ndarray
    start: tuple[int, int, int]
    grid: sitk.Image

    @classmethod
    def empty(cls, grid: sitk.Image) -> SoftMask:
        """Nothing on a grid."""
        return cls(np.zeros((1, 1, 1), np.float32), (0, 0, 0), grid)

    def image(self) -> sitk.Image:
        """The values as a float32 image in their place in the world."""
        image = sitk.GetImageFromArray(self.values.astype(np.float32))
        image.SetSpacing(self.grid.GetSpacing())
        image.SetDirection(self.grid.GetDirection())
        image.SetOrigin(self.grid.TransformIndexToPhysicalPoint([int(i) for i in self.start[::-1]]))
        return image

    def on(self, frame: sitk.Image, *, least: float) -> tuple[np.ndarray, tuple[slice, slice, slice]] | None:
        """Its probabilities on the part (z, y, x) of another grid that it covers; None if it lies outside or nothing exceeds ``least``."""
        if float(self.values.max(initial=0.0)) <= least:
            return None
        # One voxel more around it: interpolation must fall off at its borders and not stop there. Only at the border of the grid, which
        # ends a little before the volume does, it goes on as it is.
        padded = np.pad(self.values, 1)
        edges = np.pad(self.values, 1, mode="edge")
        for axis, (start, extent) in enumerate(zip(self.start, self.grid.GetSize()[::-1], strict=True)):
            last = start + self.values.shape[axis] == extent
            for side, reached in ((0, start == 0), (-1, last)):
                if reached:
                    rim = tuple(side if a == axis else slice(1, -1) for a in range(3))
                    padded[rim] = edges[rim]
        image = SoftMask(padded, (self.start[0] - 1, self.start[1] - 1, self.start[2] - 1), self.grid).image()
        corners = [[(0, n - 1)[(k >> axis) & 1] for axis, n in enumerate(image.GetSize())] for k in range(8)]
        points = np.array([frame.TransformPhysicalPointToContinuousIndex(image.TransformIndexToPhysicalPoint(c)) for c in corners])
        low = np.maximum(np.floor(points.min(0)).astype(int), 0)
        high = np.minimum(np.ceil(points.max(0)).astype(int) + 1, frame.GetSize())
        if (high <= low).any():
            return None
        part = frame[int(low[0]) : int(high[0]), int(low[1]) : int(high[1]), int(low[2]) : int(high[2])]
        values = sitk.GetArrayFromImage(sitk.Resample(image, part, sitk.Transform(), sitk.sitkLinear, 0.0))
        return values, (slice(int(low[2]), int(high[2])), slice(int(low[1]), int(high[1])), slice(int(low[0]), int(high[0])))

    def spread(self, frame: sitk.Image) -> np.ndarray:
        """Its probabilities on the whole of another grid, float16 (z, y, x)."""
        whole = np.zeros(frame.GetSize()[::-1], np.float16)
        found = self.on(frame, least=0.0)
        if found is not None:
            whole[found[1]] = found[0]
        return whole


def weighted(parts: Sequence[tuple[SoftMask, float]], frame: sitk.Image) -> SoftMask:
    """A weighted sum of masks on one grid, kept between 0 and 1; weights may be negative."""
    placed = [(found, weight) for mask, weight in parts if (found := mask.on(frame, least=0.0)) is not None]
    if not placed:
        return SoftMask.empty(frame)
    low = np.min([[side.start for side in where] for (_, where), _ in placed], axis=0)
    high = np.max([[side.stop for side in where] for (_, where), _ in placed], axis=0)
    total = np.zeros(high - low, np.float32)
    for (values, where), weight in placed:
        total[tuple(slice(side.start - first, side.stop - first) for side, first in zip(where, low, strict=True))] += (
            np.float32(weight) * values
        )
    return SoftMask(np.clip(total, 0, 1), (int(low[0]), int(low[1]), int(low[2])), frame)


class Status(StrEnum):
    """What a run says of a structure."""

    FOUND = "found"
    LOW_CONFIDENCE = "low confidence"
    NOT_FOUND = "not found"


@dataclass(frozen=True)
class SlicePrompt:
    """A structure on a slice: ``box`` (left, top, right, bottom) in pixels, ``query`` the language model's ``<Seg>`` state (hidden,)."""

    box: tuple[float, float, float, float]
    query: np.ndarray


@dataclass(frozen=True)
class Localization:
    """Where a structure is believed to be.

    ``presence`` is a probability. ``box_mm`` holds the two opposite corners of an axis-aligned box in patient space (LPS, mm), None where
    the structure is believed absent. ``slice_boxes`` maps a slice of the canonical target frame to (left, top, right, bottom) in pixels.
    ``prior`` is a first guess of its voxels, ``prompts`` are what the localizer tells the propagator of slices of the grid they share.
    """

    structure: Structure
    presence: float
    box_mm: tuple[tuple[float, float, float], tuple[float, float, float]] | None
    slice_boxes: dict[int, tuple[float, float, float, float]] = field(default_factory=dict)
    prior: SoftMask | None = None
    prompts: dict[int, SlicePrompt] = field(default_factory=dict)


@dataclass(frozen=True)
class StructureResult:
    """One structure's outcome. Volumes in mL, ``confidence`` 0 to 1 (expected Dice), ``evidence`` is what it rests on, each 0 to 1."""

    structure: Structure
    status: Status
    confidence: float
    volume_ml: float
    reference_volume_ml: float
    localization: Localization | None = None
    evidence: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Transfer:
    """The result of a run: a segmentation on the target's own grid and what is known of each structure.

    ``timings`` are seconds by stage. ``warnings`` are sentences for the user. ``cancelled`` says that the user stopped the run; what
    was finished is in the segmentation.
    """

    segmentation: Segmentation
    results: tuple[StructureResult, ...]
    timings: dict[str, float]
    warnings: tuple[str, ...] = ()
    cancelled: bool = False
    model: str = ""
    localizer: str = ""

    @property
    def names(self) -> tuple[str, ...]:
        """A name for each result that no other has."""
        return distinct_names(tuple(result.structure for result in self.results))

    @property
    def confidences(self) -> dict[str, float]:
        return {name: result.confidence for name, result in zip(self.names, self.results, strict=True)}

    @property
    def statuses(self) -> dict[str, Status]:
        return {name: result.status for name, result in zip(self.names, self.results, strict=True)}

    @property
    def localizations(self) -> tuple[Localization, ...]:
        return tuple(result.localization for result in self.results if result.localization is not None)
