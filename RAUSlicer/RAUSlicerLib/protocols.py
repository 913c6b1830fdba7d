"""The two places where kinds multiply: localizers say where a structure is, propagators say which voxels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
import SimpleITK as sitk

from .imaging.segmentation import Reference, Structure
from .progress import CancelToken, ProgressCallback
from .results import Localization, SoftMask

__all__ = ["Localizer", "Propagator", "SoftMask"]


class Localizer(Protocol):
    """Where is it? One file a kind."""

    name: str

    def locate(
        self,
        references: Sequence[Reference],
        target: sitk.Image,
        structures: Sequence[Structure],
        progress: ProgressCallback,
        cancel: CancelToken,
    ) -> list[Localization]:
        """Presence and boxes of every structure in the target; structures not reached before a cancel are left out."""
        ...


class Propagator(Protocol):
    """Which voxels? One file a kind."""

    name: str

    def segment(
        self,
        references: Sequence[Reference],
        target: sitk.Image,
        localizations: Sequence[Localization],
        edits: Mapping[Structure, Mapping[int, np.ndarray]],
        progress: ProgressCallback,
        cancel: CancelToken,
    ) -> dict[Structure, SoftMask]:
        """Probability of every localized structure; those not finished before a cancel are left out.

        ``edits`` holds slices that the user has corrected: structure -> {target slice: boolean mask}.
        """
        ...
