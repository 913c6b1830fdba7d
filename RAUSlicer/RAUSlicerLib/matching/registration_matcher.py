"""Matches by registration: the places come from affine and demons on intensities, what voxels look like from the matching network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import SimpleITK as sitk

from ..imaging.frame import canonical
from ..imaging.segmentation import Reference
from ..progress import CancelToken, ProgressCallback, part
from .matcher import Match, Matcher
from .registration import register
from .transforms import nearest_affine, transform_field


class RegistrationMatcher:
    """Lays references over a target by registration.

    Both volumes are matched by the network too: of that match the grids, embeddings, inlier ratio and similarity stay, the places do not.

    Args:
        matcher: Embeds both volumes; attention and label posteriors read that, around the places that registration finds.
        deformable: Whether diffeomorphic demons follow the affine stage.
        spacing_mm: As for `register`.
    """

    def __init__(self, matcher: Matcher, *, deformable: bool = True, spacing_mm: float | None = None) -> None:
        self._matcher, self._deformable, self._spacing_mm = matcher, deformable, spacing_mm

    def match_all(
        self, references: Sequence[Reference], target: sitk.Image, progress: ProgressCallback, cancel: CancelToken
    ) -> list[Match]:
        """Match every reference to the target; none after a cancel.

        Raises:
            InputError: a volume has too few slices, or a reference can't be laid over the target at all.
        """
        frame = canonical(target)
        transforms = []
        for number, reference in enumerate(references):
            share = part(progress, 0.5 * number / len(references), 0.5 * (number + 1) / len(references))
            transforms.append(
                register(frame, reference.volume, deformable=self._deformable, progress=share, cancel=cancel, spacing_mm=self._spacing_mm)
            )
            if cancel.cancelled:
                return []
        matches = self._matcher.match_all(references, target, part(progress, 0.5, 1.0), cancel)
        return [_placed(match, transform) for match, transform in zip(matches, transforms, strict=False)]


def _placed(match: Match, transform: sitk.Transform) -> Match:
    """The match with the places that a transform says."""
    grids = match.target_view.grid, match.reference_view.grid
    field = transform_field(transform, *grids)
    return replace(match, affine=nearest_affine(field, *grids), transform=transform, field=field.to(match.field.device))
