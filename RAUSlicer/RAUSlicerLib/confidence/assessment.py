"""How good each structure of a run is, and whether the whole of it is to be doubted."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import torch

from ..anatomy.terms import lateralized
from ..imaging.segmentation import Segmentation, Structure
from ..inputs import Inputs
from ..matching.label_posteriors import LabelEvidence
from ..matching.matcher import Match, Matcher
from ..progress import CancelToken, ProgressCallback, ProgressEvent
from ..results import Localization, SoftMask, StructureResult
from .calibration import Calibration
from .laterality import MIRRORED_WARNING, Laterality, compare_laterality
from .scoring import OTHER_PART_WARNING, ConfidenceScorer, label_support, round_trip_dice, unless_cancelled

STAGE = "confidence"


@dataclass(frozen=True)
class Assessment:
    """What is known of a run's structures.

    ``doubted`` are those that something beyond their own evidence speaks against, ``warnings`` says so to the user. ``field`` gives every
    voxel of the first reference's working grid its place in the target's, and ``labels`` the label posteriors there; both are None where a
    cancel came before they were known.
    """

    results: tuple[StructureResult, ...]
    doubted: tuple[Structure, ...] = ()
    warnings: tuple[str, ...] = ()
    field: torch.Tensor | None = None
    labels: LabelEvidence | None = None


def assess(
    matcher: Matcher,
    calibration: Calibration,
    inputs: Inputs,
    matches: Sequence[Match],
    segmentation: Segmentation,
    masks: Mapping[Structure, SoftMask],
    found: Sequence[Localization],
    progress: ProgressCallback,
    cancel: CancelToken,
) -> Assessment:
    """Confidence and status of every structure of the segmentation, by the first reference's annotation.

    After a cancel nothing is matched any more: what is finished keeps its voxels, with little confidence.

    Args:
        matcher: Finds the way back from the first reference to the target.
        calibration: From evidence to confidence.
        inputs: Of the run.
        matches: How each reference lies over the target; empty where a cancel came before.
        segmentation: What was found, on the target's own grid.
        masks: The probabilities behind it.
        found: Where each structure was localized.
        progress: Receives the stage ``confidence``.
        cancel: Is asked between parts.
    """
    scorer = ConfidenceScorer(calibration, inputs.references[0], inputs.target)
    if not matches:
        return Assessment(scorer.score(segmentation, masks, found, {}, {}, stopped=True))
    match = matches[0]
    scorer = scorer.of(match)
    stopped = cancel.cancelled
    # On this thread: another would have its own pool beside this one, and each small operation would wait for the system.
    field = None if stopped else matcher.reversed_field(match, cancel)
    progress(ProgressEvent(STAGE, 0.0))
    back = None
    if field is not None:
        there = (match, field, segmentation, inputs.target)
        back = unless_cancelled(lambda: round_trip_dice(*there), cancel)
    progress(ProgressEvent(STAGE, 0.5))
    labels = {} if stopped or cancel.cancelled else _label_support(match, segmentation)
    if back is None:
        return Assessment(
            scorer.score(segmentation, masks, found, {}, labels, stopped=True), field=field, labels=match.labels if labels else None
        )
    doubted, warnings = _doubts(matcher, calibration, inputs, segmentation.structures, matches, cancel)
    results = scorer.doubting(doubted).score(segmentation, masks, found, back, labels, stopped=False)
    return Assessment(results, tuple(doubted), warnings, field, match.labels)


def _doubts(
    matcher: Matcher,
    calibration: Calibration,
    inputs: Inputs,
    structures: Sequence[Structure],
    matches: Sequence[Match],
    cancel: CancelToken,
) -> tuple[Collection[Structure], tuple[str, ...]]:
    """What speaks against structures beyond their own evidence: against which, and what the user is told.

    All of them, if the target looks like another part of the body than every reference. Those that have a side, if it looks like its
    mirror image.
    """
    if calibration.is_other_body_part(max(match.similarity for match in matches)):
        # Left and right of what has nothing in common say nothing.
        return structures, (OTHER_PART_WARNING,)
    # Only they can be on the wrong side; without them the comparison would be time lost.
    sided = lateralized(structures)
    if not sided or cancel.cancelled:
        return (), ()
    pair, ratio = (inputs.references[0], inputs.target), matches[0].inlier_ratio
    verdict = compare_laterality(matcher, *pair, cancel, inlier_ratio=ratio, settings=calibration.laterality)
    return (sided, (MIRRORED_WARNING,)) if verdict is Laterality.MIRRORED else ((), ())


def _label_support(match: Match, segmentation: Segmentation) -> dict[Structure, float]:
    """How far the label posteriors speak for the structures that were found."""
    places = {structure: number for number, structure in enumerate(match.reference.segmentation.structures)}
    asked = {structure: places[structure] for structure in segmentation.structures}
    return label_support(match.labels, match.target_view.grid, segmentation, asked)
