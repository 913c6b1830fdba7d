"""Whether target and reference agree in what is left and right, judged by the voxels alone.

Headers may be wrong, and a body that is nearly symmetric is matched to its mirror image without a trace. The reference is aligned as it is
and mirrored; the one that shows the target's asymmetries resembles it a little more. Only bodies whose mirror image fits nearly as well are
judged so: elsewhere both fits are poor in their own ways, and the difference says nothing of sides. There the training labels tell.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import SimpleITK as sitk
import torch

from ..imaging.frame import canonical, normalized, resample, working_spacing
from ..imaging.segmentation import Reference
from ..matching.correspondence import COARSE_STEP, sample
from ..matching.matcher import Matcher, View, affordable_spacing, correspond
from ..progress import CancelToken
from .laterality_by_labels import label_margins, mirrored
from .settings import LateralitySettings

# A grid of fewer cells along an axis, as of a single slice, has no shape to judge.
_FEWEST_CELLS = 2
MIRRORED_WARNING = (
    "The target looks like a mirror image of the reference: its anatomy fits better with left and right exchanged. Structures that have a "
    "side may have the label of the other one, so their confidence was lowered. Check the orientation in the headers of both volumes, "
    "correct the wrong one and transfer again."
)


class Laterality(StrEnum):
    """What the voxels say of left and right."""

    AGREES = "agrees"
    MIRRORED = "mirrored"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Fit:
    """How well one volume lies on another: correlation of intensities, and the share of coarse matches that agree."""

    correlation: float
    inlier_ratio: float


def compare_laterality(
    matcher: Matcher,
    reference: Reference,
    target: sitk.Image,
    cancel: CancelToken,
    *,
    inlier_ratio: float = 1.0,
    settings: LateralitySettings | None = None,
) -> Laterality:
    """Compare an annotated volume with another of the same part of the body; unknown wherever that can't be told, and after a cancel.

    ``inlier_ratio`` is that of their match, if there is one: where it is poor, so are the fits.
    """
    settings = settings or LateralitySettings()
    pair = _Pair(matcher, reference.volume, target, settings)
    if pair.thin:
        return Laterality.UNKNOWN
    verdict = _by_fits(pair, cancel) if inlier_ratio >= settings.inlier_ratio else Laterality.UNKNOWN
    return verdict if verdict is not Laterality.UNKNOWN else _by_labels(pair, reference, cancel)


def _by_labels(pair: _Pair, reference: Reference, cancel: CancelToken) -> Laterality:
    """What the training labels say where no fit does."""
    margins = label_margins(pair.matcher, reference, pair.frames, cancel, pair.settings.label_voxels)
    if margins is None or min(map(abs, margins)) <= pair.settings.label_margin:
        return Laterality.UNKNOWN
    return Laterality.AGREES if (margins[0] > 0) == (margins[1] > 0) else Laterality.MIRRORED


def _by_fits(pair: _Pair, cancel: CancelToken) -> Laterality:
    """What the fits of the reference as it is and mirrored say.

    What speaks for a mirror is confirmed with both volumes mirrored: networks and solvers treat left and right not quite alike, by as much
    as the asymmetries of some people, and the mean of both margins is free of that.
    """
    margin = _margin(pair, False, cancel)
    if margin is not None and margin <= 0:
        again = _margin(pair, True, cancel)
        # Where the two disagree by so much, one of the fits went wrong.
        margin = None if again is None or abs(margin - again) > pair.settings.asymmetric else (margin + again) / 2
    if margin is None or abs(margin) <= pair.settings.unsure:
        return Laterality.UNKNOWN
    return Laterality.AGREES if margin > 0 else Laterality.MIRRORED


def _margin(pair: _Pair, mirror: bool, cancel: CancelToken) -> float | None:
    """By how much volumes of one handedness correlate better than those of different; None where that means nothing.

    With ``mirror`` the target's mirror image is looked at.
    """
    fits: list[Fit] = []
    for mirror_reference in (mirror, not mirror):
        if cancel.cancelled:
            return None
        fits.append(pair.fit(mirror_reference, mirror))
        if fits[-1].inlier_ratio < pair.settings.inlier_ratio:
            return None
    margin = fits[0].correlation - fits[1].correlation
    return margin if abs(margin) <= pair.settings.asymmetric else None


class _Pair:
    """Two volumes, each as it is and mirrored; a view is embedded when it is first asked for."""

    def __init__(self, matcher: Matcher, reference: sitk.Image, target: sitk.Image, settings: LateralitySettings) -> None:
        self.matcher, self.settings = matcher, settings
        self.frames = [normalized(canonical(image)) for image in (reference, target)]
        spacing = settings.coarser * working_spacing(self.frames[0], sitk.GetArrayViewFromImage(self.frames[0]))
        self._spacing = max(spacing, *(affordable_spacing(frame, matcher.most_voxels) for frame in self.frames))
        self._views: dict[tuple[int, bool], tuple[View, torch.Tensor]] = {}

    @property
    def thin(self) -> bool:
        """Whether one of them has no depth along some axis."""
        least = _FEWEST_CELLS * COARSE_STEP * self._spacing
        return any(size * step < least for frame in self.frames for size, step in zip(frame.GetSize(), frame.GetSpacing(), strict=True))

    def fit(self, mirror_reference: bool, mirror_target: bool) -> Fit:
        """Align the reference to the target, either of them mirrored or not."""
        (reference, moving), (target, fixed) = self._view(0, mirror_reference), self._view(1, mirror_target)
        affine, field = correspond(target, reference, self.settings.levels, settings=self.matcher.settings)
        body = torch.stack([moving, reference.embedded.inside.float()])
        moved, inside = sample(body, field, reference.embedded.spacing)
        both = target.embedded.inside & (inside > 0.5)
        return Fit(_correlation(fixed[both], moved[both]), affine.inlier_ratio)

    def _view(self, number: int, mirror: bool) -> tuple[View, torch.Tensor]:
        """A volume's view and its intensities (D, H, W) on that grid."""
        if (number, mirror) not in self._views:
            frame = mirrored(self.frames[number]) if mirror else self.frames[number]
            view = self.matcher.view(frame, self._spacing)
            intensities = torch.from_numpy(sitk.GetArrayFromImage(resample(frame, view.grid)))
            self._views[number, mirror] = view, intensities.to(view.embedded.inside.device)
        return self._views[number, mirror]


def _correlation(first: torch.Tensor, second: torch.Tensor) -> float:
    """Pearson's correlation of two vectors, 0 where one is constant or empty."""
    if first.numel() == 0:
        return 0.0
    first, second = first - first.mean(), second - second.mean()
    return float((first * second).sum() / (first.norm() * second.norm()).clamp(min=1e-6))
