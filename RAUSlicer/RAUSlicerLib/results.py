"""What the stages hand to each other and what a run returns."""

from __future__ import annotations

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


class Status(StrEnum):
    """What a run says of a structure."""

    FOUND = "found"
    LOW_CONFIDENCE = "low confidence"
    NOT_FOUND = "not found"


@dataclass(frozen=True)
class Localization:
    """Where a structure is believed to be.

    ``presence`` is a probability. ``box_mm`` holds the two opposite corners of an axis-aligned box in patient space (LPS, mm), None where
    the structure is believed absent. ``slice_boxes`` maps a slice of the canonical target frame to (left, top, right, bottom) in its pixels.
    ``prior`` is a first guess of its voxels and ``queries`` holds the vision-language model's ``<Seg>`` state a slice, where the localizer
    has them; slices are then those of the slice grid that localizer and propagator share.
    """

    structure: Structure
    presence: float
    box_mm: tuple[tuple[float, float, float], tuple[float, float, float]] | None
    slice_boxes: dict[int, tuple[float, float, float, float]] = field(default_factory=dict)
    prior: SoftMask | None = None
    queries: dict[int, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True)
class StructureResult:
    """One structure's outcome. Volumes in mL, ``confidence`` 0 to 1 (expected agreement, from the reverse pass and the presence answer)."""

    structure: Structure
    status: Status
    confidence: float
    volume_ml: float
    reference_volume_ml: float
    localization: Localization | None = None


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
