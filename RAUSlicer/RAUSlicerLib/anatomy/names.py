"""Makes names of structures comparable: the side by itself, the other words without case, punctuation, order or plural.

Everything that compares names uses this file: attaching structures to graphs, and understanding the names in questions.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Side = Literal["left", "right", "both"]

_SIDES: dict[str, Side] = dict.fromkeys(("left", "l", "lh", "lt"), "left")
_SIDES |= dict.fromkeys(("right", "r", "rh", "rt"), "right")
_SIDES |= dict.fromkeys(("both", "bilateral"), "both")
# Words that tell no structure from another: FreeSurfer marks its cortical labels with "ctx".
_EMPTY = frozenset({"the", "of", "and", "ctx"})
_WORD = re.compile(r"[^\W_]+")
_GENITIVE = re.compile(r"['’]s\b")
_HUMP = re.compile(r"(?<=[^\W\d_A-Z])(?=[A-Z])")
_SHORTEST_PLURAL = 4


@dataclass(frozen=True)
class NameKey:
    """What two names of one structure have in common. ``words`` are sorted; ``side`` is "both" where a name has both sides."""

    side: Side | None
    words: tuple[str, ...]


def name_key(name: str) -> NameKey:
    """The key of a name.

    >>> name_key("kidney_left") == name_key("Left Kidney") == name_key("L. kidney") == name_key("lh-Kidney")
    True
    >>> name_key("Right kidney") == name_key("Left kidney")
    False
    """
    side, words = split(name)
    return NameKey(side, tuple(sorted(singular(word) for word in words)))


def split(name: str) -> tuple[Side | None, tuple[str, ...]]:
    """A name's side, and its other words in their order, without case, accents, punctuation and what tells no structure from another.

    >>> split("Hippocampus_L")
    ('left', ('hippocampus',))
    >>> split("the left and right kidneys")
    ('both', ('kidneys',))
    """
    # Compatibility forms make one of what only looks different: ligatures, full-width letters, accents.
    plain = "".join(letter for letter in unicodedata.normalize("NFKD", name) if not unicodedata.combining(letter))
    words = _WORD.findall(_GENITIVE.sub("", plain.casefold()))
    sides = {_SIDES[word] for word in words if word in _SIDES}
    return "both" if len(sides) > 1 else next(iter(sides), None), tuple(w for w in words if w not in _SIDES and w not in _EMPTY)


def name_keys(name: str) -> tuple[NameKey, ...]:
    """The key of a name, and the one it has when words that are joined by capitals (``LeftKidney``) are taken apart."""
    return tuple(dict.fromkeys((name_key(name), name_key(_HUMP.sub(" ", name)))))


def singular(word: str) -> str:
    """A word without its plural: ``kidneys`` and ``gyri``, but not ``pelvis`` and ``meatus``.

    >>> singular("kidneys"), singular("gyri"), singular("pelvis")
    ('kidney', 'gyrus', 'pelvis')
    """
    if len(word) < _SHORTEST_PLURAL:
        return word
    if word.endswith("i"):
        return f"{word[:-1]}us"
    return word[:-1] if word.endswith("s") and not word.endswith(("ss", "us", "is")) else word


def same_words(one: Sequence[str], other: Sequence[str]) -> bool:
    """Whether two names are of the same words: in any order, in the singular or the plural, written together or apart."""
    return "".join(one) == "".join(other) or sorted(map(singular, one)) == sorted(map(singular, other))
