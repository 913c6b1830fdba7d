"""Answers to questions about a segmented target, each with the evidence it rests on. What can't be told is said to be so."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from ..anatomy.graph import AnatomyGraph
from ..imaging.segmentation import Segmentation
from ..results import StructureResult
from . import answering, comparing
from .answering import AnsweringCase, Said, joined, limit
from .evidence import Answer, Measurement, Quantity, Sentence, SentenceKind, StructureFindings
from .naming import Meant, Names, NotMeant
from .places import Point, centre, check_point, union
from .question_grammar import Kind, Question, parse
from .wording import amount, confidence_of, listed

# More structures than this are summed up and not answered one by one.
_ONE_BY_ONE = 4
_OTHER_SIDE = re.compile(r"(left|right) (?:one|side)", re.IGNORECASE)


def answer(
    question: str,
    findings: Sequence[StructureFindings],
    results: Sequence[StructureResult],
    segmentation: Segmentation,
    *,
    point: Point | None = None,
    region: np.ndarray | None = None,
    graphs: Sequence[str] | None = None,
    load: Callable[[str], AnatomyGraph] | None = None,
) -> Answer:
    """Answer a question in English about what was segmented. No model is loaded for it.

    Args:
        question: For example "What is here?", "Is the spleen present?", "Where is the left kidney?", "How large is the liver?", "Compare
            the liver with the reference". What the grammar does not cover is said not to be understood.
        findings: What was measured of each structure.
        results: The structures themselves, in the same order, with what a run said of them.
        segmentation: Their voxels.
        point: Where "here" is, in LPS, mm.
        region: What "the marked region" is: booleans (z, y, x) on the segmentation's grid. It goes before ``point``.
        graphs: Names of the anatomy graphs whose names and synonyms are understood; all of them for None.
        load: Loads a graph by name.

    Raises:
        InputError: a point, in the question or beside it, is not a place.
    """
    if point is not None:
        check_point(point)
    asked = parse(question)
    if asked is None:
        return Answer(question, _not_understood(findings), is_known=False)
    if graphs is None or load is None:
        from ..anatomy.terms import GRAPHS, load_graph

        graphs, load = graphs or GRAPHS, load or load_graph
    case = AnsweringCase(_with_volumes_of_the_run(findings, results), tuple(results), segmentation, load)
    if asked.kind is Kind.HERE:
        sentences, known = _here(case, asked.point or point, None if asked.point else region)
    elif asked.kind is Kind.UNSURE:
        sentences, known = answering.doubts(case)
    elif not asked.name:
        sentences, known = comparing.of_all(case, range(len(case.findings)))
    else:
        sentences, known = _Named(case, Names(findings, graphs, load)).answer(asked)
    return Answer(question, sentences, known)


def examples(findings: Sequence[StructureFindings]) -> tuple[str, ...]:
    """Questions that are understood, about structures that there are."""
    name = findings[0].name if findings else "liver"
    return (
        "What is here?",
        f"Is the {name} present?",
        f"Where is the {name}?",
        f"How large is the {name}?",
        f"Compare the {name} with the reference",
        "Compare all with the reference",
        "Which structures are uncertain?",
    )


def _with_volumes_of_the_run(findings: Sequence[StructureFindings], results: Sequence[StructureResult]) -> tuple[StructureFindings, ...]:
    """Where nothing was compared with the reference itself, its volumes as the run has noted them."""
    if any(measurement.comparison.reference is not None for found in findings for measurement in found.measurements):
        return tuple(findings)
    out = []
    for found, result in zip(findings, results, strict=True):
        known = result.reference_volume_ml if result.reference_volume_ml > 0 else None
        measurements = tuple(
            replace(one, comparison=replace(one.comparison, reference=known)) if one.quantity is Quantity.VOLUME else one
            for one in found.measurements
        )
        out.append(replace(found, measurements=measurements))
    return tuple(out)


def _not_understood(findings: Sequence[StructureFindings]) -> tuple[Sentence, ...]:
    known = " ".join(f"“{example}”" for example in examples(findings))
    text = f"I did not understand the question. I can answer questions like these: {known}"
    return (limit(text),)


def _here(case: AnsweringCase, point: Point | None, region: np.ndarray | None) -> Said:
    if region is not None:
        return answering.in_region(case, region)
    if point is not None:
        return answering.at_point(case, point)
    text = "I can't tell where “here” is: no point and no region is marked."
    return (limit(text),), False


class _Named:
    """Answers questions about structures by name."""

    def __init__(self, case: AnsweringCase, names: Names) -> None:
        self._case, self._names = case, names

    def answer(self, asked: Question) -> Said:
        if asked.other:
            return self._two(asked)
        return joined(self._about(asked.kind, meant, text) for text, meant in self._understood(asked.name))

    def _understood(self, text: str) -> list[tuple[str, Meant | NotMeant]]:
        """What a name means; several names in a row are told apart where the whole is none."""
        meant = self._names.understand(text)
        pieces = [piece.strip() for piece in re.split(r",| and ", text) if piece.strip()]
        if isinstance(meant, Meant) or len(pieces) == 1:
            return [(text, meant)]
        return [(piece, self._names.understand(piece)) for piece in pieces]

    def _two(self, asked: Question) -> Said:
        other = _OTHER_SIDE.sub(lambda side: f"{side[1]} {_without_side(asked.name)}", asked.other)
        meanings = [(text, self._names.understand(text)) for text in (asked.name, other)]
        for text, meant in meanings:
            if isinstance(meant, NotMeant) or not meant.members:
                return self._about(asked.kind, meant, text)
            if len(meant.members) > 1:
                names = _names(self._case, meant.members)
                return (limit(f"I can't tell which one “{text}” is: there are {listed(names)}."),), False
        first, second = (meant for _, meant in meanings if isinstance(meant, Meant))
        if first.members == second.members:
            return (limit(f"“{asked.name}” and “{other}” are the same structure."),), False
        sentences, known = comparing.of_two(self._case, first.members[0], second.members[0])
        return (*self._taken(first, asked.name), *self._taken(second, other), *sentences), known

    def _about(self, kind: Kind, meant: Meant | NotMeant, text: str) -> Said:
        if isinstance(meant, NotMeant):
            return self._unknown(meant, text), False
        if not meant.members:
            return self._not_segmented(meant), False
        sentences, known = self._of_members(kind, meant)
        return (*self._taken(meant, text), *sentences), known

    def _of_members(self, kind: Kind, meant: Meant) -> Said:
        case = self._case
        if meant.sides:
            return joined(self._of_members(kind, side) for side in meant.sides)
        if meant.whole and len(meant.members) == 1:
            # A ventricle of which only the cavity was segmented: the sum of one is no sum.
            part = case.findings[meant.members[0]].name
            sentences, known = self._of_members(kind, replace(meant, whole=False))
            return (limit(f"Of {meant.name}, only {part} was looked for."), *sentences), known
        if meant.whole or len(meant.members) > _ONE_BY_ONE:
            return self._of_whole(kind, meant)
        one = {
            Kind.PRESENT: answering.presence,
            Kind.WHERE: answering.place,
            Kind.SIZE: answering.size,
            Kind.COMPARE: comparing.of_one,
        }[kind]
        return joined(one(case, number) for number in meant.members)

    def _of_whole(self, kind: Kind, meant: Meant) -> Said:
        """A lobe of which gyri were segmented: its parts that were found, together."""
        case, name = self._case, meant.name
        if kind is Kind.COMPARE:
            return comparing.of_all(case, meant.members, name)
        there = [number for number in meant.members if case.is_there(number)]
        if not there:
            names = _names(case, meant.members)
            text = f"I can't tell: none of the {len(names)} structures of {name} that were looked for was found."
            return (Sentence(text, SentenceKind.STATUS, names),), False
        found = [case.findings[number] for number in there]
        names, sure = tuple(one.name for one in found), confidence_of(found)
        counted = f"{len(there)} of the {len(meant.members)}" if len(there) < len(meant.members) else f"All {len(there)}"
        counted += f" structures of {name} that were looked for were found"
        if kind is Kind.PRESENT:
            return (Sentence(f"{counted}: {answering.cut_list(names)}.", SentenceKind.STATUS, names, confidence=sure),), True
        voxels = union(case.segmentation, [case.results[number].structure for number in there])
        if kind is Kind.SIZE:
            volumes = [volume for one in found if (volume := one.measured(Quantity.VOLUME)) is not None]
            least = "at least " if any(volume.is_cut for volume in volumes) else ""
            together = float(voxels.sum() * np.prod(case.segmentation.labelmap.GetSpacing()) / 1000)
            text = f"{counted}; together they have {least}{amount(together, 'mL')}."
            # Not the sum: where structures overlap, their voxels count once.
            whole = Measurement(Quantity.VOLUME, together, "mL", names, is_cut=bool(least))
            return (Sentence(text, SentenceKind.MEASURED, names, (whole, *volumes), confidence=sure),), True
        middle = answering.centre_of(names, centre(case.segmentation.labelmap, voxels))
        if not middle:
            return (limit(f"I can't tell where {name} is: its structures have no voxels."),), False
        text = f"{counted}; the middle of all of them lies at {answering.written(middle)}."
        return (Sentence(text, SentenceKind.MEASURED, names, middle, confidence=sure),), True

    def _taken(self, meant: Meant, text: str) -> tuple[Sentence, ...]:
        return (limit(f"I took “{text}” for {meant.taken_for}."),) if meant.taken_for else ()

    def _not_segmented(self, meant: Meant) -> tuple[Sentence, ...]:
        graph = "" if meant.graph is None else f" ({meant.graph.title})"
        text = f"I can't tell: {meant.name}{graph} is none of the {len(self._case.findings)} structures that were looked for."
        return (limit(text),)

    def _unknown(self, meant: NotMeant, text: str) -> tuple[Sentence, ...]:
        said = f"I can't tell: I know no structure called “{text}”."
        if meant.suggestions:
            said += f" Did you mean {' or '.join(meant.suggestions)}?"
        return (limit(said),)


def _without_side(name: str) -> str:
    return re.sub(r"\b(?:left|right)\b ?", "", name, flags=re.IGNORECASE).strip()


def _names(case: AnsweringCase, numbers: Sequence[int]) -> tuple[str, ...]:
    return tuple(case.findings[number].name for number in numbers)
