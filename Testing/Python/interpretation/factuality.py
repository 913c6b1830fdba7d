"""Checks sentences against their evidence by reading them: every number, direction and structure that is said must be among it.

Nothing is taken over from the writing but the words of the report's language, so that a sentence changed by hand or by an error does not
pass. A number that can't be read as a claim counts as wrong.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Sequence

from RAUSlicerLib.interpretation.evidence import CENTRE, Measurement, Quantity, Sentence, SentenceKind, StructureFindings

_UNITS = {"mL": "mL", "mm": "mm", "%": "%", "HU": "[hnsf'U]"}
_ASKED = (Quantity.DISTANCE, Quantity.SHARE)
_ALMOST = 1e-9
_SAME = 0.02

_NUMBER = r"−?\d+(?:\.\d+)?"
_VALUE = rf"(?P<bound>at least )?(?P<value>{_NUMBER})(?: (?P<unit>mL|mm|HU|%))?"
# Structures' names are replaced by private characters before a sentence is read: a name may hold digits and words of any kind.
_FIRST_NAME = 0xE000
_NAME = "[\ue000-\uf8ff]"
_BEYOND_NAMES = 0xF8FF - _FIRST_NAME

_CLAIMS: tuple[tuple[str, str], ...] = (
    ("found_of", r"(?:All (?P<all>\d+)|(?P<some>\d+) of the (?P<looked>\d+)) structures of .+? that were looked for were found"),
    ("share", rf"{_VALUE} of the marked region lie in (?P<name>{_NAME})"),
    ("name", _NAME),
    ("volume", rf"the volume is {_VALUE}"),
    ("volume", rf"(?<={_NAME} \(){_VALUE}(?=\) is|\): they differ|\)\.)"),
    ("union", rf"together they have {_VALUE}"),
    ("centre", rf"(?<!\w)(?P<letter>[RLAPSI]) (?P<value>{_NUMBER})(?=,| mm)"),
    ("distance", rf"{_VALUE} away"),
    ("confidence", rf"\(confidence (?P<value>{_NUMBER})\)"),
    ("right_left", rf"{_VALUE} from right to left"),
    ("front_back", rf"{_VALUE} from front to back"),
    ("top_bottom", rf"{_VALUE} from top to bottom"),
    ("mean", rf"the mean intensity is {_VALUE}"),
    ("spread", rf"\(standard deviation {_VALUE}\)"),
    ("position", rf"its middle lies {_VALUE} from where"),
    ("asymmetry", rf"they differ by {_VALUE} of their mean"),
    ("order", r"is (?P<word>larger|smaller|about as large)(?= (?:than|as))"),
    ("asymmetry_reference", rf"in the reference case by {_VALUE}(?P<other> the other way round)?"),
    ("difference_of_two", rf"(?P<value>{_NUMBER}) (?P<unit>%) (?P<word>larger|smaller) than (?={_NAME})"),
    ("times_of_two", rf"(?P<value>{_NUMBER}) times as large as (?={_NAME})"),
    ("difference", rf"(?P<value>{_NUMBER}) (?P<unit>%) (?P<word>larger|smaller)"),
    ("times", rf"(?P<value>{_NUMBER}) times(?: as large|\))"),
    ("more", r"and (?P<count>\d+) more(?=\.)"),
    ("compared", r"(?P<count>\d+) could be compared"),
    ("same", r"about as large as(?= in the reference case)"),
    ("z_score", rf"(?P<value>{_NUMBER}) standard deviations (?P<word>above|below)"),
    ("z_score_zero", r"at(?= the library's mean)"),
    ("library_mean", rf"the library's mean \((?P<value>{_NUMBER}) ± (?P<spread>{_NUMBER})(?: (?P<unit>mL|mm|HU|%))?, n = (?P<count>\d+)\)"),
    ("library_only", rf"the library's mean of {_VALUE} \(n = (?P<count>\d+)\)"),
    ("reference", rf"in the reference case(?: it is)? \(?{_VALUE}"),
    ("together", r"The (?P<count>\d+) structures of “.+?” together"),
    ("unread", _NUMBER),
)
# The alternation can't have two groups of a name; a claim that it found is read once more with its names.
_ANY_CLAIM = re.compile(
    "|".join(f"(?P<claim_{index}>{re.sub(r'[(][?]P<[a-z]+>', '(?:', claim)})" for index, (_, claim) in enumerate(_CLAIMS))
)
_QUANTITIES = {
    "volume": Quantity.VOLUME,
    "right_left": Quantity.EXTENT_RIGHT_LEFT,
    "front_back": Quantity.EXTENT_ANTERIOR_POSTERIOR,
    "top_bottom": Quantity.EXTENT_SUPERIOR_INFERIOR,
    "mean": Quantity.MEAN_INTENSITY,
    "position": Quantity.POSITION,
    "union": Quantity.VOLUME,
    "share": Quantity.SHARE,
    "distance": Quantity.DISTANCE,
}
_DIRECTIONS = {
    "L": (Quantity.CENTRE_LEFT, 1),
    "R": (Quantity.CENTRE_LEFT, -1),
    "P": (Quantity.CENTRE_POSTERIOR, 1),
    "A": (Quantity.CENTRE_POSTERIOR, -1),
    "S": (Quantity.CENTRE_SUPERIOR, 1),
    "I": (Quantity.CENTRE_SUPERIOR, -1),
}


def check(sentences: Iterable[Sentence], findings: Sequence[StructureFindings] | None = None) -> list[str]:
    """What sentences of a report or an answer say that their evidence does not; empty where all of it is right.

    Numbers of sentences that are not measured may only be their confidence, scores or counts.

    Args:
        sentences: As written, or read from a file.
        findings: What was measured; with it, evidence that is neither among it nor a sum of it is a problem too.
    """
    problems: list[str] = []
    for sentence in sentences:
        found = _Reader(sentence).problems() if sentence.kind is SentenceKind.MEASURED else _check_plain(sentence)
        found += [] if findings is None else _unmeasured(sentence, findings)
        problems += [f"{sentence.text} {problem}" for problem in found]
    return problems


class _Reader:
    """Reads a measured sentence from left to right, remembering which structure and which quantity are spoken of."""

    def __init__(self, sentence: Sentence) -> None:
        self._sentence = sentence
        self._text, self._names = _masked(sentence.text, sentence.structures)
        self._structure: str | None = None
        self._measurement: Measurement | None = None
        self._together = self._partial = False
        self._named: list[str] = []
        self._problems: list[str] = []

    def problems(self) -> list[str]:
        for match in _ANY_CLAIM.finditer(self._text):
            kind, claim = _CLAIMS[int(str(match.lastgroup).removeprefix("claim_"))]
            again = re.compile(claim).match(self._text, match.start())
            assert again is not None
            self._read(kind, again)
        named, known = set(self._named), set(self._sentence.structures)
        if not self._together and not (named < known if self._partial else named == known):
            self._problems.append("the structures named are not those of the evidence")
        return self._problems

    def _read(self, kind: str, claim: re.Match[str]) -> None:
        if kind == "name":
            self._structure = self._names[ord(claim[0]) - _FIRST_NAME]
            self._named.append(self._structure)
            # "A (45 % larger)" speaks of volumes without naming the quantity.
            self._measurement = self._find(Quantity.VOLUME)
        elif kind == "together":
            self._together = True
            self._expect(int(claim["count"]) == len(self._sentence.structures), claim)
        elif kind == "found_of":
            self._together = True
            # How many were looked for is no evidence of the sentence: only that they are no fewer.
            count = int(claim["all"] or claim["some"])
            self._expect(count == len(self._sentence.structures) and count <= int(claim["looked"] or count), claim)
        elif kind == "more":
            self._expect(int(claim["count"]) == len(self._sentence.structures) - len(self._named), claim)
            self._partial = True
        elif kind == "compared":
            self._together = True
            self._expect(int(claim["count"]) == len(self._sentence.structures) == len(self._sentence.measurements), claim)
        elif kind == "confidence":
            known = self._sentence.confidence
            self._expect(known is not None and _rounds_to(claim["value"], known), claim)
        elif kind == "centre":
            quantity, sign = _DIRECTIONS[claim["letter"]]
            coordinate = self._find(quantity)
            self._expect(coordinate is not None and coordinate.unit == "mm" and _rounds_to(claim["value"], sign * coordinate.value), claim)
        elif kind == "share":
            self._structure = self._names[ord(claim["name"]) - _FIRST_NAME]
            self._named.append(self._structure)
            self._measurement = self._find(Quantity.SHARE)
            self._expect_measured(self._measurement, claim)
        elif kind == "unread":
            self._problems.append(f"{claim[0]!r} is no claim that can be checked")
        elif kind == "spread":
            # Said in passing: what follows still speaks of the mean.
            self._expect_measured(self._find(Quantity.INTENSITY_SPREAD), claim)
        elif kind in _QUANTITIES:
            self._measurement = self._find(_QUANTITIES[kind])
            self._expect_measured(self._measurement, claim)
        else:
            checks: dict[str, Callable[[re.Match[str]], bool]] = {
                "order": self._order,
                "asymmetry": self._asymmetry,
                "asymmetry_reference": self._asymmetry_reference,
                "difference": self._difference,
                "times": self._times,
                "difference_of_two": self._difference_of_two,
                "times_of_two": self._times_of_two,
                "same": self._same,
                "z_score": self._z_score,
                "z_score_zero": self._z_score_zero,
                "library_mean": self._library_mean,
                "library_only": self._library_only,
                "reference": self._reference,
            }
            self._expect(self._measurement is not None and checks[kind](claim), claim)

    def _find(self, quantity: Quantity) -> Measurement | None:
        subject = self._sentence.structures if self._together else (self._structure,)
        fitting = (m for m in self._sentence.measurements if m.quantity is quantity)
        return next((measurement for measurement in fitting if measurement.structures == subject), None)

    def _expect(self, holds: bool, claim: re.Match[str]) -> None:
        if not holds:
            self._problems.append(f"{claim[0]!r} is not what the evidence says")

    def _expect_measured(self, measurement: Measurement | None, claim: re.Match[str]) -> None:
        holds = measurement is not None and self._says(claim, measurement.value)
        self._expect(holds and measurement is not None and bool(claim["bound"]) == self._is_bound(measurement), claim)

    def _is_bound(self, measurement: Measurement) -> bool:
        return measurement.is_cut and measurement.quantity in (Quantity.VOLUME, *_EXTENTS)

    def _says(self, claim: re.Match[str], value: float) -> bool:
        """Whether a claim's number is a value as it is displayed, in its unit."""
        unit = self._measurement.unit if self._measurement else ""
        said = _UNITS.get(claim["unit"] or "", "1")
        return said == unit and _rounds_to(claim["value"], value)

    @property
    def _current(self) -> Measurement:
        assert self._measurement is not None
        return self._measurement

    def _ratio(self) -> float | None:
        reference = self._current.comparison.reference
        # A lower bound can't be compared.
        return None if not reference or self._current.is_cut else self._current.value / reference

    def _reference(self, claim: re.Match[str]) -> bool:
        reference = self._current.comparison.reference
        return reference is not None and self._says(claim, reference)

    def _difference(self, claim: re.Match[str]) -> bool:
        ratio = self._ratio()
        if ratio is None:
            return False
        return _rounds_to(claim["value"], 100 * abs(ratio - 1)) and (claim["word"] == "larger") == (ratio > 1)

    def _times(self, claim: re.Match[str]) -> bool:
        ratio = self._ratio()
        return ratio is not None and _rounds_to(claim["value"], ratio)

    def _ratio_of_two(self) -> float | None:
        """The first structure's volume over the second's."""
        volumes = {m.structures[0]: m for m in self._sentence.measurements if m.quantity is Quantity.VOLUME}
        pair = [volumes.get(name) for name in self._sentence.structures]
        if len(pair) != 2 or self._named != [self._sentence.structures[0]] or any(one is None or one.is_cut for one in pair):
            return None
        first, second = (one.value for one in pair if one is not None)
        return first / second if second > 0 else None

    def _difference_of_two(self, claim: re.Match[str]) -> bool:
        ratio = self._ratio_of_two()
        return ratio is not None and _rounds_to(claim["value"], 100 * abs(ratio - 1)) and (claim["word"] == "larger") == (ratio >= 1)

    def _times_of_two(self, claim: re.Match[str]) -> bool:
        ratio = self._ratio_of_two()
        return ratio is not None and _rounds_to(claim["value"], ratio)

    def _same(self, _: re.Match[str]) -> bool:
        ratio = self._ratio()
        return ratio is not None and abs(ratio - 1) < _SAME

    def _z_score(self, claim: re.Match[str]) -> bool:
        z_score = self._current.comparison.z_score
        return z_score is not None and _rounds_to(claim["value"], abs(z_score)) and (claim["word"] == "above") == (z_score > 0)

    def _z_score_zero(self, _: re.Match[str]) -> bool:
        z_score = self._current.comparison.z_score
        return z_score is not None and _rounds_to("0.0", abs(z_score))

    def _library_mean(self, claim: re.Match[str]) -> bool:
        comparison = self._current.comparison
        if comparison.mean is None or comparison.spread is None or int(claim["count"]) != comparison.n:
            return False
        return self._says(claim, comparison.mean) and _rounds_to(claim["spread"], comparison.spread)

    def _library_only(self, claim: re.Match[str]) -> bool:
        comparison = self._current.comparison
        return comparison.mean is not None and self._says(claim, comparison.mean) and int(claim["count"]) == comparison.n

    def _pair(self) -> Measurement | None:
        return next((m for m in self._sentence.measurements if m.quantity is Quantity.ASYMMETRY), None)

    def _order(self, claim: re.Match[str]) -> bool:
        """Whether the first of a pair is larger or smaller, by the volumes themselves."""
        names = self._sentence.structures
        volumes = {m.structures[0]: m.value for m in self._sentence.measurements if m.quantity is Quantity.VOLUME}
        if len(names) != 2 or self._named != [names[0]] or not volumes.keys() >= set(names):
            return False
        first, second = (volumes[name] for name in names)
        if claim["word"] == "about as large":
            return abs(first - second) < _SAME * (first + second) / 2
        return first > second if claim["word"] == "larger" else first < second

    def _asymmetry(self, claim: re.Match[str]) -> bool:
        self._measurement = self._pair()
        return self._measurement is not None and self._says(claim, abs(self._measurement.value))

    def _asymmetry_reference(self, claim: re.Match[str]) -> bool:
        self._measurement = self._pair()
        if self._measurement is None or (reference := self._measurement.comparison.reference) is None:
            return False
        turned = reference * self._measurement.value < 0
        small = max(abs(reference), abs(self._measurement.value)) < 100 * _SAME
        return self._says(claim, abs(reference)) and bool(claim["other"]) == (turned and not small)


_EXTENTS = (Quantity.EXTENT_RIGHT_LEFT, Quantity.EXTENT_ANTERIOR_POSTERIOR, Quantity.EXTENT_SUPERIOR_INFERIOR)


def _masked(text: str, names: Sequence[str]) -> tuple[str, Sequence[str]]:
    """A text with every name as one private character, longer names first: one may hold another."""
    names = names[:_BEYOND_NAMES]
    for index in sorted(range(len(names)), key=lambda index: -len(names[index])):
        text = re.sub(rf"(?<!\w){re.escape(names[index])}(?!\w)", chr(_FIRST_NAME + index), text, flags=re.IGNORECASE)
    return text, names


def _rounds_to(said: str, value: float) -> bool:
    """Whether a displayed number is a value rounded to as many decimals."""
    decimals = len(said.partition(".")[2])
    return abs(float(said.replace("−", "-")) - value) <= 0.5 * 10**-decimals + _ALMOST * max(abs(value), 1.0)


def _check_plain(sentence: Sentence) -> list[str]:
    """Numbers of a sentence that rests on no measurement: its confidence, scores, or how many structures it speaks of."""
    text, names = _masked(sentence.text, sentence.structures)
    for score in sentence.scores:
        text = text.replace(f"“{score.phrase}”", "")
    named = len(set(re.findall(_NAME, text)))
    known = [score.value for score in sentence.scores] + [measurement.value for measurement in sentence.measurements]
    if sentence.confidence is not None:
        known.append(sentence.confidence)
    counts = {len(names), len(sentence.structures) - named}
    said = re.findall(_NUMBER, text)
    wrong = [
        number for number in said if not (("." not in number and int(number.replace("−", "-")) in counts) or _any_rounds(number, known))
    ]
    return [f"{number!r} is not what the evidence says" for number in wrong]


def _any_rounds(number: str, values: Sequence[float]) -> bool:
    return "." in number and any(_rounds_to(number, value) for value in values)


def _unmeasured(sentence: Sentence, findings: Sequence[StructureFindings]) -> list[str]:
    """Evidence that was not measured: neither a finding, nor a sum of findings' volumes."""
    by_name = {found.name: found for found in findings}
    measured = {id(m): m for found in findings for m in found.measurements}
    problems = []
    for measurement in sentence.measurements:
        if id(measurement) in measured or measurement in measured.values():
            continue
        if measurement.quantity in _ASKED or (measurement.quantity in CENTRE and len(measurement.structures) > 1):
            # Measured for one question, on a place or on structures that nothing else speaks of together.
            continue
        parts = [by_name[name].measured(Quantity.VOLUME) for name in measurement.structures if name in by_name]
        volumes = [part for part in parts if part is not None]
        references = [volume.comparison.reference or 0.0 for volume in volumes]
        is_sum = (
            measurement.quantity is Quantity.VOLUME
            and len(volumes) == len(measurement.structures) > 1
            and math.isclose(sum(volume.value for volume in volumes), measurement.value)
            and measurement.comparison.reference in (None, sum(references))
        )
        if not is_sum:
            problems.append(f"the evidence {measurement.quantity} {measurement.value:g} was not measured")
    return problems
