"""Translates between Slicer's serialized terminology entries and DICOM's coded concepts."""

from __future__ import annotations

from dataclasses import dataclass

from pydicom.sr.coding import Code

TISSUE = Code("85756007", "SCT", "Tissue")

_CATEGORY_CONTEXT = "Segmentation category and type - 3D Slicer General Anatomy list"
_REGION_CONTEXT = "Anatomic codes - DICOM master list"


@dataclass(frozen=True)
class Terminology:
    """What a segment is, in codes; ``modifier`` and ``region_modifier`` are mostly a side (left, right)."""

    category: Code
    type: Code
    modifier: Code | None = None
    region: Code | None = None
    region_modifier: Code | None = None


UNCLASSIFIED = Terminology(TISSUE, TISSUE)


def parse_terminology(entry: str | None) -> Terminology:
    """The codes in a serialized entry; ``UNCLASSIFIED`` where there is none or it lacks a category or type.

    The form is context~category~type~modifier~region context~region~region modifier, each code as scheme^value^meaning.

    >>> parse_terminology("c~SCT^123037004^Anatomical Structure~SCT^10200004^Liver~^^~r~^^~^^").type.meaning
    'Liver'
    """
    fields = (entry or "").split("~")
    codes = [_parse_code(fields[index]) if index < len(fields) else None for index in (1, 2, 3, 5, 6)]
    category, type_, modifier, region, region_modifier = codes
    if category is None or type_ is None:
        return UNCLASSIFIED
    return Terminology(category, type_, modifier, region, region_modifier)


def serialize_terminology(terminology: Terminology) -> str | None:
    """The serialized entry of codes; None for ``UNCLASSIFIED``, Slicer's stand-in for knowing nothing."""
    if terminology == UNCLASSIFIED:
        return None
    return "~".join(
        (
            _CATEGORY_CONTEXT,
            _serialize_code(terminology.category),
            _serialize_code(terminology.type),
            _serialize_code(terminology.modifier),
            _REGION_CONTEXT,
            _serialize_code(terminology.region),
            _serialize_code(terminology.region_modifier),
        )
    )


def _parse_code(text: str) -> Code | None:
    scheme, _, rest = text.partition("^")
    value, _, meaning = rest.partition("^")
    return Code(value, scheme, meaning or value) if scheme and value else None


def _serialize_code(code: Code | None) -> str:
    return "^^" if code is None else f"{code.scheme_designator}^{code.value}^{code.meaning}"
