"""Makes names of structures comparable: the side by itself, the other words without case, punctuation, order or plural."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from typing import Literal

Side = Literal["left", "right", "both"]

_SIDES: dict[str, Side] = dict.fromkeys(("left", "l", "lh", "lt"), "left")
_SIDES |= dict.fromkeys(("right", "r", "rh", "rt"), "right")
# Words that tell no structure from another: FreeSurfer marks its cortical labels with "ctx".
_EMPTY = frozenset({"the", "of", "and", "ctx"})
_WORD = re.compile(r"[^\W_]+")
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
    # Compatibility forms make one of what only looks different: ligatures, full-width letters, accents.
    plain = "".join(letter for letter in unicodedata.normalize("NFKD", name) if not unicodedata.combining(letter))
    words = _WORD.findall(plain.casefold())
    sides = {_SIDES[word] for word in words if word in _SIDES}
    rest = tuple(sorted(_singular(word) for word in words if word not in _SIDES and word not in _EMPTY))
    return NameKey("both" if len(sides) > 1 else next(iter(sides), None), rest)


def name_keys(name: str) -> tuple[NameKey, ...]:
    """The key of a name, and the one it has when words that are joined by capitals (``LeftKidney``) are taken apart."""
    return tuple(dict.fromkeys((name_key(name), name_key(_HUMP.sub(" ", name)))))


def _singular(word: str) -> str:
    return word[:-1] if len(word) >= _SHORTEST_PLURAL and word.endswith("s") and not word.endswith("ss") else word
