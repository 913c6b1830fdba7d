"""What is asked of the worker: of a run and its corrections, and of a result. Light: the panel imports it when the module loads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import SimpleITK as sitk

    from ..imaging.segmentation import Reference, Segmentation
    from ..results import StructureResult


@dataclass(frozen=True)
class RunRequest:
    """A run. A correction of it is asked for with the same request, which the worker compares with what it keeps warm.

    Args:
        reference: The annotated case.
        target: The new volume.
        structures: Names to carry over; None takes all. Corrections don't look at it.
        localizer: As for ``pipeline.transfer``.
        model: As for ``pipeline.transfer``; a name or a folder.
        device: As for ``pipeline.transfer``.
        threads: How many the worker may use; None leaves it to the libraries.
        memory_mb: How much memory the worker may take; None is what the machine has free. Beyond it the run is repeated smaller.
    """

    reference: Reference
    target: sitk.Image
    structures: Sequence[str] | None = None
    localizer: str = "vlm"
    model: str = "embedded"
    device: str = "auto"
    threads: int | None = None
    memory_mb: int | None = None

    @property
    def options(self) -> dict[str, Any]:
        """The fields of the message that need no files."""
        names = ("localizer", "model", "device", "threads", "memory_mb")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True)
class CaseRequest:
    """A segmented target that a report is to be written or a question to be answered about.

    Args:
        volume: The target.
        segmentation: Its structures as they are now, on the target's grid.
        results: What is known of each, those that were not found too; their structures are the segmentation's.
        reference: The annotated case to compare with, where it is at hand.
        source: What it comes from (model, localizer, reference), for the report. Nothing of the patient.
    """

    volume: sitk.Image
    segmentation: Segmentation
    results: Sequence[StructureResult]
    reference: Reference | None = None
    source: Mapping[str, str] = field(default_factory=dict)
