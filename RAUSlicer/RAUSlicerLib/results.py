"""What the stages hand to each other and what a run returns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np
import SimpleITK as sitk

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

    def image(self) -> sitk.Image:
        """The values as a float32 image in their place in the world."""
        image = sitk.GetImageFromArray(self.values.astype(np.float32))
        image.SetSpacing(self.grid.GetSpacing())
        image.SetDirection(self.grid.GetDirection())
        image.SetOrigin(self.grid.TransformIndexToPhysicalPoint([int(i) for i in self.start[::-1]]))
        return image

    def on(self, frame: sitk.Image, *, least: float) -> tuple[np.ndarray, tuple[slice, slice, slice]] | None:
        """Its probabilities on the part (z, y, x) of another grid that it covers; None where it lies outside or nothing exceeds ``least``."""
        if float(self.values.max(initial=0.0)) <= least:
            return None
        # One voxel of zeros around it: interpolation must fall off at its borders and not stop there.
        image = SoftMask(np.pad(self.values, 1), (self.start[0] - 1, self.start[1] - 1, self.start[2] - 1), self.grid).image()
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


class Status(StrEnum):
    """What a run says of a structure."""

    FOUND = "found"
    LOW_CONFIDENCE = "low confidence"
    NOT_FOUND = "not found"


@dataclass(frozen=True)
class SlicePrompt:
    """A structure on one slice: ``box`` (left, top, right, bottom) in pixels, ``query`` the language model's ``<Seg>`` state (hidden,)."""

    box: tuple[float, float, float, float]
    query: np.ndarray


@dataclass(frozen=True)
class Localization:
    """Where a structure is believed to be.

    ``presence`` is a probability. ``box_mm`` holds the two opposite corners of an axis-aligned box in patient space (LPS, mm), None where
    the structure is believed absent. ``slice_boxes`` maps a slice of the canonical target frame to (left, top, right, bottom) in its pixels.
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
    def confidences(self) -> dict[str, float]:
        return {result.structure.name: result.confidence for result in self.results}

    @property
    def statuses(self) -> dict[str, Status]:
        return {result.structure.name: result.status for result in self.results}

    @property
    def localizations(self) -> tuple[Localization, ...]:
        return tuple(result.localization for result in self.results if result.localization is not None)
