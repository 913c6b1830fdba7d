"""An inclusion graph of anatomy: what lies in what, under which names and codes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

Laterality = Literal["left", "right"]


@dataclass(frozen=True)
class Code:
    """A coded concept. ``scheme`` is DICOM's designator of the vocabulary, ``SCT`` for SNOMED CT."""

    scheme: str
    value: str
    meaning: str


@dataclass(frozen=True)
class Node:
    """One structure or region of the body.

    ``id`` is unique within its graph. ``code`` is of the structure without its side; ``laterality`` gives that. ``synonyms`` are further
    names, sides written out where they belong to the name. ``abbreviations`` are understood in questions alone: in a label map's table, LV
    may be a ventricle of the brain. ``within`` are nodes other than the parent whose outline surrounds this one in the body, as the wall of
    a ventricle surrounds its cavity.
    """

    id: str
    name: str
    parent: str | None = None
    laterality: Laterality | None = None
    synonyms: tuple[str, ...] = ()
    code: Code | None = None
    within: tuple[str, ...] = ()
    abbreviations: tuple[str, ...] = ()


@dataclass(frozen=True)
class AnatomyGraph:
    """A tree of nodes, parents before children. ``title`` is what a report calls it."""

    name: str
    title: str
    nodes: Mapping[str, Node] = field(repr=False)

    @property
    def root(self) -> Node:
        return next(iter(self.nodes.values()))

    @cached_property
    def _children(self) -> Mapping[str | None, tuple[Node, ...]]:
        out: dict[str | None, tuple[Node, ...]] = {}
        for node in self.nodes.values():
            out[node.parent] = (*out.get(node.parent, ()), node)
        return out

    def children(self, id_: str) -> tuple[Node, ...]:
        """The nodes directly inside of one, in the graph's order."""
        return self._children.get(id_, ())

    def parent(self, id_: str) -> Node | None:
        """The node that holds this one; None for the root."""
        above = self.nodes[id_].parent
        return None if above is None else self.nodes[above]

    def ancestors(self, id_: str) -> tuple[Node, ...]:
        """All that hold a node, the nearest first."""
        out: list[Node] = []
        node = self.parent(id_)
        while node is not None:
            out.append(node)
            node = self.parent(node.id)
        return tuple(out)

    def counterpart(self, id_: str) -> Node | None:
        """The same structure of the other side; None for what has none. The ids of both differ in ``left_`` and ``right_`` only."""
        side = self.nodes[id_].laterality
        if side is None:
            return None
        other = "right" if side == "left" else "left"
        return self.nodes.get(f"{other}_{id_.removeprefix(f'{side}_')}")

    def depth_first(self, id_: str | None = None) -> Iterator[Node]:
        """A node and all inside of it, each parent followed by its children: the order of a report."""
        node = self.root if id_ is None else self.nodes[id_]
        yield node
        for child in self.children(node.id):
            yield from self.depth_first(child.id)

    def leaves(self, id_: str | None = None) -> tuple[Node, ...]:
        """The nodes inside of one that hold no others."""
        return tuple(node for node in self.depth_first(id_) if not self.children(node.id))
