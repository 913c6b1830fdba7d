"""Which structures a written name means: the segmentation's own names, the anatomy graphs' names and synonyms, then near misses."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from ..anatomy.graph import AnatomyGraph, Node
from ..anatomy.names import same_words, singular, split
from .evidence import StructureFindings

# A word this like another may be a slip of the pen; sides, numbers and short words have to be right.
_LIKE = 0.82
_SHORT = 3
# The hypothalamus is no misspelt thalamus.
_LONGEST_SLIP = 1
_MOST_SUGGESTED = 4

Words = tuple[str, ...]


@dataclass(frozen=True)
class Meant:
    """What a name was understood as.

    Args:
        name: What it stands for: a structure's own name, or a node's.
        members: Indices of the findings it means; empty where a graph knows it, and the segmentation has no such structure.
        node: The graph's node where it was found through one, with its graph.
        graph: See ``node``.
        whole: The members are parts of it: a lobe is asked about, and gyri were segmented.
        sides: The left and the right one, where such a whole was named without a side.
        taken_for: The name that a misspelt or shortened one was taken for.
    """

    name: str
    members: tuple[int, ...]
    node: Node | None = None
    graph: AnatomyGraph | None = None
    whole: bool = False
    sides: tuple[Meant, ...] = ()
    taken_for: str = ""


@dataclass(frozen=True)
class NotMeant:
    """A name that was not understood; ``suggestions`` are names that it may have meant."""

    suggestions: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Entry:
    """A name that can be asked for."""

    side: str | None
    words: Words
    meant: Meant


class Names:
    """The names that questions about a segmentation may use.

    Args:
        findings: One for each structure, with its node where it is attached to a graph.
        graphs: Names of all graphs; those that no structure is attached to are looked at last.
        load: Loads a graph by name.
    """

    def __init__(self, findings: Sequence[StructureFindings], graphs: Sequence[str], load: Callable[[str], AnatomyGraph]) -> None:
        self._own = [_Entry(*_asked(name), Meant(name, (index,))) for index, name in _forms(findings)]
        attached = {one.graph for one in findings if one.graph is not None}
        loaded = {name: load(name) for name in (*sorted(attached), *(name for name in graphs if name not in attached))}
        self._nodes = [entry for name in sorted(attached) for entry in _graph_entries(loaded[name], findings)]
        self._others = [entry for name, graph in loaded.items() if name not in attached for entry in _graph_entries(graph, ())]

    def understand(self, text: str) -> Meant | NotMeant:
        """What a name means; sides are never guessed, and a name without a side means both."""
        side, words = _asked(text)
        if not words:
            return NotMeant()
        for entries in (self._own, self._nodes, self._others):
            exact = [entry for entry in entries if same_words(entry.words, words) and (side is None or entry.side == side)]
            if exact:
                return _joined(exact, text)
        return self._near(side, words, text)

    def _near(self, side: str | None, words: Words, text: str) -> Meant | NotMeant:
        entries = [entry for entry in (*self._own, *self._nodes) if side is None or entry.side == side]
        known = {word for entry in (*self._own, *self._nodes, *self._others) for word in entry.words}
        # A part of a region's name is often that of another region: the left hemisphere is not the cerebellar one.
        shortened = [entry for entry in entries if set(words) < set(entry.words) and entry.meant.members and not entry.meant.whole]
        misspelt = [entry for entry in entries if _like(words, entry.words, known)]
        for found in (shortened, misspelt):
            if found and (len({entry.words for entry in found}) == 1 or len({entry.meant.members for entry in found}) == 1):
                return replace(_joined(found, text), taken_for=" and ".join(_distinct(found)))
            if found:
                return NotMeant(_distinct(found, sides=False))
        spelled = {" ".join(entry.words): entry for entry in (*self._own, *self._nodes) if entry.meant.members}
        close = difflib.get_close_matches(" ".join(words), spelled, n=_MOST_SUGGESTED, cutoff=0.6)
        return NotMeant(_distinct([spelled[key] for key in close], sides=False))


def _asked(name: str) -> tuple[str | None, Words]:
    """The side that a name asks for, None for both and for none, and its other words."""
    side, words = split(name)
    return (None if side == "both" else side), words


def _without_addition(name: str) -> str:
    """A name without "(label 3)" and "#2" at its end; word by word, since a pattern would take minutes for a long row of blanks."""
    head, mark, number = name.rpartition("#")
    if mark and number.isdecimal() and head != (bare := head.rstrip()):
        name = bare
    head, mark, rest = name.rpartition("(")
    return head.rstrip() if mark and rest.endswith(")") and rest.count(")") == 1 else name


def _forms(findings: Sequence[StructureFindings]) -> Iterator[tuple[int, str]]:
    for index, one in enumerate(findings):
        yield index, one.name
        # What a table adds to tell structures of one name apart, nobody writes.
        plain = _without_addition(one.name)
        if plain and plain != one.name:
            yield index, plain


def _graph_entries(graph: AnatomyGraph, findings: Sequence[StructureFindings]) -> Iterator[_Entry]:
    attached: dict[str, list[int]] = {}
    for index, one in enumerate(findings):
        if one.graph == graph.name and one.node is not None:
            attached.setdefault(one.node, []).append(index)
    for node in graph.depth_first():
        own = attached.get(node.id, [])
        inside = [index for below in graph.depth_first(node.id) for index in attached.get(below.id, [])]
        meant = Meant(node.name, tuple(own or inside), node, graph, whole=not own and bool(inside))
        for name in (node.name, *node.synonyms, *node.abbreviations):
            side, words = _asked(name)
            if words:
                yield _Entry(side or node.laterality, words, meant)


def _joined(entries: Sequence[_Entry], text: str) -> Meant:
    """One meaning of the entries that a name fits: the left and the right one, or all that share a name."""
    first = entries[0].meant
    if len({(entry.meant.name, entry.meant.members) for entry in entries}) == 1:
        return first
    own = [entry.meant for entry in entries if entry.meant.members and not entry.meant.whole]
    used = own or [entry.meant for entry in entries if entry.meant.members] or [first]
    members = tuple(dict.fromkeys(index for meant in used for index in meant.members))
    whole = not own and bool(members)
    sided = [entry.meant for entry in entries if entry.side is not None and entry.meant.members] if whole else []
    return Meant(text.strip(), members, first.node, first.graph, whole, tuple({meant.name: meant for meant in sided}.values()))


def _like(words: Words, known: Words, vocabulary: set[str]) -> bool:
    """Whether the words may be a misspelt form of known ones: one by one, and a word that is right is not taken for another."""
    if len(words) != len(known):
        return False
    return all(_like_word(word, other, vocabulary) for word, other in zip(words, known, strict=True))


def _like_word(word: str, known: str, vocabulary: set[str]) -> bool:
    if singular(word) == singular(known):
        return True
    if word in vocabulary or len(word) <= _SHORT or any(letter.isdigit() for letter in word + known):
        return False
    if (word in known or known in word) and abs(len(word) - len(known)) > _LONGEST_SLIP:
        return False
    return difflib.SequenceMatcher(None, word, known).ratio() >= _LIKE


def _distinct(entries: Iterable[_Entry], sides: bool = True) -> tuple[str, ...]:
    """The names of entries, each once; without their sides where these are not what they differ by."""
    names: dict[str, str] = {}
    for entry in entries:
        name = entry.meant.name if sides else _sideless(entry.meant.name)
        names.setdefault(name.casefold(), name)
    return tuple(names.values())[:_MOST_SUGGESTED]


def _sideless(name: str) -> str:
    return re.sub(r"\b(?:left|right)\b[ ,]*", "", name, flags=re.IGNORECASE).strip(" ,") or name
