"""How a report's sentences and numbers are laid out, whatever the format."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby

from ...results import Status
from ..evidence import Measurement, Quantity, Report, Section, Sentence, SentenceKind, StructureFindings
from ..wording import body, number, sign_of

TITLE = "Report on a segmentation"
DETAILS = "Details"


@dataclass(frozen=True)
class Paragraph:
    """Sentences that stand together. ``structure`` is the name that leads them, None where they are about several."""

    structure: str | None
    sentences: tuple[Sentence, ...]


@dataclass(frozen=True)
class Table:
    """Structures in rows; the first column holds their names."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def paragraphs(sentences: Sequence[Sentence]) -> tuple[Paragraph, ...]:
    """Neighbouring sentences about one structure as one paragraph led by its name; every other sentence on its own."""
    out = []
    for names, group in groupby(sentences, key=lambda sentence: sentence.structures):
        together = tuple(group)
        if len(names) == 1 and any(body(sentence) != sentence.text for sentence in together):
            out.append(Paragraph(names[0], together))
        else:
            out += [Paragraph(None, (sentence,)) for sentence in together]
    return tuple(out)


def state(found: StructureFindings) -> str:
    """A structure's status and confidence in a few words."""
    if found.status is Status.NOT_FOUND:
        return str(found.status)
    known = "unknown confidence" if math.isnan(found.confidence) else f"confidence {found.confidence:.2f}"
    return f"{found.status}, {known}" if found.status is Status.FOUND else f"{found.status} {known.removeprefix('confidence ')}"


def sureness(sentence: Sentence) -> str:
    """The confidence of a measured or scored sentence about several structures, in words; empty for others."""
    if len(sentence.structures) < 2 or sentence.kind not in (SentenceKind.MEASURED, SentenceKind.SCORED):
        return ""
    return "Confidence unknown." if sentence.confidence is None else f"Lowest confidence: {sentence.confidence:.2f}."


def evidence(sentence: Sentence) -> str:
    """All that a sentence rests on in one line, with more digits than the sentence shows."""
    parts = [f"{m.quantity} {m.value:.6g} {sign_of(m.unit)}".strip() + f" ({_some(m.structures)})" for m in sentence.measurements]
    parts += [f"score {score.value:.3f} for {score.phrase} in {score.region}" for score in sentence.scores]
    if not parts and sentence.structures:
        parts.append(_some(sentence.structures))
    if sentence.confidence is not None:
        parts.append(f"confidence {sentence.confidence:.3f}")
    return "; ".join(parts)


def table(section: Section, report: Report) -> Table | None:
    """The structures of a section's details with their volumes, what these are compared with, and confidence; None without details.

    Columns that would be empty are left out.
    """
    names = {name for sentence in section.details for name in sentence.structures}
    # A pair's sentence names a structure that another section may describe.
    described = [found for found in report.findings if found.name in names and _is_described(found.name, section)]
    if not described:
        return None
    columns = {
        "Structure": [found.name for found in described],
        "Volume (mL)": [_volume(found) for found in described],
        "Reference (mL)": [_of_volume(found, _shown_reference) for found in described],
        "Difference": [_of_volume(found, _shown_difference) for found in described],
        "z (cases)": [_of_volume(found, _shown_z_score) for found in described],
        "Confidence": [_confidence(found) for found in described],
    }
    kept = [heading for heading, cells in columns.items() if any(cells)]
    return Table(tuple(kept), tuple(zip(*(columns[heading] for heading in kept), strict=True)))


def overview_table(report: Report) -> Table | None:
    """The summarised sections of a long report with their sums; None where fewer than two are summarised."""
    rows = []
    for section in report.sections:
        own = [found for found in report.findings if _is_described(found.name, section)]
        if not section.details or not own:
            continue
        total = next(
            (m for s in section.sentences for m in s.measurements if len(m.structures) > 1 and m.quantity is Quantity.VOLUME), None
        )
        counts = [sum(found.status is status for found in own) for status in Status]
        numbers = ("", "", "") if total is None else (_shown(total), _shown_reference(total), _shown_difference(total))
        rows.append((section.title, *(str(count or "") for count in counts), *numbers))
    if len(rows) < 2:
        return None
    header = ("Section", "Found", "Uncertain", "Not found", "Volume (mL)", "Reference (mL)", "Difference")
    kept = [index for index in range(len(header)) if any(row[index] for row in rows)]
    return Table(tuple(header[index] for index in kept), tuple(tuple(row[index] for index in kept) for row in rows))


def _is_described(name: str, section: Section) -> bool:
    return any(sentence.structures == (name,) for sentence in section.details)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) <= 3 else f"{len(names)} structures"


def _volume(found: StructureFindings) -> str:
    return str(found.status) if found.status is Status.NOT_FOUND else _of_volume(found, _shown)


def _of_volume(found: StructureFindings, shown: Callable[[Measurement], str]) -> str:
    volume = found.measured(Quantity.VOLUME)
    return "" if volume is None else shown(volume)


def _shown(volume: Measurement) -> str:
    return f"{'≥ ' * volume.is_cut}{number(volume.value, volume.unit)}"


def _shown_reference(volume: Measurement) -> str:
    return "" if volume.comparison.reference is None else number(volume.comparison.reference, volume.unit)


def _shown_difference(volume: Measurement) -> str:
    if volume.is_cut or not volume.comparison.reference:
        return ""
    percent = 100 * (volume.value / volume.comparison.reference - 1)
    return f"{'+' * (percent > 0)}{number(percent, '%')} %"


def _shown_z_score(volume: Measurement) -> str:
    if volume.is_cut or volume.comparison.z_score is None:
        return ""
    return f"{volume.comparison.z_score:+.1f} ({volume.comparison.n})".replace("-", "−")


def _confidence(found: StructureFindings) -> str:
    if found.status is Status.NOT_FOUND or math.isnan(found.confidence):
        return ""
    return f"{found.confidence:.2f}{' (low)' * (found.status is Status.LOW_CONFIDENCE)}"
