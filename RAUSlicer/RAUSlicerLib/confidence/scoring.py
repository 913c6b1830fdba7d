"""Confidence and status of what was found: the way back to the reference, and what else speaks for a structure."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TypeVar

import numpy as np
import SimpleITK as sitk
import torch
from scipy import ndimage

from ..imaging.frame import canonical, from_array, resample
from ..imaging.label_values import numbered
from ..imaging.labelmap import label_counts
from ..imaging.overlap import dice
from ..imaging.segmentation import Reference, Segmentation, Structure
from ..matching.label_posteriors import UNKNOWN, LabelEvidence
from ..matching.matcher import Match, carry_labels
from ..matching.transforms import field_transform
from ..progress import CancelToken
from ..results import Localization, SoftMask, Status, StructureResult
from .calibration import Calibration, StructureEvidence, sharpness

Answer = TypeVar("Answer")

OTHER_PART_WARNING = (
    "The target looks like another part of the body than the reference. What was found in it is hardly what the reference shows, so no "
    "structure is called found. Check that reference and target are the volumes that you meant, choose others and transfer again."
)


@dataclass(frozen=True)
class ConfidenceScorer:
    """What all structures of a run are scored by.

    ``kept`` are those that the user has painted: they are not taken back. ``doubted`` are those that something beyond their own evidence
    speaks against, as where left and right look exchanged or the target like another part of the body: they are called "low confidence"
    at best.
    """

    calibration: Calibration
    reference: Reference
    target: sitk.Image
    inlier_ratio: float = 0.0
    similarity: float = 0.0
    kept: Collection[Structure] = ()
    doubted: Collection[Structure] = ()

    def of(self, match: Match) -> ConfidenceScorer:
        """The same with what a match says of the whole volume."""
        return replace(self, inlier_ratio=match.inlier_ratio, similarity=match.similarity)

    def doubting(self, structures: Collection[Structure]) -> ConfidenceScorer:
        """The same with doubts about structures."""
        return replace(self, doubted=structures)

    def score(
        self,
        segmentation: Segmentation,
        masks: Mapping[Structure, SoftMask],
        found: Sequence[Localization],
        back: Mapping[Structure, float],
        labels: Mapping[Structure, float],
        *,
        stopped: bool,
    ) -> tuple[StructureResult, ...]:
        """Confidence and status of every finished structure.

        ``back`` is what the way back to the reference says of each, ``labels`` what `label_support` does.
        """
        by_structure = {localization.structure: localization for localization in found}
        results = []
        counts, annotated = ([label_counts(layer) for layer in given.layers] for given in (segmentation, self.reference.segmentation))
        for structure in segmentation.structures:
            voxels = counts[structure.layer].get(structure.label, 0)
            volume = voxels * float(np.prod(self.target.GetSpacing())) / 1000
            drawn = annotated[structure.layer].get(structure.label, 0)
            known = drawn * float(np.prod(self.reference.volume.GetSpacing())) / 1000
            localization = by_structure[structure]
            evidence = StructureEvidence(
                back.get(structure, 0.0),
                localization.presence,
                sharpness(masks[structure]) if structure in masks else 0.0,
                self.inlier_ratio,
                self.similarity,
                min(volume, known) / max(volume, known, 1e-9),
                labels.get(structure, UNKNOWN),
            )
            confidence = self.calibration.confidence(evidence) if voxels else 0.0
            if structure in self.doubted:
                confidence = self.calibration.doubted(confidence)
            status = self.calibration.status(confidence, voxels)
            if voxels and status is Status.NOT_FOUND and (stopped or structure in self.kept):
                # What a stopped run has finished and what the user has painted is not taken back for want of evidence.
                status = Status.LOW_CONFIDENCE
            results.append(StructureResult(structure, status, confidence, volume, known, localization, asdict(evidence)))
        return tuple(results)


def label_support(
    evidence: LabelEvidence | None, grid: sitk.Image, segmentation: Segmentation, places: Mapping[Structure, int]
) -> dict[Structure, float]:
    """How far the training labels speak for each structure where it was found, 0 to 1; none where there are no such labels.

    Args:
        evidence: What they say of a match's target.
        grid: The working grid that this lies on.
        segmentation: What was found, on the target's own grid.
        places: The numbers of its structures in the evidence. One without a voxel on the working grid is left out.
    """
    if evidence is None:
        return {}
    out = {}
    for number, layer in enumerate(segmentation.layers):
        own = [structure for structure in places if structure.layer == number]
        if not own:
            continue
        labels = sitk.GetArrayFromImage(resample(canonical(layer), grid, nearest=True))
        labels = numbered(labels, [structure.label for structure in own])
        for rank, (structure, box) in enumerate(zip(own, ndimage.find_objects(labels, max_label=len(own)), strict=True), start=1):
            if box is not None:
                inside = torch.from_numpy(labels[box] == rank)
                out[structure] = evidence.mean(places[structure], box, inside)
    return out


def round_trip_dice(match: Match, field: torch.Tensor, segmentation: Segmentation, target: sitk.Image) -> dict[Structure, float]:
    """Dice of each structure, carried back from the target onto the reference, with the reference's own annotation.

    The way back, ``field``, is matched anew, so that a wrong way there is not simply undone. Source: RevSAM2.
    """
    present = [label_counts(layer) for layer in segmentation.layers]
    structures = [structure for structure in segmentation.structures if structure.label in present[structure.layer]]
    if not structures:
        return {}
    annotated = Reference(target, segmentation)
    carried = carry_labels(annotated, match.reference_view, match.target_view, field, structures, radius=1, settings=match.settings)
    out = {}
    own = match.reference.segmentation
    grid = match.reference_view.grid
    layers = [resample(canonical(layer), grid, nearest=True) for layer in own.layers]
    truth, counts = [sitk.GetArrayViewFromImage(layer) for layer in layers], [label_counts(layer) for layer in layers]
    for structure, mask in carried.items():
        window = tuple(slice(first, first + extent) for first, extent in zip(mask.start, mask.values.shape, strict=True))
        inside = mask.values > 0.5
        shared = int((inside & (truth[structure.layer][window] == structure.label)).sum())
        total = int(inside.sum()) + counts[structure.layer].get(structure.label, 0)
        out[structure] = 2 * shared / total if total else 0.0
    return out


def way_back(match: Match, field: torch.Tensor) -> sitk.Transform:
    """The world transform from reference points to target points."""
    return field_transform(field, match.reference_view.grid, match.target_view.grid)


def round_trip_dice_of(match: Match, back: sitk.Transform, inside: np.ndarray, structure: Structure, frame: sitk.Image) -> float:
    """As `round_trip_dice` for one structure (voxels ``inside`` of the canonical frame), along a way back that is known already."""
    grid = match.reference_view.grid
    there = sitk.GetArrayFromImage(sitk.Resample(from_array(inside.astype(np.float32), frame), grid, back, sitk.sitkLinear, 0.0)) > 0.5
    own = resample(canonical(match.reference.segmentation.layers[structure.layer]), grid, nearest=True)
    return dice(there, sitk.GetArrayFromImage(own) == structure.label)


def unless_cancelled(work: Callable[[], Answer], cancel: CancelToken) -> Answer | None:
    """What ``work`` returns, or None as soon as the user cancels: it can't ask by itself and is then left to end on its own."""
    answers: list[Answer] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            answers.append(work())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, name="unless-cancelled", daemon=True)
    thread.start()
    while thread.is_alive() and not cancel.cancelled:
        thread.join(0.05)
    if errors:
        raise errors[0]
    return answers[0] if answers else None
