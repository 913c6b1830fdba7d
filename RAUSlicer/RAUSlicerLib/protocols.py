"""The places where kinds multiply: matchers lay references over a target, localizers say where a structure is, peers are compared with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

import SimpleITK as sitk

from .imaging.segmentation import Reference, Structure
from .progress import CancelToken, ProgressCallback
from .results import Localization, SoftMask

if TYPE_CHECKING:
    from .matching.matcher import Match
    from .rau.slices import MatchedCase


class ReferenceMatcher(Protocol):
    """Where does each target voxel lie in each reference? One file per kind."""

    def match_all(
        self, references: Sequence[Reference], target: sitk.Image, progress: ProgressCallback, cancel: CancelToken
    ) -> list[Match]:
        """How each reference lies over the target; empty after a cancel."""
        ...


class Localizer(Protocol):
    """Where is it? One file per kind."""

    name: str

    def locate(
        self,
        case: MatchedCase,
        structures: Sequence[Structure],
        refined: Sequence[Mapping[Structure, SoftMask]],
        priors: Mapping[Structure, SoftMask],
        progress: ProgressCallback,
        cancel: CancelToken,
    ) -> list[Localization]:
        """Presence and boxes of every structure in the target; structures not reached before a cancel are left out.

        Args:
            case: The target's slices with all references matched to them.
            structures: What is sought.
            refined: The structures' probabilities by each reference; those that it lacks are left out.
            priors: The same, merged; what `Localization.prior` becomes.
            progress: Receives the stage ``localization``.
            cancel: Is asked between slices or references.
        """
        ...


class Peer(Protocol):
    """Another way to get there, which the benchmark compares with. One file per kind."""

    name: str

    def segment(
        self,
        references: Sequence[Reference],
        target: sitk.Image,
        structures: Sequence[Structure],
        progress: ProgressCallback,
        cancel: CancelToken,
    ) -> dict[Structure, SoftMask]:
        """Probability of every structure in the target; those not finished before a cancel are left out."""
        ...
