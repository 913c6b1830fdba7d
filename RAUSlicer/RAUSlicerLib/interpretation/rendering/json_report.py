"""A report as JSON and back: a schema with a version, every sentence with its evidence."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from ... import NOTICE, __version__
from ...errors import InputError
from ...results import Status
from ..evidence import Comparison, Measurement, Quantity, Report, Score, Section, Sentence, SentenceKind, StructureFindings

SCHEMA = "rauslicer-report"
VERSION = 1


def render(report: Report) -> str:
    """The report as JSON text; see ``to_values``."""
    return json.dumps(to_values(report), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def to_values(report: Report) -> dict[str, Any]:
    """The report as plain values. Units are UCUM; an unknown confidence is None."""
    return {
        "schema": SCHEMA,
        "version": VERSION,
        "rauslicer": __version__,
        "notice": NOTICE,
        "source": dict(report.source),
        "sections": [asdict(section) for section in report.sections],
        "findings": [_findings_values(found) for found in report.findings],
    }


def from_values(values: Mapping[str, Any]) -> Report:
    """The report that ``to_values`` made the values of.

    Raises:
        InputError: they are no report, or one of a later schema.
    """
    if not isinstance(values, Mapping) or values.get("schema") != SCHEMA:
        raise _refused(f"Its schema is not {SCHEMA}.")
    if values.get("version") != VERSION:
        raise _refused(f"Its schema has the version {values.get('version')}, this RAUSlicer reads {VERSION}.")
    try:
        sections = tuple(
            Section(
                str(section["title"]),
                tuple(sentence_of(sentence) for sentence in section["sentences"]),
                section["node"],
                tuple(sentence_of(sentence) for sentence in section["details"]),
            )
            for section in values["sections"]
        )
        source = {str(heading): str(text) for heading, text in values["source"].items()}
        return Report(sections, source, tuple(_findings_of(found) for found in values["findings"]))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _refused("A part of it is missing or of the wrong kind.") from error


def sentence_values(sentence: Sentence) -> dict[str, Any]:
    """A sentence with its evidence as plain values."""
    return asdict(sentence)


def sentence_of(values: Mapping[str, Any]) -> Sentence:
    """The sentence that ``sentence_values`` made the values of."""
    return Sentence(
        str(values["text"]),
        SentenceKind(values["kind"]),
        tuple(values["structures"]),
        tuple(_measurement_of(measurement) for measurement in values["measurements"]),
        tuple(Score(**score) for score in values["scores"]),
        values["confidence"],
    )


def _findings_values(found: StructureFindings) -> dict[str, Any]:
    return {**asdict(found), "confidence": None if math.isnan(found.confidence) else found.confidence}


def _findings_of(values: Mapping[str, Any]) -> StructureFindings:
    confidence = values["confidence"]
    return StructureFindings(
        str(values["name"]),
        Status(values["status"]),
        math.nan if confidence is None else float(confidence),
        tuple(_measurement_of(measurement) for measurement in values["measurements"]),
        values["graph"],
        values["node"],
        tuple(values["warnings"]),
    )


def _measurement_of(values: Mapping[str, Any]) -> Measurement:
    return Measurement(
        Quantity(values["quantity"]),
        float(values["value"]),
        str(values["unit"]),
        tuple(values["structures"]),
        Comparison(**values["comparison"]),
        bool(values["is_cut"]),
    )


def _refused(explanation: str) -> InputError:
    return InputError("The report can't be read.", explanation, "Write it again with rauslicer report.")
