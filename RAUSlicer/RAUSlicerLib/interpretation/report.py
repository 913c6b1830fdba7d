"""Writes the grounded report: what was found and measured, in sentences that carry their evidence."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from ..anatomy.graph import AnatomyGraph
from ..results import Status
from .evidence import Quantity, Report, Section, Sentence, SentenceKind, StructureFindings
from .outline import MOST_IN_TABLE, MOST_TOGETHER, Chapter, chapters, nested
from .wording import (
    asymmetry_sentence,
    confidence_of,
    extent_sentence,
    furthest_sentences,
    intensity_sentence,
    listed,
    position_sentence,
    status_sentence,
    together_sentence,
    volume_sentence,
    warning_sentences,
)

OVERVIEW = "Overview"
LIMITS = "Limits"

_LONG_REPORT = 24
"""From this number of structures on, every section is a summary and the structures' own sentences are details."""
_MOST_NAMED = 15


def write_report(
    findings: Sequence[StructureFindings],
    source: Mapping[str, str],
    graphs: Mapping[str, AnatomyGraph] | None = None,
) -> Report:
    """Write a report whose every sentence names what it rests on.

    Args:
        findings: What was measured, one for each structure that was looked for; names are distinct.
        source: What the findings come from (model, reference, library), by heading. Never the patient.
        graphs: Anatomy graphs by name; those that come with RAUSlicer if left out.
    """
    graphs = _graphs_of(findings) if graphs is None else graphs
    is_long = len(findings) >= _LONG_REPORT
    parts = chapters(findings, graphs, MOST_IN_TABLE if is_long else MOST_TOGETHER)
    ordered = tuple(found for chapter in parts for found in chapter.findings)
    pairs = _asymmetries(ordered)
    sections = []
    for chapter in parts:
        details = tuple(sentence for found in chapter.findings for sentence in (*_about(found), *pairs.get(found.name, ())))
        if is_long or len(chapter.findings) > MOST_TOGETHER:
            graph = graphs.get(chapter.findings[0].graph or "")
            sections.append(Section(chapter.title, _summary(chapter, graph, alone=len(parts) == 1), chapter.node, details))
        else:
            sections.append(Section(chapter.title, details, chapter.node))
    return Report((_overview(ordered), *sections, _limits(ordered)), dict(source), ordered)


def _graphs_of(findings: Sequence[StructureFindings]) -> dict[str, AnatomyGraph]:
    from ..anatomy.terms import load_graph

    return {name: load_graph(name) for name in dict.fromkeys(found.graph for found in findings) if name is not None}


def _about(found: StructureFindings) -> list[Sentence]:
    """All sentences on one structure alone."""
    status = status_sentence(found)
    if found.status is Status.NOT_FOUND:
        return [] if status is None else [status]
    sentences = (
        status,
        *warning_sentences(found),
        volume_sentence(found),
        extent_sentence(found),
        intensity_sentence(found),
        position_sentence(found),
    )
    return [sentence for sentence in sentences if sentence is not None]


def _asymmetries(findings: Sequence[StructureFindings]) -> dict[str, list[Sentence]]:
    """The sentence on each pair, by the name of the structure after which it stands: when both have been described."""
    by_name = {found.name: found for found in findings}
    out: dict[str, list[Sentence]] = {}
    done: set[frozenset[str]] = set()
    for found in findings:
        asymmetry = found.measured(Quantity.ASYMMETRY)
        if asymmetry is None or len(asymmetry.structures) != 2 or not by_name.keys() >= set(asymmetry.structures):
            continue
        if (pair := frozenset(asymmetry.structures)) in done:
            continue
        done.add(pair)
        left, right = (by_name[name] for name in asymmetry.structures)
        sentence = asymmetry_sentence(asymmetry, left, right)
        if sentence is not None:
            last = max(asymmetry.structures, key=list(by_name).index)
            out.setdefault(last, []).append(sentence)
    return out


def _overview(findings: Sequence[StructureFindings]) -> Section:
    of_status = {status: [found for found in findings if found.status is status] for status in Status}
    if all(math.isnan(found.confidence) for found in findings):
        # Nobody said what was looked for: these are what the segmentation holds.
        sentences = [_counted(findings, "is in the segmentation.", "are in the segmentation.")]
    elif all(found.status is Status.FOUND for found in findings):
        sentences = [_counted(findings, "was looked for and found.", "were looked for, and all of them were found.")]
    else:
        sentences = [_counted(findings, "was looked for.", "were looked for.")]
        if of_status[Status.FOUND]:
            sentences.append(_counted(of_status[Status.FOUND], "was found.", "were found."))
    sentences += _states(findings)
    unknown = [found for found in findings if math.isnan(found.confidence) and found.status is not Status.NOT_FOUND]
    if unknown:
        which = "All" if len(unknown) == len(findings) > 1 else ""
        words = "no known confidence: what drew them did not say how sure it was."
        sentences.append(_counted(unknown, f"has {words}", f"have {words}", which=which, kind=SentenceKind.LIMIT))
    return Section(OVERVIEW, tuple(sentence for sentence in sentences if sentence is not None))


def _states(findings: Sequence[StructureFindings]) -> list[Sentence]:
    """Sentences on those that are uncertain, missing, cut or implausible."""
    there = [found for found in findings if found.status is not Status.NOT_FOUND]
    groups = (
        (
            [found for found in findings if found.status is Status.LOW_CONFIDENCE],
            "found with low confidence, so that the numbers may be wrong",
        ),
        ([found for found in findings if found.status is Status.NOT_FOUND], "not found, which does not mean absent"),
        ([found for found in there if _is_cut(found)], "cut by the border of the image, so that size and extent are lower bounds"),
        ([found for found in there if found.warnings], "noted for a place or size that is not plausible"),
    )
    out = []
    for group, words in groups:
        if group:
            several = len(group) == len(findings) > 1
            ending = "." if several else ""
            out.append(_counted(group, f"was {words}", f"were {words}{ending}", not several, "All" if several else ""))
    return out


def _counted(
    findings: Sequence[StructureFindings],
    one: str,
    several: str,
    by_name: bool = False,
    which: str = "",
    kind: SentenceKind = SentenceKind.STATUS,
) -> Sentence:
    names = tuple(found.name for found in findings)
    count = f"{which} {len(names)}".strip()
    text = f"{count} structure {one}" if len(names) == 1 else f"{count} structures {several}"
    if by_name:
        more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
        text += f": {', '.join(names[:_MOST_NAMED]) + more if more else listed(names)}."
    return Sentence(text, kind, names, confidence=confidence_of(findings))


def _summary(chapter: Chapter, graph: AnatomyGraph | None, alone: bool) -> tuple[Sentence, ...]:
    """What a section says of all its structures; ``alone`` says that it is the only one, so that the overview has said half of it."""
    there = [found for found in chapter.findings if found.status is not Status.NOT_FOUND]
    sentences: list[Sentence] = []
    measured = [found for found in there if found.measured(Quantity.VOLUME) is not None]
    if len(measured) > 1 and not nested(replace(chapter, findings=tuple(measured)), graph):
        sentences.append(together_sentence(chapter.title, measured))
    sentences += furthest_sentences([found for found in measured if found.status is Status.FOUND and not _is_cut(found)])
    if not alone:
        sentences += _states(chapter.findings)
    return tuple(sentences)


def _is_cut(found: StructureFindings) -> bool:
    return any(measurement.is_cut for measurement in found.measurements)


def _limits(findings: Sequence[StructureFindings]) -> Section:
    measurements = [measurement for found in findings for measurement in found.measurements]
    texts = [
        "A program drew what is described here. It is for research use only and no diagnosis; RAUSlicer is not a medical device.",
        "Every structure is a draft until somebody has checked its outline; a wrong outline makes wrong numbers.",
        "What the reference does not annotate was not looked for, and nothing is said of it.",
    ]
    if any(measurement.comparison.reference is not None for measurement in measurements):
        texts.append("The reference case is one person: to be larger or smaller than there says nothing about what is usual or healthy.")
    if any(measurement.comparison.n for measurement in measurements):
        texts.append("The library holds the cases that somebody put into it; it is no normal range for this person's age, sex and size.")
    if any(m.quantity is Quantity.MEAN_INTENSITY and m.unit == "1" for m in measurements):
        texts.append("Intensities without a unit are this image's own; those of other images can't be set beside them.")
    return Section(LIMITS, tuple(Sentence(text, SentenceKind.LIMIT) for text in texts))
