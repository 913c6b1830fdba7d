"""Attaches structures to the shipped anatomy graphs: by the codes of their terminology, else by their names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from pydicom.sr.coding import Code as DicomCode

from ..imaging.segmentation import Structure
from ..imaging.terminology import UNCLASSIFIED, Terminology, parse_terminology
from ..support.resources import resource_path
from .graph import AnatomyGraph, Node
from .loading import read_graph
from .names import NameKey, Side, name_key, name_keys

GRAPHS: tuple[str, ...] = ("brain", "abdomen", "heart", "chest_xray")

Attached = dict[Structure, tuple[AnatomyGraph, Node]]

_LEFT, _RIGHT = DicomCode("7771000", "SCT", "Left"), DicomCode("24028007", "SCT", "Right")
_BOTH = DicomCode("51440002", "SCT", "Right and left")
# A tumour that is called "liver" because it lies there is not the liver.
_ABNORMAL = DicomCode("49755003", "SCT", "Morphologically abnormal structure")


@lru_cache(maxsize=16)
def load_graph(name: str) -> AnatomyGraph:
    """A shipped graph.

    Raises:
        ResourceError: there is none of that name.
        InputError: its file is damaged.
    """
    return read_graph(resource_path("Anatomy", f"{name}.json"))


def attach(structures: Sequence[Structure], graphs: Sequence[str] = GRAPHS) -> Attached:
    """Find the node of each structure; those that fit nowhere are left out.

    Where several graphs know a structure, it goes with most of the others: an aorta beside a liver is the abdomen's, one beside ventricles
    the heart's. A structure never goes to a node of another side, and nowhere if its name and its terminology contradict each other.

    Args:
        structures: Of one segmentation.
        graphs: Names of the graphs to look in; the first goes first where they know equally many.
    """
    known = {name: _nodes_of(structures, load_graph(name)) for name in graphs}
    out: Attached = {}
    waiting = set(structures)
    while known:
        best = max(known, key=lambda name: len(waiting & known[name].keys()))
        nodes = known.pop(best)
        out |= {structure: (load_graph(best), node) for structure, node in nodes.items() if structure in waiting}
        waiting -= nodes.keys()
    return {structure: out[structure] for structure in structures if structure in out}


def lateralized(structures: Sequence[Structure]) -> tuple[Structure, ...]:
    """Those of which a body has a left one and a right one.

    A ventricle of the heart is none, though it is called left: it stays that when the heart is mirrored. What no graph knows is taken at
    its name and its terminology.
    """
    known = attach(structures)

    def side(structure: Structure) -> Side | None:
        if structure in known:
            return known[structure][1].laterality
        named = next((key.side for key in name_keys(structure.name) if key.side), None)
        return _side_of(parse_terminology(structure.terminology)) or named

    return tuple(structure for structure in structures if side(structure) in ("left", "right"))


def _nodes_of(structures: Sequence[Structure], graph: AnatomyGraph) -> dict[Structure, Node]:
    index = _index(graph.name)
    found = {structure: index.node(structure) for structure in structures}
    return {structure: node for structure, node in found.items() if node is not None}


@dataclass(frozen=True)
class _Index:
    """A graph's nodes by names and by codes."""

    names: Mapping[NameKey, Node]
    codes: Mapping[tuple[str, str], tuple[Node, ...]]

    def node(self, structure: Structure) -> Node | None:
        entry = parse_terminology(structure.terminology)
        keys = name_keys(structure.name)
        said, named = _side_of(entry), next((key.side for key in keys if key.side), None)
        if entry.category == _ABNORMAL or (said and named and said != named):
            return None
        side = said or named
        implied = {_side_in_code(node) for node in self._of_code(entry.type)} - {None}
        if side and implied and side not in implied:
            return None
        coded = self._coded(entry, side, keys)
        if coded is not None:
            return coded
        return next((node for key in keys if (node := self.names.get(NameKey(side, key.words))) is not None), None)

    def _coded(self, entry: Terminology, side: Side | None, keys: Sequence[NameKey]) -> Node | None:
        if entry == UNCLASSIFIED:
            return None
        fitting = [node for node in self._of_code(entry.type) if _side_of_node(node) == (side or _side_in_code(node))]
        # Several nodes may share a code, for example the parts of a structure that only has one as a whole.
        named = [node for node in fitting if any(self.names.get(NameKey(side, key.words)) is node for key in keys)]
        return named[0] if named else fitting[0] if len(fitting) == 1 else None

    def _of_code(self, code: DicomCode) -> tuple[Node, ...]:
        direct = self.codes.get((code.scheme_designator, code.value))
        if direct is not None or code.scheme_designator != "SRT":
            return direct or ()
        # The codes that SNOMED had before: pydicom's comparison knows them.
        return next((nodes for (scheme, value), nodes in self.codes.items() if DicomCode(value, scheme, "") == code), ())


@lru_cache(maxsize=16)
def _index(graph: str) -> _Index:
    names: dict[NameKey, Node] = {}
    codes: dict[tuple[str, str], tuple[Node, ...]] = {}
    for node in load_graph(graph).nodes.values():
        names |= {name_key(name): node for name in (node.name, *node.synonyms)}
        if node.code is not None:
            key = (node.code.scheme, node.code.value)
            codes[key] = (*codes.get(key, ()), node)
    return _Index(names, codes)


def _side_of(entry: Terminology) -> Side | None:
    for modifier in (entry.modifier, entry.region_modifier):
        if modifier is not None:
            sides: list[tuple[DicomCode, Side]] = [(_LEFT, "left"), (_RIGHT, "right"), (_BOTH, "both")]
            side = next((side for code, side in sides if code == modifier), None)
            if side is not None:
                return side
    return None


def _side_of_node(node: Node) -> Side | None:
    return node.laterality or name_key(node.name).side


def _side_in_code(node: Node) -> Side | None:
    """The side that is part of a coded concept, as in "left ventricle": nobody gives it a second time."""
    return name_key(node.code.meaning).side if node.code is not None else None
