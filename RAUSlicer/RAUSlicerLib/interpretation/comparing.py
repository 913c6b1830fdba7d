"""The sentences that compare structures: with the reference's, with a library's, and with each other."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from .answering import LARGE, SMALL, AnsweringCase, Said, limit, measured, not_found, status, those
from .evidence import Measurement, Quantity, Sentence, SentenceKind, StructureFindings
from .wording import (
    amount,
    asymmetry_sentence,
    confidence_of,
    intensity_sentence,
    listed,
    number,
    percentage,
    position_sentence,
    sign_of,
    status_sentence,
    volume_sentence,
)

_MOST = 8


def of_one(case: AnsweringCase, number: int) -> Said:
    """How a structure compares with the reference's and with a library's."""
    found = case.findings[number]
    if not case.is_there(number):
        return (status(found, f"I can't compare {found.name}: it was not found."),), False
    if not any(_is_compared(measurement) for measurement in found.measurements):
        volume = found.measured(Quantity.VOLUME)
        cut = volume is not None and volume.is_cut
        why = "the border of the image cuts it, so that its size is not known" if cut else "no reference is known for it"
        return (limit(f"I can't compare {found.name}: {why}.", found),), False
    intensity = found.measured(Quantity.MEAN_INTENSITY)
    calibrated = intensity is not None and bool(sign_of(intensity.unit)) and _is_compared(intensity)
    pair = _pair_of(case, number)
    sentences = those(
        volume_sentence(found),
        position_sentence(found),
        intensity_sentence(found) if calibrated else None,
        asymmetry_sentence(*pair) if pair is not None else None,
        status_sentence(found),
    )
    return sentences, True


def of_all(case: AnsweringCase, numbers: Sequence[int], name: str = "") -> Said:
    """How structures as a whole compare with the reference: what was found, and which volumes are far from the reference's."""
    ratios = {}
    for one in numbers:
        volume = case.findings[one].measured(Quantity.VOLUME)
        if case.is_there(one) and volume is not None and volume.comparison.reference and not volume.is_cut:
            ratios[one] = volume.value / volume.comparison.reference
    if not ratios:
        volumes = [volume for one in numbers if (volume := case.findings[one].measured(Quantity.VOLUME)) is not None]
        cut = any(volume.is_cut for volume in volumes)
        why = "the border of the image cuts what was found" if cut else "no volume of it is known"
        return (limit(f"I can't compare with the reference: {why}."),), False
    there = [one for one in numbers if case.is_there(one)]
    whole = f" of {name}" if name else ""
    found = [case.findings[one] for one in there]
    text = f"{len(there)} of {len(numbers)} structures{whole} were found."
    sentences = [Sentence(text, SentenceKind.STATUS, tuple(one.name for one in found), confidence=confidence_of(found))]
    sentences += not_found([case.findings[one] for one in numbers if not case.is_there(one)])
    far = sorted((one for one in ratios if not SMALL <= ratios[one] <= LARGE), key=lambda one: -abs(math.log(max(ratios[one], 1e-9))))
    if far:
        shown = [case.findings[one] for one in far[:_MOST]]
        times = [f"{one.name} ({number(ratios[index])} times)" for one, index in zip(shown, far, strict=False)]
        more = f" and {len(far) - _MOST} more" if len(far) > _MOST else ""
        text = f"Less than half or more than twice the reference's volume: {listed(times)}{more}."
        sentences.append(measured(text, [case.findings[one] for one in far], _volumes(case, far)))
    else:
        text = f"No volume is less than half or more than twice the reference's; {len(ratios)} could be compared."
        sentences.append(measured(text, [case.findings[one] for one in ratios], _volumes(case, ratios)))
    return tuple(sentences), True


def of_two(case: AnsweringCase, one: int, other: int) -> Said:
    """How the volumes of two structures compare."""
    first, second = case.findings[one], case.findings[other]
    for found, there in ((first, case.is_there(one)), (second, case.is_there(other))):
        if not there:
            return (status(found, f"I can't compare {first.name} and {second.name}: {found.name} was not found."),), False
    pair = _pair_of(case, one)
    if pair is not None and {pair[1].name, pair[2].name} == {first.name, second.name}:
        sentence = asymmetry_sentence(*pair)
        if sentence is not None:
            return (sentence, *those(status_sentence(first), status_sentence(second))), True
    volumes = first.measured(Quantity.VOLUME), second.measured(Quantity.VOLUME)
    if volumes[0] is None or volumes[1] is None or volumes[1].value <= 0:
        return (limit(f"I can't compare {first.name} and {second.name}: their volumes were not measured."),), False
    if volumes[0].is_cut or volumes[1].is_cut:
        return (limit(f"I can't compare {first.name} and {second.name}: the border of the image cuts at least one of them."),), False
    ratio = volumes[0].value / volumes[1].value
    how = f"{number(ratio)} times as large as" if ratio >= LARGE else f"{percentage(ratio)} {'larger' if ratio >= 1 else 'smaller'} than"
    amounts = [amount(volume.value, volume.unit) for volume in (volumes[0], volumes[1])]
    text = f"{first.name} ({amounts[0]}) is {how} {second.name} ({amounts[1]})."
    return (measured(text, (first, second), (volumes[0], volumes[1])), *those(status_sentence(first), status_sentence(second))), True


def _pair_of(case: AnsweringCase, number: int) -> tuple[Measurement, StructureFindings, StructureFindings] | None:
    """The asymmetry that a structure has a part in, with the left and the right structure."""
    asymmetry = case.findings[number].measured(Quantity.ASYMMETRY)
    if asymmetry is None or len(asymmetry.structures) != 2:
        return None
    named = {found.name: found for found in case.findings}
    left, right = (named.get(name) for name in asymmetry.structures)
    return None if left is None or right is None else (asymmetry, left, right)


def _is_compared(measurement: Measurement) -> bool:
    compared = measurement.comparison
    return measurement.quantity is Quantity.POSITION or compared.reference is not None or compared.n > 0


def _volumes(case: AnsweringCase, numbers: Iterable[int]) -> list[Measurement]:
    return [volume for one in numbers if (volume := case.findings[one].measured(Quantity.VOLUME)) is not None]
