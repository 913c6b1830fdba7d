"""What is asked: a small grammar of English questions. What it does not cover is not guessed at."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

Point = tuple[float, float, float]

# Nobody asks in more words than this; a longer text is a pasted one.
_LONGEST = 300


class Kind(StrEnum):
    """What a question wants to know."""

    HERE = "what is here"
    PRESENT = "is it present"
    WHERE = "where is it"
    SIZE = "how large is it"
    COMPARE = "how does it compare with the reference"
    UNSURE = "what has to be checked"


@dataclass(frozen=True)
class Question:
    """A question that was understood.

    ``name`` is the structure's, as it was written and without its article; empty where the question is about a place or about all
    structures. ``other`` is what it is compared with, empty for the reference. ``point`` is in LPS, mm, where the question itself names
    one.
    """

    kind: Kind
    name: str = ""
    other: str = ""
    point: Point | None = None


_ARTICLE = r"(?:(?:the|a|an|any|my|its|this patient's) )?"
# As short as it can be, so that what may follow a name is not taken for part of it.
_NAME = _ARTICLE + r"(?P<name>[^\s?!;:](?:[^?!;:]*?[^\s?!;:])??)"
# A name that stands before what is asked of it; "what is the volume" has none.
_OWNER = _NAME.replace("(?P<name>", "(?!(?:the|an?|my|its|what|how|is|are) )(?P<name>")
_OTHER = _ARTICLE + r"(?P<other>[^\s?!;:](?:[^?!;:]*?[^\s?!;:])??)"
_IMAGE = r"(?: (?:here|in (?:the|this) (?:image|volume|scan|target|case|picture|segmentation|result)))?"
_IS = r"(?:is|are|was|were)"
_SPOT = r"(?:crosshair|cursor|point|position|location|place|spot)"
_AREA = r"(?:(?:marked|selected|painted|drawn) )?(?:region|area|mask)"
_HERE = (
    rf"(?:here|there|this|that|(?:(?:at|under|in|on|inside|of|within) )?(?:the|this|that) {_SPOT}"
    rf"|(?:(?:in|inside|within|of) )?(?:the|this|that) {_AREA})"
)
_NUMBER = r"[-+]?\d+(?:\.\d+)?"
_COORDINATES = rf"(?P<frame>ras|lps):? *\(? *(?P<x>{_NUMBER}) *[ ,;] *(?P<y>{_NUMBER}) *[ ,;] *(?P<z>{_NUMBER}) *\)?(?: *mm)?"
_REFERENCE = r"(?:the|its|their) reference(?:'s)?"
_WITH_REFERENCE = rf"(?: (?:with|to|from|against|and|in) {_REFERENCE})"

_WHICH = r"(?:which|what)(?: (?:of )?(?:the )?(?:structures?|segments?|organs?|results?|ones?))?"
_LISTED = rf"{_WHICH} (?:{_IS}|have|has|got)"
_UNSURE = r"(?:unsure|not sure|uncertain|doubtful|unreliable|questionable|(?:found )?(?:with |of |in )?(?:a )?low (?:in )?confidence)"
_LOST = r"(?:not (?:been )?(?:found|segmented|seen)|missing|missed|lost)"

# Tried in this order; each has to match the whole question.
_PATTERNS: tuple[tuple[Kind, str], ...] = (
    (Kind.HERE, rf"(?:what|which) (?:structures? |organs? |regions? )?(?:{_IS}|lies|lie) (?:at )?{_COORDINATES}"),
    (Kind.HERE, rf"(?:what|which) (?:structures? |organs? |regions? )?(?:{_IS}|lies|lie) {_HERE}"),
    (Kind.HERE, rf"what {_IS} (?:the|this) (?:structure|organ) {_HERE}"),
    (Kind.HERE, r"where am i"),
    (Kind.HERE, rf"name {_HERE}"),
    (Kind.UNSURE, rf"{_LISTED} (?:{_UNSURE}|{_LOST})(?: or (?:{_UNSURE}|{_LOST}))?{_IMAGE}"),
    (Kind.UNSURE, rf"{_WHICH} (?:should|must|do) (?:i|we) (?:have to |need to )?(?:check|review|verify)(?: first)?"),
    (Kind.COMPARE, rf"what (?:differs|{_IS} different){_WITH_REFERENCE}?"),
    (Kind.COMPARE, rf"what {_IS} the differences?{_WITH_REFERENCE}?"),
    (Kind.COMPARE, rf"compare {_NAME}{_WITH_REFERENCE}"),
    (Kind.COMPARE, rf"compare (?:with|to) {_REFERENCE}"),
    (Kind.COMPARE, rf"compare {_NAME} (?:with|to|against|versus|vs) {_OTHER}"),
    (Kind.COMPARE, rf"compare {_NAME}"),
    (Kind.COMPARE, rf"how (?:does|do) {_NAME} (?:compare|differ){_WITH_REFERENCE}?"),
    (Kind.COMPARE, rf"{_IS} {_NAME} (?:larger|smaller|bigger|different|shifted) (?:than|from)(?: in)? {_REFERENCE}"),
    (Kind.COMPARE, rf"{_IS} {_NAME} as (?:large|big|small) as(?: in)? {_REFERENCE}"),
    (Kind.COMPARE, rf"{_IS} {_NAME} (?:larger|smaller|bigger) than {_OTHER}"),
    (Kind.SIZE, rf"how (?:large|big|small|long|wide|tall|high|thick|deep) {_IS} {_NAME}"),
    (Kind.SIZE, rf"(?:what {_IS} )?(?:the )?(?:volumes?|sizes?|extents?|dimensions|measurements?) of {_NAME}"),
    (Kind.SIZE, rf"how much (?:volume|space) (?:does|do) {_NAME} (?:have|take|take up|occupy)"),
    (Kind.SIZE, rf"what (?:volume|size) (?:does|do) {_NAME} have"),
    (Kind.SIZE, rf"measure {_NAME}"),
    (Kind.SIZE, rf"(?:what {_IS} )?{_OWNER}(?:'s?)? (?:volumes?|sizes?)"),
    (Kind.WHERE, rf"where {_IS} {_NAME} (?:located|situated|found){_IMAGE}"),
    (Kind.WHERE, rf"where {_IS} {_NAME}"),
    (Kind.WHERE, rf"where (?:does|do) {_NAME} (?:lie|sit)"),
    (Kind.WHERE, rf"where (?:can|do) i (?:find|see) {_NAME}"),
    (Kind.WHERE, rf"(?:show|find|locate)(?: me)? {_NAME}"),
    (Kind.PRESENT, rf"{_IS} there {_NAME}{_IMAGE}"),
    (Kind.PRESENT, rf"{_IS} {_NAME} (?:present|there|visible|found|seen|segmented|shown|missing|absent){_IMAGE}"),
    (Kind.PRESENT, rf"(?:has|have) {_NAME} been (?:found|seen|segmented){_IMAGE}"),
    (Kind.PRESENT, rf"(?:do|can) you (?:see|find) {_NAME}{_IMAGE}"),
    (
        Kind.PRESENT,
        rf"(?:does|do) (?:the|this) (?:image|volume|scan|target|case|picture|segmentation|result) (?:show|have|contain|include) {_NAME}",
    ),
)
_COMPILED = tuple((kind, re.compile(pattern, re.IGNORECASE)) for kind, pattern in _PATTERNS)
_ALL = re.compile(
    r"(?:all|everything|them|all of (?:them|it)|(?:all|every) (?:the )?structures?|(?:the )?(?:result|target|segmentation|structures))",
    re.IGNORECASE,
)
_SHORT_FORMS = ((r"\b(what|where|how)'s\b", r"\1 is"), (r"[?!.\s]+$", ""), (r"^(?:please|and|so|ok|well),? ", ""), (r",? please$", ""))


def parse(text: str) -> Question | None:
    """The question in a text; None where the grammar does not cover it.

    >>> parse("Where's the left kidney?")
    Question(kind=<Kind.WHERE: 'where is it'>, name='left kidney', other='', point=None)
    >>> parse("Is this dangerous?") is None
    True
    """
    plain = re.sub(r"\s+", " ", text.replace("’", "'")).strip()
    if not plain or len(plain) > _LONGEST:
        return None
    for pattern, replacement in _SHORT_FORMS:
        plain = re.sub(pattern, replacement, plain, flags=re.IGNORECASE)
    for kind, compiled in _COMPILED:
        found = compiled.fullmatch(plain)
        if found is not None:
            return _question(kind, found.groupdict())
    return None


def _question(kind: Kind, groups: dict[str, str | None]) -> Question:
    if groups.get("frame"):
        x, y, z = (float(groups[axis] or 0.0) for axis in "xyz")
        sign = -1.0 if (groups["frame"] or "").casefold() == "ras" else 1.0
        return Question(kind, point=(sign * x, sign * y, z))
    name = groups.get("name") or ""
    everything = kind is Kind.COMPARE and _ALL.fullmatch(name) is not None
    return Question(kind, "" if everything else name, groups.get("other") or "")
