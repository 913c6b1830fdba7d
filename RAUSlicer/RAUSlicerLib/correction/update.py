"""One structure again, from what a run has left behind and what the user has corrected."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace

import numpy as np
import SimpleITK as sitk
import torch
from scipy import ndimage

from ..confidence.calibration import Calibration
from ..confidence.scoring import ConfidenceScorer, label_support, round_trip_dice_of
from ..device import autocast
from ..errors import InputError
from ..imaging.frame import canonical, from_array, normalized, stored_like
from ..imaging.segmentation import Segmentation, Structure
from ..inputs import Inputs
from ..matching.correspondence import Embedded
from ..matching.label_posteriors import LabelEvidence
from ..matching.matcher import View
from ..progress import CancelToken, ProgressCallback, ProgressEvent, part
from ..rau.propagation import Frame, Sam2Propagator
from ..rau.slices import MatchedCase
from ..refinement.label_map import without_specks
from ..refinement.settings import DEFAULT, RefinementSettings
from ..results import Localization, SoftMask, StructureResult
from .edits import Correction, Painted, check_correction, painted, painted_share, restore
from .interpolation import edit_extent, propagate_edits
from .moved_box import cut, move

STAGE = "correction"
# In slices of the grid.
_SAME_LEVEL = 0.02


@dataclass
class RunState:
    """What a run leaves behind.

    ``case`` holds the target's slices with its references matched to them, without embeddings. ``found`` are the places of all structures
    that were asked for, ``masks`` the probabilities of those that were found, with which a corrected neighbour competes. ``back`` maps
    points of the reference to the target; None where a cancel came before it was known. ``labels`` are the label posteriors of the target,
    None where they are not known; ``doubted`` as for `ConfidenceScorer`.
    """

    inputs: Inputs
    localizer: str
    case: MatchedCase
    found: dict[Structure, Localization]
    masks: dict[Structure, SoftMask]
    back: sitk.Transform | None
    labels: LabelEvidence | None = None
    doubted: Collection[Structure] = ()


def drop_embeddings(case: MatchedCase) -> None:
    """Drop the embeddings: they are most of what a run holds, and a correction doesn't need them."""
    nothing = torch.empty(0)
    for reference in case.references:
        match = reference.match
        empty = Embedded(nothing, nothing, nothing, nothing, match.target_view.embedded.spacing)
        reference.match = replace(
            match,
            target_view=View(match.target_view.grid, empty),
            reference_view=View(match.reference_view.grid, empty),
            field=nothing,
            transform=sitk.Transform(),
        )


def megabytes(state: RunState) -> float:
    """What the state of a run takes in memory."""
    slices = state.case
    sizes = [slices.images.nbytes, slices.features.nbytes]
    for reference in slices.references:
        sizes += [reference.images.nbytes, reference.features.nbytes, *(labels.nbytes for labels in reference.labels)]
    sizes += [mask.values.nbytes for mask in state.masks.values()]
    if state.labels is not None:
        sizes += [tensor.nbytes for tensor in (state.labels.index, state.labels.share, state.labels.ratio)]
    sizes += [localization.prior.values.nbytes for localization in state.found.values() if localization.prior is not None]
    if isinstance(state.back, sitk.DisplacementFieldTransform):
        sizes.append(24 * state.back.GetDisplacementField().GetNumberOfPixels())
    images = [state.inputs.target]
    for given in state.inputs.references:
        images += [given.volume, *given.segmentation.layers]
    sizes += [image.GetNumberOfPixels() * image.GetSizeOfPixelComponent() for image in images]
    return sum(sizes) / 2**20


class StructureUpdate:
    """Corrects single structures of a run that is kept."""

    def __init__(
        self, state: RunState, propagator: Sam2Propagator, calibration: Calibration, settings: RefinementSettings = DEFAULT
    ) -> None:
        self._state, self._propagator, self._calibration, self._settings = state, propagator, calibration, settings

    def correct(
        self, correction: Correction, progress: ProgressCallback, cancel: CancelToken
    ) -> tuple[Segmentation, StructureResult] | None:
        """The structure's label map on the target's own grid and what is known of it; None after a cancel.

        Raises:
            InputError: the structure was not part of the run, or the correction doesn't fit the target.
        """
        state, target = self._state, self._state.inputs.target
        structure, localization = self._localized(correction.structure)
        correction = check_correction(correction, target)
        frame = canonical(target)
        edits = painted(correction, target) if correction.slices else None
        if correction.box_mm is not None:
            localization = move(localization, correction.box_mm, state.case, frame)
        mask = self._soft(correction, localization, edits, frame, progress, cancel)
        if mask is None:
            return None
        rivals = [theirs for other, theirs in state.masks.items() if other != structure and other.layer == structure.layer]
        inside = final_mask(mask, rivals, edits, frame, self._settings)
        # From now on this is what its neighbours compete with.
        state.masks[structure] = mask
        progress(ProgressEvent(STAGE, 0.9))
        native = sitk.GetArrayFromImage(stored_like(from_array(inside.astype(np.uint8), frame), target))
        labels = native.astype(np.min_scalar_type(structure.label)) * structure.label
        restore(labels, correction, structure.label)
        segmentation = Segmentation(from_array(labels, target), (replace(structure, layer=0),))
        return segmentation, self._scored(structure, localization, mask, inside, segmentation, painted_share(labels, correction))

    def _localized(self, asked: str) -> tuple[Structure, Localization]:
        structure = find_structure(self._state.inputs.references[0].segmentation, asked)
        if structure not in self._state.found:
            raise InputError(
                f"The structure {structure.name!r} was not transferred in the last run.",
                "Only structures of that run can be corrected.",
                "Transfer it, then correct it.",
            )
        return structure, self._state.found[structure]

    def _soft(
        self,
        correction: Correction,
        localization: Localization,
        edits: Painted | None,
        frame: sitk.Image,
        progress: ProgressCallback,
        cancel: CancelToken,
    ) -> SoftMask | None:
        structure = localization.structure
        frames: list[Frame] = []
        if edits is not None:
            prior = localization.prior or SoftMask.empty(frame)
            reach = edit_extent(prior, edits, frame)
            localization = replace(localization, prior=propagate_edits(prior, edits, frame, reach))
            frames = frames_of(edits, self._state.case, self._propagator)
        progress(ProgressEvent(STAGE, 0.2))
        share = part(progress, 0.2, 0.8)
        found = self._propagator.segment(self._state.case, [localization], share, cancel, {structure: frames})
        mask = found.get(structure)
        if mask is None or cancel.cancelled:
            return None
        if edits is not None:
            # What SAM2 has changed again, near what the user has painted.
            mask = propagate_edits(mask, edits, frame, reach)
        return mask if correction.box_mm is None else cut(mask, correction.box_mm, frame)

    def _scored(
        self,
        structure: Structure,
        localization: Localization,
        mask: SoftMask,
        inside: np.ndarray,
        segmentation: Segmentation,
        certain: float,
    ) -> StructureResult:
        state, match = self._state, self._state.case.matches[0]
        (alone,) = segmentation.structures
        frame = canonical(state.inputs.target)
        back = {} if state.back is None else {alone: round_trip_dice_of(match, state.back, inside, structure, frame)}
        doubted = {alone} if structure in state.doubted else ()
        scorer = ConfidenceScorer(
            self._calibration, state.inputs.references[0], state.inputs.target, match.inlier_ratio, match.similarity, {alone}, doubted
        )
        # The reference keeps the structure in its own layer.
        known = replace(localization, structure=alone)
        place = {alone: match.reference.segmentation.structures.index(structure)}
        said = label_support(state.labels, match.target_view.grid, segmentation, place)
        (result,) = scorer.score(segmentation, {alone: mask}, [known], back, said, stopped=False)
        # What the user has painted is certain.
        return replace(result, confidence=result.confidence + (1 - result.confidence) * certain)


def find_structure(segmentation: Segmentation, asked: str) -> Structure:
    """The structure of that segment id, or else of that name.

    Raises:
        InputError: there is none, or the name belongs to several.
    """
    by_id = [structure for structure in segmentation.structures if structure.id == asked]
    named = by_id or segmentation.select([asked])
    if len(named) > 1:
        raise InputError(
            f"Several structures are named {asked!r}.",
            f"Their label values are {', '.join(str(structure.label) for structure in named)}.",
            "Name the structure by the id of its segment.",
        )
    return named[0]


def frames_of(edits: Painted, case: MatchedCase, propagator: Sam2Propagator) -> list[Frame]:
    """The painted planes that SAM2 can remember: those parallel to its slices, each seen where it lies and not where the next slice is.

    Planes across the slices have no frame; they change the first guess of every slice that they cross.
    """
    frame, grid = canonical(case.target), case.grid
    truth = from_array(edits.truth.astype(np.uint8), frame)
    picture: sitk.Image | None = None
    out = []
    for axis, index in edits.planes:
        if axis != 0:
            continue
        level = grid.TransformPhysicalPointToContinuousIndex(frame.TransformIndexToPhysicalPoint((0, 0, index)))[2]
        plane = _plane(grid, level)
        mask = sitk.GetArrayFromImage(sitk.Resample(truth, plane, sitk.Transform(), sitk.sitkNearestNeighbor, 0))[0] > 0
        nearest = round(level)
        if abs(level - nearest) < _SAME_LEVEL and 0 <= nearest < len(case):
            out.append(Frame(level, case.features.take([nearest]), mask))
            continue
        picture = picture or normalized(frame)
        image = sitk.GetArrayFromImage(sitk.Resample(picture, plane, sitk.Transform(), sitk.sitkLinear, 0.0))
        with torch.inference_mode(), autocast(propagator.device):
            features = propagator.segmenter.encode(torch.from_numpy(image)[:, None].to(propagator.device))
        out.append(Frame(level, features, mask))
    return out


def _plane(grid: sitk.Image, level: float) -> sitk.Image:
    """One slice of the grid's size and orientation, at any level."""
    plane = sitk.Image([*grid.GetSize()[:2], 1], sitk.sitkUInt8)
    plane.SetSpacing(grid.GetSpacing())
    plane.SetDirection(grid.GetDirection())
    plane.SetOrigin(grid.TransformContinuousIndexToPhysicalPoint((0.0, 0.0, level)))
    return plane


def final_mask(
    mask: SoftMask, rivals: Iterable[SoftMask], edits: Painted | None, frame: sitk.Image, settings: RefinementSettings = DEFAULT
) -> np.ndarray:
    """A structure's voxels (z, y, x) on the canonical frame: likelier than ``drawn`` and than any rival, without specks.

    What the user has painted is the structure's in any case, and an island that touches it stays, however small.
    """
    inside = np.zeros(frame.GetSize()[::-1], bool)
    found = mask.on(frame, least=settings.drawn)
    if found is not None:
        values, where = found
        region = frame[where[2], where[1], where[0]]
        best = np.full(values.shape, settings.drawn, np.float32)
        for rival in rivals:
            theirs = rival.on(region, least=settings.drawn)
            if theirs is not None:
                best[theirs[1]] = np.maximum(best[theirs[1]], theirs[0])
        inside[where] = values > best
    drawn = np.zeros_like(inside)
    if edits is not None:
        for axis, index in edits.planes:
            plane: list[slice | int] = [slice(None)] * 3
            plane[axis] = index
            drawn[tuple(plane)] = edits.truth[tuple(plane)]
            inside[tuple(plane)] = edits.truth[tuple(plane)]
    box = ndimage.find_objects(inside.astype(np.uint8))
    if box:
        inside[box[0]] = without_specks(inside[box[0]], drawn[box[0]], island=settings.island)
    return inside
