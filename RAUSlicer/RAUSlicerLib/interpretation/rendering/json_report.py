"""A report as JSON and back: a schema with a version, every sentence with its evidence."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from ... import NOTICE, __version__
from ...errors import InputError
from ...results import Status
from ...support import strict_json
from ..evidence import Comparison, Measurement, Quantity, Report, Score, Section, Sentence, SentenceKind, StructureFindings

SCHEMA = "rauslicer-report"
VERSION = 1


def render(report: Report) -> str:
    """The report as JSON text; see ``to_values``."""
    return json.dumps(to_values(report), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def parse(text: str) -> Report:
    """The report in a JSON text.

    Raises:
        InputError: it is no JSON, no report, or one of a later schema.
    """
    try:
        values = strict_json.loads(text)
    except ValueError as error:
        raise _refused("It is no JSON.") from error
    return from_values(values)


def to_values(report: Report) -> dict[str, Any]:
    """The report as plain values. Units are UCUM; an unknown confidence is None."""
    return {
        "schema": SCHEMA,
        "version": VERSION,
        "rauslicer": __version__,
        "notice": NOTICE,
        "source": dict(report.source),
        "sections": [
            {
                "title": section.title,
                "node": section.node,
                "sentences": [sentence_values(sentence) for sentence in section.sentences],
                "details": [sentence_values(sentence) for sentence in section.details],
            }
            for section in report.sections
        ],
        "findings": [findings_values(found) for found in report.findings],
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
        return Report(sections, source, tuple(findings_of(found) for found in values["findings"]))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _refused("A part of it is missing or of the wrong kind.") from error


def sentence_values(sentence: Sentence) -> dict[str, Any]:
    """A sentence with its evidence as plain values."""
    return {
        "text": sentence.text,
        "kind": str(sentence.kind),
        "structures": list(sentence.structures),
        "measurements": [_measurement_values(measurement) for measurement in sentence.measurements],
        "scores": [{"phrase": score.phrase, "value": score.value, "region": score.region} for score in sentence.scores],
        "confidence": sentence.confidence,
    }


def sentence_of(values: Mapping[str, Any]) -> Sentence:
    """The sentence that ``sentence_values`` made the values of."""
    return Sentence(
        str(values["text"]),
        SentenceKind(values["kind"]),
        tuple(values["structures"]),
        tuple(_measurement_of(measurement) for measurement in values["measurements"]),
        tuple(Score(str(score["phrase"]), float(score["value"]), str(score["region"])) for score in values["scores"]),
        _number_or_none(values["confidence"]),
    )


def findings_values(found: StructureFindings) -> dict[str, Any]:
    """A structure's findings as plain values."""
    return {
        "name": found.name,
        "status": str(found.status),
        "confidence": None if math.isnan(found.confidence) else found.confidence,
        "graph": found.graph,
        "node": found.node,
        "warnings": list(found.warnings),
        "measurements": [_measurement_values(measurement) for measurement in found.measurements],
    }


def findings_of(values: Mapping[str, Any]) -> StructureFindings:
    """The findings that ``findings_values`` made the values of."""
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


def _measurement_values(measurement: Measurement) -> dict[str, Any]:
    comparison = measurement.comparison
    return {
        "quantity": str(measurement.quantity),
        "value": measurement.value,
        "unit": measurement.unit,
        "structures": list(measurement.structures),
        "is_cut": measurement.is_cut,
        "comparison": {
            "reference": comparison.reference,
            "mean": comparison.mean,
            "spread": comparison.spread,
            "z_score": comparison.z_score,
            "n": comparison.n,
        },
    }


def _measurement_of(values: Mapping[str, Any]) -> Measurement:
    beside = values["comparison"]
    reference, mean, spread, z_score = (_number_or_none(beside[key]) for key in ("reference", "mean", "spread", "z_score"))
    comparison = Comparison(reference, mean, spread, z_score, int(beside["n"]))
    return Measurement(
        Quantity(values["quantity"]),
        float(values["value"]),
        str(values["unit"]),
        tuple(values["structures"]),
        comparison,
        bool(values["is_cut"]),
    )


def _number_or_none(value: Any) -> float | None:
    return None if value is None else float(value)


def _refused(explanation: str) -> InputError:
    return InputError("The report can't be read.", explanation, "Write it again with rauslicer report.")
