"""What is asked of the worker: one object for a run and for its corrections. Light: the panel imports it when the module loads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import SimpleITK as sitk

    from ..imaging.segmentation import Reference


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
