"""The sentences that answer a question about a place or a structure, each with what it rests on."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ..anatomy.graph import AnatomyGraph
from ..anatomy.names import same_words, split
from ..imaging.segmentation import Segmentation, Structure
from ..results import Status, StructureResult
from . import places
from .evidence import CENTRE, Measurement, Quantity, Score, Sentence, SentenceKind, StructureFindings
from .places import Point
from .wording import amount, confidence_of, extent_sentence, listed, position_sentence, status_sentence, volume_sentence

# The localizer's presence below and above which it counts as a clear word.
_ABSENT, _PRESENT = 0.2, 0.5
# Longer lists are cut: an answer is read, a report is looked through.
_MOST = 8
_LEAST_SHARE = 0.01
# Beyond these ratios of volumes the panel's table marks a structure too.
SMALL, LARGE = 0.5, 2.0

Said = tuple[tuple[Sentence, ...], bool]
"""The sentences of an answer, and whether the question could be answered."""


@dataclass(frozen=True)
class AnsweringCase:
    """What questions are about: ``findings`` and ``results`` of the same structures in the same order, and their voxels."""

    findings: tuple[StructureFindings, ...]
    results: tuple[StructureResult, ...]
    segmentation: Segmentation
    graph: Callable[[str], AnatomyGraph]

    @cached_property
    def index(self) -> dict[Structure, int]:
        """The place of a structure among the findings."""
        return {result.structure: number for number, result in enumerate(self.results)}

    def is_there(self, number: int) -> bool:
        """Whether a structure was found and has voxels."""
        volume = self.findings[number].measured(Quantity.VOLUME)
        return self.findings[number].status is not Status.NOT_FOUND and (volume is None or volume.value > 0)

    def presence(self, number: int) -> float | None:
        """The localizer's word on whether a structure is there, 0 to 1; None where it was not asked or its word was not kept."""
        localization = self.results[number].localization
        return None if localization is None or math.isnan(localization.presence) else localization.presence


def at_point(case: AnsweringCase, point: Point) -> Said:
    """What is at a point (LPS, mm)."""
    outside = places.distance_outside(case.segmentation.labelmap, point)
    if outside > 0:
        return (limit(f"I can't tell: this point lies {amount(outside, 'mm')} outside of the image."),), False
    found = [case.index[one] for one in places.structures_at(case.segmentation, point) if one in case.index]
    if not found:
        return (limit("I can't tell what is at this point: no structure was segmented here."), *_nearest(case, point)), False
    sentences = [_here(case, number, f"This point lies in {case.findings[number].name}{_sure(case, number)}") for number in found]
    if len(found) > 1:
        sentences.append(limit("These structures overlap here."))
    return tuple(sentences), True


def in_region(case: AnsweringCase, region: np.ndarray) -> Said:
    """What is in a marked region (z, y, x; booleans on the segmentation's grid)."""
    if not region.any():
        return (limit("I can't tell: the marked region is empty."),), False
    inside = [(case.index[one], share) for one, share in places.shares(case.segmentation, region) if one in case.index]
    inside = [(number, share) for number, share in inside if share >= _LEAST_SHARE]
    if not inside:
        middle = places.centre(case.segmentation.labelmap, region)
        near = _nearest(case, middle, "the middle of the region") if middle is not None else ()
        return (limit("I can't tell what the marked region is: no structure was segmented in it."), *near), False
    sentences = [
        _here(
            case, number, f"{amount(100 * share, '%')} of the marked region lie in {case.findings[number].name}{_sure(case, number)}", share
        )
        for number, share in inside[:_MOST]
    ]
    if len(inside) > _MOST:
        sentences.append(limit(f"{len(inside) - _MOST} more structures have smaller shares of it."))
    return tuple(sentences), True


def presence(case: AnsweringCase, number: int) -> Said:
    """Whether a structure is there."""
    found, word = case.findings[number], case.presence(number)
    said = () if word is None else (_presence_sentence(found, word),)
    if case.is_there(number):
        volume = found.measured(Quantity.VOLUME)
        held = "" if volume is None else f" and has {amount(volume.value, volume.unit)}"
        measured = () if volume is None else (volume,)
        if found.status is Status.LOW_CONFIDENCE:
            text = f"I can't tell for sure whether {found.name} is present: it was found with low confidence{_confidence(found)}{held}."
            return (status(found, text, measured), *said), False
        cut = f"{found.name} touches the border of the image, so more of it may lie outside."
        cuts = (limit(cut, found),) if volume is not None and volume.is_cut else ()
        return (status(found, f"{found.name} is present: it was segmented{_confidence(found)}{held}.", measured), *said, *cuts), True
    if word is not None and word < _ABSENT:
        return (status(found, f"{found.name} was not found."), *said), True
    text = f"I can't tell whether {found.name} is present: it was not found, but it may lie outside of the image or have been missed."
    return (status(found, text), *said), False


def doubts(case: AnsweringCase) -> Said:
    """What has to be checked first: what was found with low confidence, the least sure first, and what was not found."""
    low = [found for found in case.findings if found.status is Status.LOW_CONFIDENCE]
    low.sort(key=lambda found: confidence_of((found,)) or 0.0)
    lost = [found for number, found in enumerate(case.findings) if not case.is_there(number)]
    sentences = []
    if low:
        text = f"Found with low confidence: {cut_list([f'{found.name}{_confidence(found)}' for found in low])}."
        sentences.append(Sentence(text, SentenceKind.STATUS, tuple(found.name for found in low), confidence=confidence_of(low)))
    sentences += not_found(lost)
    if sentences:
        return tuple(sentences), True
    sure = [found for found in case.findings if confidence_of((found,)) is not None]
    if not sure:
        return (limit("I can't tell: nothing is known of the confidence in these structures."),), False
    least = min(sure, key=lambda found: confidence_of((found,)) or 0.0)
    text = f"None of {len(case.findings)} structures is doubted; the one with the lowest confidence is {least.name}{_confidence(least)}."
    return (status(least, text),), True


def place(case: AnsweringCase, number: int) -> Said:
    """Where a structure is."""
    found = case.findings[number]
    if not case.is_there(number):
        text = f"I can't tell where {found.name} is: it was not found."
        box = case.results[number].localization
        if box is not None and box.box_mm is not None:
            low, high = box.box_mm
            middle = ((low[0] + high[0]) / 2, (low[1] + high[1]) / 2, (low[2] + high[2]) / 2)
            text += f" The run looked for it around {coordinates(middle)}."
        return (status(found, text),), False
    centre = tuple(known for quantity in CENTRE if (known := found.measured(quantity)) is not None)
    if len(centre) < len(CENTRE):
        centre = centre_of(
            (found.name,), places.centre(case.segmentation.labelmap, case.segmentation.array(case.results[number].structure))
        )
    if not centre:
        return (limit(f"I can't tell where {found.name} is: it has no voxels.", found),), False
    within = part_of(case, number)
    text = f"The middle of {found.name} lies at {written(centre)}{f', {within}' if within else ''}."
    here = measured(text, (found,), centre)
    return (here, *those(extent_sentence(found), position_sentence(found), status_sentence(found))), True


def size(case: AnsweringCase, number: int) -> Said:
    """How large a structure is."""
    found = case.findings[number]
    if not case.is_there(number):
        return (status(found, f"I can't tell how large {found.name} is: it was not found."),), False
    sentences = those(volume_sentence(found), extent_sentence(found), status_sentence(found))
    return (sentences, True) if found.measurements else ((limit(f"I can't tell: {found.name} was not measured.", found),), False)


def centre_of(names: tuple[str, ...], point: Point | None) -> tuple[Measurement, ...]:
    """A centre of gravity (LPS, mm) as evidence; empty for None."""
    return () if point is None else tuple(Measurement(quantity, value, "mm", names) for quantity, value in zip(CENTRE, point, strict=True))


def written(centre: tuple[Measurement, ...]) -> str:
    """What ``centre_of`` gave, as Slicer writes a point."""
    x, y, z = (coordinate.value for coordinate in centre)
    return coordinates((x, y, z))


def coordinates(point: Point) -> str:
    """A point (LPS, mm) as Slicer writes one: letters say the direction.

    >>> coordinates((-12.0, 3.5, -8.25))
    'R 12.0, P 3.5, I 8.2 mm'
    """
    letters = zip(("L", "P", "S"), ("R", "A", "I"), point, strict=True)
    return ", ".join(f"{positive if value >= 0 else negative} {abs(value):.1f}" for positive, negative, value in letters) + " mm"


def part_of(case: AnsweringCase, number: int) -> str:
    """What holds a structure by the anatomy graph, the nearest first; empty where it is attached to none."""
    found = case.findings[number]
    if found.graph is None or found.node is None:
        return ""
    holders = case.graph(found.graph).ancestors(found.node)
    # That the brain lies in the head goes without saying, and that a temporal lobe is one of the temporal lobes too.
    above: list[str] = []
    for node in holders[:-1] or holders:
        if not above or not same_words(split(above[-1])[1], split(node.name)[1]):
            above.append(node.name)
    named = [f"the {name[:1].lower()}{name[1:]}" for name in above]
    return f"in {' of '.join(named)}" if named else ""


def _here(case: AnsweringCase, number: int, text: str, share: float | None = None) -> Sentence:
    """A sentence on what holds a point, or a share of the marked region (0 to 1)."""
    within = part_of(case, number)
    found = case.findings[number]
    text = f"{text}, {within}." if within else f"{text}."
    if share is None:
        return status(found, text)
    return measured(text, (found,), (Measurement(Quantity.SHARE, 100 * share, "%", (found.name,)),))


def _nearest(case: AnsweringCase, point: Point, what: str = "it") -> tuple[Sentence, ...]:
    near = places.nearest(case.segmentation, point)
    if near is None or near[0] not in case.index:
        return ()
    found = case.findings[case.index[near[0]]]
    text = f"The structure nearest to {what} is {found.name}, {near[1]:.1f} mm away."
    return (measured(text, (found,), (Measurement(Quantity.DISTANCE, near[1], "mm", (found.name,)),)),)


def _presence_sentence(found: StructureFindings, word: float) -> Sentence:
    text = f"The localizer's own estimate that {found.name} is there is {word:.2f}"
    text += "." if _ABSENT <= word < _PRESENT else ", which is low." if word < _ABSENT else ", which is high."
    score = Score(f"{found.name} is there", word, found.name)
    return Sentence(text, SentenceKind.SCORED, (found.name,), scores=(score,), confidence=confidence_of((found,)))


def _sure(case: AnsweringCase, number: int) -> str:
    found = case.findings[number]
    if found.status is Status.LOW_CONFIDENCE:
        return f", whose outline is uncertain{_confidence(found)}"
    return _confidence(found)


def _confidence(found: StructureFindings) -> str:
    known = confidence_of((found,))
    return "" if known is None else f" (confidence {known:.2f})"


def cut_list(names: Sequence[str]) -> str:
    """Names in a row, the first few of many."""
    return listed(names) if len(names) <= _MOST else f"{', '.join(names[:_MOST])} and {len(names) - _MOST} more"


def joined(answers: Iterable[Said]) -> Said:
    """Several answers as one, which is known where one of them is."""
    said = list(answers)
    return tuple(sentence for sentences, _ in said for sentence in sentences), any(known for _, known in said)


def those(*sentences: Sentence | None) -> tuple[Sentence, ...]:
    """The sentences that there are."""
    return tuple(sentence for sentence in sentences if sentence is not None)


def not_found(findings: Sequence[StructureFindings]) -> tuple[Sentence, ...]:
    """The sentence that names what was not found; none where that is nothing."""
    names = tuple(found.name for found in findings)
    return (Sentence(f"Not found: {cut_list(names)}.", SentenceKind.STATUS, names),) if names else ()


def status(found: StructureFindings, text: str, measurements: tuple[Measurement, ...] = ()) -> Sentence:
    """A sentence on how sure it is that a structure is there."""
    return Sentence(text, SentenceKind.STATUS, (found.name,), measurements, confidence=confidence_of((found,)))


def measured(text: str, findings: Sequence[StructureFindings], measurements: Sequence[Measurement]) -> Sentence:
    """A sentence on what was measured of structures."""
    names = tuple(found.name for found in findings)
    return Sentence(text, SentenceKind.MEASURED, names, tuple(measurements), confidence=confidence_of(findings))


def limit(text: str, found: StructureFindings | None = None) -> Sentence:
    """A sentence on what can't be told."""
    return Sentence(text, SentenceKind.LIMIT, () if found is None else (found.name,))
