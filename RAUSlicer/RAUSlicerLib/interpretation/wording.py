"""Words and numbers: what a measured quantity, its comparisons and a structure's state are called. Observations, never diagnoses."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ..results import Status
from ..support.decimals import enough_decimals
from .evidence import Comparison, Measurement, Quantity, Sentence, SentenceKind, StructureFindings

SAME = 0.02
"""Values that differ by less than this share of the reference's are called about the same."""
MANY_TIMES = 2.0
"""From this ratio on, a percentage reads badly and the ratio is given."""
FAR_Z = 2.0
FAR_RATIO = 1.25
"""From this z-score or ratio of volumes on, a summary mentions a structure as differing."""

AXES = {
    Quantity.EXTENT_RIGHT_LEFT: "from right to left",
    Quantity.EXTENT_ANTERIOR_POSTERIOR: "from front to back",
    Quantity.EXTENT_SUPERIOR_INFERIOR: "from top to bottom",
}

_UNIT_SIGNS = {"[hnsf'U]": "HU", "1": ""}
# As many decimals as the numbers deserve: a voxel more or less must not change the display of a large structure.
_DECIMALS = {"mm": ((10, 0), (0.1, 1)), "%": ((10, 0), (0, 1)), "[hnsf'U]": ((0, 0),)}
_MOST_FURTHEST = 3
_DEFAULT_DECIMALS = ((100, 0), (10, 1), (0.01, 2), (0.001, 4))


def number(value: float, unit: str = "") -> str:
    """A value with as many decimals as its unit and size deserve; a negative one with a true minus sign.

    >>> number(1234.5, "mL"), number(3.519, "mL"), number(-12.4, "[hnsf'U]"), number(0.0000417, "mL")
    ('1234', '3.52', '−12', '0.000042')
    """
    sizes = _DECIMALS.get(unit, _DEFAULT_DECIMALS)
    decimals = next((count for least, count in sizes if abs(value) >= least), None)
    if decimals is None:
        decimals = enough_decimals(value, sizes[-1][1])
    text = f"{value:.{decimals}f}"
    if float(text) == 0:
        text = text.lstrip("-")
    return text.replace("-", "−")


def sign_of(unit: str) -> str:
    """What a UCUM unit is written as for people; empty for a pure number."""
    return _UNIT_SIGNS.get(unit, unit)


def amount(value: float, unit: str) -> str:
    """A value with its unit, as people read it."""
    return f"{number(value, unit)} {sign_of(unit)}".strip()


def percentage(ratio: float) -> str:
    """How far a ratio is from one, in percent without a sign.

    >>> percentage(1.123), percentage(0.96)
    ('12 %', '4.0 %')
    """
    return amount(100 * abs(ratio - 1), "%")


def listed(names: Sequence[str]) -> str:
    """Names in a row.

    >>> listed(["a"]), listed(["a", "b", "c"])
    ('a', 'a, b and c')
    """
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + " and " + names[-1]


def confidence_of(findings: Sequence[StructureFindings]) -> float | None:
    """The confidence of the least sure; None where one is not known, or there is none."""
    values = [found.confidence for found in findings]
    return None if not values or any(math.isnan(value) for value in values) else min(values)


def compared(value: float, unit: str, comparison: Comparison) -> str:
    """The clauses that set a value beside the reference's and the library's, with a leading comma; empty without either."""
    clauses = []
    if comparison.reference is not None:
        clauses.append(_beside_reference(value, unit, comparison.reference))
    if comparison.n and comparison.mean is not None:
        clauses.append(_beside_library(unit, comparison))
    return f", {', and '.join(clauses)}" if clauses else ""


def volume_sentence(found: StructureFindings) -> Sentence | None:
    """How large a structure is, beside the reference and the library; None where it was not measured."""
    volume = found.measured(Quantity.VOLUME)
    if volume is None:
        return None
    if volume.is_cut:
        text = f"the volume is at least {amount(volume.value, volume.unit)}, because the border of the image cuts it"
        if volume.comparison.reference is not None:
            text += f"; in the reference case it is {amount(volume.comparison.reference, volume.unit)}"
    else:
        text = f"the volume is {amount(volume.value, volume.unit)}{compared(volume.value, volume.unit, volume.comparison)}"
    return _measured(found, text, volume)


def extent_sentence(found: StructureFindings) -> Sentence | None:
    """How far a structure reaches along the axes of the body; None where that was not measured."""
    extents = [extent for quantity in AXES if (extent := found.measured(quantity)) is not None]
    if not extents:
        return None
    parts = [f"{'at least ' * extent.is_cut}{amount(extent.value, extent.unit)} {AXES[extent.quantity]}" for extent in extents]
    return _measured(found, f"it extends {listed(parts)}", *extents)


def intensity_sentence(found: StructureFindings) -> Sentence | None:
    """How bright a structure is in the image; None where that was not measured.

    Only calibrated units are compared: the numbers of an MR image mean something within that image alone.
    """
    mean, spread = found.measured(Quantity.MEAN_INTENSITY), found.measured(Quantity.INTENSITY_SPREAD)
    if mean is None:
        return None
    text = f"the mean intensity is {amount(mean.value, mean.unit)}"
    if spread is not None:
        text += f" (standard deviation {amount(spread.value, spread.unit)})"
    comparison, clauses = mean.comparison, []
    if comparison.reference is not None and sign_of(mean.unit):
        clauses.append(f"in the reference case {amount(comparison.reference, mean.unit)}")
    if comparison.n and comparison.mean is not None and sign_of(mean.unit):
        clauses.append(_beside_library(mean.unit, comparison))
    text += f", {', and '.join(clauses)}" if clauses else ""
    return _measured(found, text, *([mean] if spread is None else [mean, spread]))


def position_sentence(found: StructureFindings) -> Sentence | None:
    """How far a structure's middle lies from where the reference would place it; None where that was not
    measured, or the border cuts it: its middle is not known then.
    """
    position = found.measured(Quantity.POSITION)
    if position is None:
        return None
    return _measured(
        found, f"its middle lies {amount(position.value, position.unit)} from where the reference case would place it", position
    )


def asymmetry_sentence(asymmetry: Measurement, left: StructureFindings, right: StructureFindings) -> Sentence | None:
    """How the volumes of a pair differ; None where one of them was not measured or is cut.

    ``asymmetry`` is positive where the left is larger, in percent of the mean of both.
    """
    volumes = (left.measured(Quantity.VOLUME), right.measured(Quantity.VOLUME))
    if volumes[0] is None or volumes[1] is None or any(volume.is_cut for volume in volumes if volume):
        return None
    first, second = amount(volumes[0].value, volumes[0].unit), amount(volumes[1].value, volumes[1].unit)
    if abs(asymmetry.value) < 100 * SAME:
        text = f"{left.name} ({first}) is about as large as {right.name} ({second}): they differ by "
    else:
        text = f"{left.name} ({first}) is {'larger' if asymmetry.value > 0 else 'smaller'} than {right.name} ({second}): they differ by "
    text += f"{amount(abs(asymmetry.value), asymmetry.unit)} of their mean"
    reference = asymmetry.comparison.reference
    if reference is not None:
        text += f", in the reference case by {amount(abs(reference), asymmetry.unit)}"
        if reference * asymmetry.value < 0 and max(abs(reference), abs(asymmetry.value)) >= 100 * SAME:
            text += " the other way round"
    measurements = (asymmetry, volumes[0], volumes[1])
    return Sentence(f"{text}.", SentenceKind.MEASURED, (left.name, right.name), measurements, confidence=confidence_of((left, right)))


def together_sentence(title: str, findings: Sequence[StructureFindings]) -> Sentence:
    """The sum of volumes of a section's structures that don't overlap, all of which were measured."""
    volumes = [volume for found in findings if (volume := found.measured(Quantity.VOLUME)) is not None]
    names = tuple(found.name for found in findings)
    references = [volume.comparison.reference for volume in volumes]
    is_cut = any(volume.is_cut for volume in volumes)
    comparison = Comparison() if None in references or is_cut else Comparison(sum(reference or 0.0 for reference in references))
    total = Measurement(Quantity.VOLUME, sum(volume.value for volume in volumes), volumes[0].unit, names, comparison, is_cut)
    size = f"{'at least ' * is_cut}{amount(total.value, total.unit)}{compared(total.value, total.unit, comparison)}"
    text = f"The {len(names)} structures of “{title}” together: the volume is {size}."
    return Sentence(text, SentenceKind.MEASURED, names, (total,), confidence=confidence_of(findings))


def furthest_sentences(findings: Sequence[StructureFindings]) -> list[Sentence]:
    """Which of several structures differ most in volume from the library and from the reference; none where they differ little."""
    volumes = [(found, volume) for found in findings if (volume := found.measured(Quantity.VOLUME)) is not None]
    by_library = [(abs(volume.comparison.z_score), found, volume) for found, volume in volumes if volume.comparison.z_score is not None]
    by_reference = [
        (abs(math.log(volume.value / reference)), found, volume)
        for found, volume in volumes
        if volume.value > 0 and (reference := volume.comparison.reference or 0.0) > 0
    ]
    out = []
    for ranked, least, whom in ((by_library, FAR_Z, "the library"), (by_reference, math.log(FAR_RATIO), "the reference case")):
        far = sorted((entry for entry in ranked if entry[0] >= least), key=lambda entry: -entry[0])[:_MOST_FURTHEST]
        if not far:
            continue
        parts = [f"{found.name} ({_far_from(volume, ranked is by_library)})" for _, found, volume in far]
        out.append(
            Sentence(
                f"Furthest from {whom} in volume: {listed(parts)}.",
                SentenceKind.MEASURED,
                tuple(found.name for _, found, _ in far),
                tuple(volume for *_, volume in far),
                confidence=confidence_of([found for _, found, _ in far]),
            )
        )
    return out


def status_sentence(found: StructureFindings) -> Sentence | None:
    """What is to be said of a structure that was not surely found; None of one that was."""
    if found.status is Status.FOUND:
        return None
    if found.status is Status.NOT_FOUND:
        text = "not found; it may be absent, lie outside of the image, or have been missed"
    else:
        text = "the outline is uncertain and may be wrong, and with it every number"
    return Sentence(f"{found.name}: {text}.", SentenceKind.STATUS, (found.name,), confidence=confidence_of((found,)))


def warning_sentences(found: StructureFindings) -> tuple[Sentence, ...]:
    """What is not plausible of a structure, each sentence with its name."""
    return tuple(
        Sentence(
            warning if found.name in warning else f"{found.name}: {warning[:1].lower()}{warning[1:]}",
            SentenceKind.STATUS,
            (found.name,),
            confidence=confidence_of((found,)),
        )
        for warning in found.warnings
    )


def body(sentence: Sentence) -> str:
    """A sentence's text for where its structure's name stands already: without the leading name, with a capital letter.

    >>> body(Sentence("Liver: the volume is 1500 mL.", SentenceKind.MEASURED, ("Liver",)))
    'The volume is 1500 mL.'
    """
    if len(sentence.structures) == 1 and sentence.text.startswith(lead := f"{sentence.structures[0]}: "):
        rest = sentence.text.removeprefix(lead)
        return rest[:1].upper() + rest[1:]
    return sentence.text


def _measured(found: StructureFindings, text: str, *measurements: Measurement) -> Sentence:
    return Sentence(
        f"{found.name}: {text}.", SentenceKind.MEASURED, (found.name,), measurements=measurements, confidence=confidence_of((found,))
    )


def _beside_reference(value: float, unit: str, reference: float) -> str:
    there = f"in the reference case ({amount(reference, unit)})"
    if reference <= 0:
        return there
    if abs(value / reference - 1) < SAME:
        return f"about as large as {there}"
    difference = _difference(value / reference)
    return f"{difference} {'as' if difference.endswith('large') else 'than'} {there}"


def _difference(ratio: float) -> str:
    if ratio >= MANY_TIMES:
        return f"{ratio:.1f} times as large"
    return f"{percentage(ratio)} {'larger' if ratio > 1 else 'smaller'}"


def _far_from(volume: Measurement, library: bool) -> str:
    if library:
        return _deviations(volume.comparison.z_score or 0.0)
    return _difference(volume.value / (volume.comparison.reference or 1.0))


def _beside_library(unit: str, comparison: Comparison) -> str:
    assert comparison.mean is not None
    if comparison.z_score is None or comparison.spread is None:
        return f"beside the library's mean of {amount(comparison.mean, unit)} (n = {comparison.n})"
    spread = f"{number(comparison.mean, unit)} ± {amount(comparison.spread, unit)}, n = {comparison.n}"
    return f"{_deviations(comparison.z_score)} the library's mean ({spread})"


def _deviations(z_score: float) -> str:
    if round(abs(z_score), 1) == 0:
        return "at"
    return f"{abs(z_score):.1f} standard deviations {'above' if z_score > 0 else 'below'}"
