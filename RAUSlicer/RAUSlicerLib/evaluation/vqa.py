"""Questions on slices: what is this marked region called, and is X present in this slice?

The answers are the localizer's own. A region is named by the structure whose box on that slice, weighted by its presence, fits the
region's box best, together with the matched evidence inside of the region; a structure is present where the localizer gives it a box. The
rule to beat needs no model: the reference's structures, mapped through the foreground boxes of both volumes; the nearest box names a
region, and a structure is present where its mapped mask is.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import SimpleITK as sitk

from ..imaging.frame import canonical
from ..imaging.names import same_structure
from ..imaging.segmentation import Reference, Segmentation, Structure
from ..matching.registration import align_boxes
from ..matching.warping import warp_structures
from ..progress import CancelToken, ignore
from ..results import Localization, SoftMask
from .boxes import corner_iou, index_box
from .pairs import SEED

# Fewer pixels are neither "present" nor "absent", and nothing that anybody would mark.
FEWEST_PIXELS = 20
_SLICES = 12
_HALF = 0.5

Rectangle = tuple[float, float, float, float]


@dataclass(frozen=True)
class SliceQuestion:
    """On a slice of the target's canonical frame: what is this marked region called (``naming``), or is this structure there."""

    level: int
    structure: Structure
    present: bool
    naming: bool


@dataclass(frozen=True)
class Answered:
    """A question with the answers. Of a region: names by the model's box and evidence together, by each alone, and by the rule.

    Of presence: what the model and the rule say. The fields of the other kind of question are None.
    """

    level: int
    name: str
    present: bool
    naming: bool
    named: str | None = None
    named_by_box: str | None = None
    named_by_evidence: str | None = None
    named_by_rule: str | None = None
    said_present: bool | None = None
    rule_present: bool | None = None


def answer(
    reference: Reference, target: sitk.Image, truth: Segmentation, localizations: Sequence[Localization], seed: str
) -> list[Answered]:
    """Put the questions of a target and answer them by a localizer's word and by the rule.

    Args:
        reference: Whose structures are asked about.
        target: The target's volume.
        truth: What is in the target; its structures by the same names.
        localizations: The localizer's, of the structures that are asked about.
        seed: Fixes which slices and absent structures are asked about.
    """
    frame = canonical(target)
    structures = [localization.structure for localization in localizations]
    masks = {structure: _marked(truth, structure, target) for structure in structures}
    guess = warp_structures(reference, structures, align_boxes(frame, reference.volume), frame, ignore, CancelToken())
    mapped = {structure: _on_frame(mask, frame) > _HALF for structure, mask in guess.items()}
    evidence = {one.structure: _on_frame(one.prior, frame) for one in localizations}
    out = []
    for question in choose_questions(masks, random.Random(f"{SEED} {seed}")):
        here, level = question.structure, question.level
        asked = Answered(level, here.name, question.present, question.naming)
        if question.naming:
            region = masks[here][level]
            boxes, inside = box_fit(region, level, localizations), evidence_fit(region, {s: e[level] for s, e in evidence.items()})
            both = {structure: boxes[structure] + inside[structure] for structure in structures}
            rule = nearest_box(region, {s: m[level] for s, m in mapped.items()})
            out.append(replace(asked, named=_best(both), named_by_box=_best(boxes), named_by_evidence=_best(inside), named_by_rule=rule))
        else:
            said = next(level in one.slice_boxes for one in localizations if one.structure == here)
            out.append(replace(asked, said_present=said, rule_present=here in mapped and bool(mapped[here][level].any())))
    return out


def choose_questions(masks: Mapping[Structure, np.ndarray], draw: random.Random) -> list[SliceQuestion]:
    """Names of all structures on slices spread evenly over those that show one; presence of each on as many slices with it as without.

    ``masks`` are booleans (z, y, x). Slices for presence are drawn at random from the whole target.
    """
    counts = {structure: mask.sum((1, 2)) for structure, mask in masks.items()}
    shown = np.flatnonzero(np.any([count >= FEWEST_PIXELS for count in counts.values()], axis=0)) if counts else np.zeros(0, int)
    chosen = shown[np.unique(np.linspace(0, len(shown) - 1, min(_SLICES, len(shown))).round().astype(int))] if len(shown) else shown
    out = [
        SliceQuestion(level, structure, True, True)
        for level in chosen.tolist()
        for structure, count in counts.items()
        if count[level] >= FEWEST_PIXELS
    ]
    for structure, count in counts.items():
        there, away = np.flatnonzero(count >= FEWEST_PIXELS).tolist(), np.flatnonzero(count == 0).tolist()
        number = min(len(there), len(away), _SLICES // 2)
        for present, levels in ((True, there), (False, away)):
            out += [SliceQuestion(level, structure, present, False) for level in sorted(draw.sample(levels, number))]
    return out


def box_fit(region: np.ndarray, level: int, localizations: Sequence[Localization]) -> dict[Structure, float]:
    """How well each structure's box on a slice fits a marked region (y, x): intersection over union, times its presence."""
    marked = rectangle(region)
    out = {}
    for one in localizations:
        box = one.slice_boxes.get(level)
        out[one.structure] = 0.0 if box is None else one.presence * corner_iou(np.reshape(marked, (2, 2)), np.reshape(box, (2, 2)))
    return out


def evidence_fit(region: np.ndarray, evidence: Mapping[Structure, np.ndarray]) -> dict[Structure, float]:
    """Soft Dice of each structure's matched probability on a slice (y, x) with a marked region."""
    size = float(region.sum())
    return {s: 2 * float(heat[region].sum()) / (size + float(heat.sum())) if heat.any() else 0.0 for s, heat in evidence.items()}


def nearest_box(region: np.ndarray, mapped: Mapping[Structure, np.ndarray]) -> str | None:
    """The name of the structure whose mapped box on a slice is nearest to the region's, by the distances of their sides.

    None where no structure is mapped onto the slice.
    """
    marked = np.array(rectangle(region))
    distances = {s: float(np.abs(np.array(rectangle(mask)) - marked).sum()) for s, mask in mapped.items() if mask.any()}
    return min(distances, key=lambda s: distances[s]).name if distances else None


def rectangle(mask: np.ndarray) -> Rectangle:
    """(left, top, right, bottom) in pixels around the true pixels (y, x); there is at least one."""
    rows, columns = index_box(mask)
    return float(columns.start), float(rows.start), float(columns.stop), float(rows.stop)


def _best(fits: Mapping[Structure, float]) -> str | None:
    best = max(fits, key=lambda structure: fits[structure])
    return best.name if fits[best] > 0 else None


def _marked(truth: Segmentation, structure: Structure, target: sitk.Image) -> np.ndarray:
    """A structure's voxels (z, y, x) on the target's canonical frame."""
    own = same_structure(truth, structure)
    if own is None:
        return np.zeros(canonical(target).GetSize()[::-1], bool)
    return sitk.GetArrayFromImage(canonical(truth.mask(own), target)) > 0


def _on_frame(mask: SoftMask | None, frame: sitk.Image) -> np.ndarray:
    return np.zeros(frame.GetSize()[::-1], np.float16) if mask is None else mask.spread(frame)
