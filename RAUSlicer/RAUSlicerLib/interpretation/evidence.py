"""What is said of a target and what it rests on: measurements, scores, sentences, answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from ..results import Status


class Quantity(StrEnum):
    """What can be measured of a structure."""

    VOLUME = "volume"
    EXTENT_RIGHT_LEFT = "extent right to left"
    EXTENT_ANTERIOR_POSTERIOR = "extent front to back"
    EXTENT_SUPERIOR_INFERIOR = "extent top to bottom"
    MEAN_INTENSITY = "mean intensity"
    INTENSITY_SPREAD = "standard deviation of the intensity"
    ASYMMETRY = "asymmetry of left and right"
    POSITION = "distance from its place in the reference"
    CENTRE_LEFT = "middle, towards the left"
    CENTRE_POSTERIOR = "middle, towards the back"
    CENTRE_SUPERIOR = "middle, towards the top"
    DISTANCE = "distance from the point asked about"
    SHARE = "share of the marked region"


CENTRE = (Quantity.CENTRE_LEFT, Quantity.CENTRE_POSTERIOR, Quantity.CENTRE_SUPERIOR)
"""The coordinates of a structure's centre of gravity in patient space (LPS, mm)."""


@dataclass(frozen=True)
class Comparison:
    """A measured value beside others of the same quantity: the reference's, or a library's of ``n`` cases with ``mean`` and ``spread``."""

    reference: float | None = None
    mean: float | None = None
    spread: float | None = None
    z_score: float | None = None
    n: int = 0


@dataclass(frozen=True)
class Measurement:
    """A measured quantity with its unit (UCUM, e.g. ``mL``, ``mm``, ``[hnsf'U]``, ``1``, ``%``).

    ``structures`` are the names (as in ``Transfer.names``) of the segments that it was measured on. ``is_cut`` says that a structure
    touches the border of the volume, so that more of it may lie outside and the value is a lower bound.
    """

    quantity: Quantity
    value: float
    unit: str
    structures: tuple[str, ...]
    comparison: Comparison = Comparison()
    is_cut: bool = False


@dataclass(frozen=True)
class StructureFindings:
    """All that was measured of one segment. ``node`` is its id in the graph of that name, None where it is attached to none.

    ``confidence`` is 0 to 1, NaN where it is not known.
    ``warnings`` are sentences about plausibility, e.g. that it lies outside of the structure that should hold it.
    """

    name: str
    status: Status
    confidence: float
    measurements: tuple[Measurement, ...] = ()
    graph: str | None = None
    node: str | None = None
    warnings: tuple[str, ...] = ()

    def measured(self, quantity: Quantity) -> Measurement | None:
        """The measurement of a quantity, None where it was not taken."""
        return next((m for m in self.measurements if m.quantity == quantity), None)


@dataclass(frozen=True)
class Score:
    """How well a phrase fits a region, by the region model: ``value`` is a probability-like number in 0 to 1, no diagnosis."""

    phrase: str
    value: float
    region: str


class SentenceKind(StrEnum):
    """What a sentence rests on."""

    MEASURED = "measured"
    SCORED = "scored"
    STATUS = "status"
    """It says how sure the segmentation is, that a structure was not found, or that something is not plausible."""
    LIMIT = "limit"
    """It says what the report can't tell."""


@dataclass(frozen=True)
class Sentence:
    """One sentence of a report or an answer with all its evidence.

    ``confidence`` is that of the least sure segment it rests on, None where that of one is not known or where it rests on none.
    """

    text: str
    kind: SentenceKind
    structures: tuple[str, ...] = ()
    measurements: tuple[Measurement, ...] = ()
    scores: tuple[Score, ...] = ()
    confidence: float | None = None


@dataclass(frozen=True)
class Section:
    """Sentences under one node of the graph; ``title`` is the node's name.

    ``details`` are sentences of single structures that a long report keeps for its end, where ``sentences`` are a summary.
    """

    title: str
    sentences: tuple[Sentence, ...]
    node: str | None = None
    details: tuple[Sentence, ...] = ()


@dataclass(frozen=True)
class Report:
    """A grounded report: sections in the graph's order. ``source`` says what it was made from (model, localizer, reference), no patient.

    ``findings`` are what it was written from, in the order in which its sections treat them.
    """

    sections: tuple[Section, ...]
    source: Mapping[str, str] = field(default_factory=dict)
    findings: tuple[StructureFindings, ...] = ()

    @property
    def sentences(self) -> tuple[Sentence, ...]:
        return tuple(sentence for section in self.sections for sentence in (*section.sentences, *section.details))

    def about(self, name: str) -> tuple[Sentence, ...]:
        """The sentences that rest on a segment."""
        return tuple(sentence for sentence in self.sentences if name in sentence.structures)


@dataclass(frozen=True)
class Answer:
    """An answer to a question. ``is_known`` is False where the honest answer is that it can't be told; the sentences then say why."""

    question: str
    sentences: tuple[Sentence, ...]
    is_known: bool = True

    @property
    def text(self) -> str:
        return " ".join(sentence.text for sentence in self.sentences)
