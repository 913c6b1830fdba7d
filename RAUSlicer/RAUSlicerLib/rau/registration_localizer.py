"""The localizer without a language model: boxes and presence from the references' masks, warped to the target."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import SimpleITK as sitk

from ..imaging.frame import canonical, normalized
from ..imaging.names import same_structure
from ..imaging.segmentation import Reference, Structure
from ..matching.warping import inside, merge, warp_structures
from ..progress import CancelToken, ProgressCallback, ProgressEvent, ignore
from ..results import Localization, SoftMask
from .slices import MatchedCase

STAGE = "localization"
# A structure whose carried-over voxels are fewer than half sure has left the field of view.
_SURE = 0.5
# Voxels around a mask whose intensities tell whether it landed on similar anatomy.
_NEIGHBOURHOOD = 4


class RegistrationLocalizer:
    """Looks where the references' structures land.

    A structure's presence is the share of its mass that lands inside of the target's field of view, lowered where reference and target
    look different around it. It orders structures by trust; it is not a calibrated probability.
    """

    name = "registration"

    def locate(
        self,
        case: MatchedCase,
        structures: Sequence[Structure],
        refined: Sequence[Mapping[Structure, SoftMask]],
        priors: Mapping[Structure, SoftMask],
        progress: ProgressCallback,
        cancel: CancelToken,
    ) -> list[Localization]:
        """See ``protocols.Localizer``. Several references vote, each with the weight of its own presence."""
        frame = canonical(case.target)
        votes: dict[Structure, list[tuple[SoftMask, float]]] = {}
        for number, match in enumerate(case.matches):
            for structure, vote in self._votes(match.reference, structures, match.transform, frame, cancel).items():
                votes.setdefault(structure, []).append(vote)
            progress(ProgressEvent(STAGE, (number + 1) / len(case.matches)))
            if cancel.cancelled:
                return []
        return [_localization(structure, votes[structure], priors.get(structure)) for structure in structures if structure in votes]

    @staticmethod
    def _votes(
        reference: Reference,
        structures: Sequence[Structure],
        transform: sitk.Transform,
        frame: sitk.Image,
        cancel: CancelToken,
    ) -> dict[Structure, tuple[SoftMask, float]]:
        warped = warp_structures(reference, structures, transform, frame, ignore, cancel)
        target_values = sitk.GetArrayFromImage(normalized(frame))
        warped_volume = sitk.Resample(normalized(canonical(reference.volume)), frame, transform, sitk.sitkLinear, 0.0)
        reference_values = sitk.GetArrayFromImage(warped_volume)
        growth = _volume_ratio(frame, transform)
        votes = {}
        for structure, mask in warped.items():
            expected = _volume_mm3(reference, structure) / growth
            landed = float(mask.values.sum()) * float(np.prod(frame.GetSpacing()))
            window = tuple(slice(max(side.start - _NEIGHBOURHOOD, 0), side.stop + _NEIGHBOURHOOD) for side in inside(mask))
            alike = 0.5 + 0.5 * _correlation(target_values[window], reference_values[window])
            votes[structure] = (mask, min(landed / expected, 1.0) * alike if expected > 0 else 0.0)
        return votes


def _volume_mm3(reference: Reference, structure: Structure) -> float:
    own = same_structure(reference.segmentation, structure)
    return 0.0 if own is None else float(reference.segmentation.array(own).sum() * np.prod(reference.volume.GetSpacing()))


def _volume_ratio(target: sitk.Image, transform: sitk.Transform) -> float:
    """How much larger the reference's anatomy is than the target's, from where the corners of the target's middle half are mapped."""
    size = np.array(target.GetSize()) - 1
    corners = [[0.25, 0.25, 0.25], [0.75, 0.25, 0.25], [0.25, 0.75, 0.25], [0.25, 0.25, 0.75]]
    points = [target.TransformContinuousIndexToPhysicalPoint((size * corner).tolist()) for corner in corners]
    mapped = [transform.TransformPoint(point) for point in points]

    def volume(origin: Sequence[float], *ends: Sequence[float]) -> float:
        return abs(float(np.linalg.det(np.subtract(ends, origin))))

    return volume(*mapped) / max(volume(*points), 1e-9)


def _correlation(first: np.ndarray, second: np.ndarray) -> float:
    if first.size < 2 or first.std() == 0 or second.std() == 0:
        return 0.0
    return float(np.corrcoef(first.ravel(), second.ravel())[0, 1])


def _localization(structure: Structure, votes: Sequence[tuple[SoftMask, float]], prior: SoftMask | None) -> Localization:
    presence = float(np.mean([presence for _, presence in votes]))
    mask = merge([mask for mask, _ in votes], [presence + 1e-3 for _, presence in votes])
    sure = mask.values >= _SURE
    if not sure.any():
        return Localization(structure, min(presence, 0.5), None, prior=prior)
    slice_boxes = {}
    for number in np.flatnonzero(sure.any(axis=(1, 2))):
        rows, columns = np.flatnonzero(sure[number].any(axis=1)), np.flatnonzero(sure[number].any(axis=0))
        top, left = mask.start[1] + int(rows[0]), mask.start[2] + int(columns[0])
        bottom, right = mask.start[1] + int(rows[-1]) + 1, mask.start[2] + int(columns[-1]) + 1
        slice_boxes[mask.start[0] + int(number)] = (float(left), float(top), float(right), float(bottom))
    return Localization(structure, presence, _world_box(sure, mask), slice_boxes, prior=prior)


def _world_box(sure: np.ndarray, mask: SoftMask) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """The two corners (LPS, mm) of the axis-aligned box around whole voxels."""
    grid = mask.grid
    to_world = np.reshape(grid.GetDirection(), (3, 3)) * grid.GetSpacing()
    indices = np.argwhere(sure)[:, ::-1] + np.array(mask.start[::-1])
    points = indices @ to_world.T + grid.GetOrigin()
    half = np.abs(to_world).sum(axis=1) / 2
    low, high = (points.min(axis=0) - half).tolist(), (points.max(axis=0) + half).tolist()
    return (low[0], low[1], low[2]), (high[0], high[1], high[2])
