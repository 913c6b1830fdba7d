"""Groups structures as anatomy does, for lists that show them as a tree."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from ..imaging.segmentation import Structure
from .graph import AnatomyGraph, Node
from .terms import GRAPHS, attach

OTHER = "Other"


@dataclass(frozen=True)
class Group:
    """Structures under a heading, followed by the groups inside of it. ``node`` is None for those that no graph knows."""

    title: str
    structures: tuple[Structure, ...] = ()
    groups: tuple[Group, ...] = ()
    graph: str | None = None
    node: str | None = None

    def __iter__(self) -> Iterator[Structure]:
        """All structures in it, in the order in which they are shown."""
        yield from self.structures
        for group in self.groups:
            yield from group


def grouped(structures: Sequence[Structure], graphs: Sequence[str] = GRAPHS) -> tuple[Group, ...]:
    """The structures as a tree in the graphs' order; those that fit nowhere come last, under "Other".

    Groups without structures are left out, and so are levels that hold nothing but one other level. Structures stand in the group of the
    node that holds theirs, and in a group of their own node where that holds further ones.
    """
    attached = attach(structures, graphs)
    out: list[Group] = []
    used = {graph.name: graph for graph, _ in attached.values()}
    for graph in sorted(used.values(), key=lambda graph: -sum(of is graph for of, _ in attached.values())):
        of_node: dict[str, tuple[Structure, ...]] = {}
        for structure, (of, node) in attached.items():
            if of is graph:
                of_node[node.id] = (*of_node.get(node.id, ()), structure)
        out.append(_group(graph, graph.root, of_node, graph.title))
    rest = tuple(structure for structure in structures if structure not in attached)
    return (*out, Group(OTHER, rest)) if rest else tuple(out)


def sections(
    structures: Sequence[Structure], most: int = 16, graphs: Sequence[str] = GRAPHS
) -> tuple[tuple[str, tuple[Structure, ...]], ...]:
    """The tree of ``grouped`` as headings in a row, for lists without levels: every structure stands under exactly one.

    A group of more than ``most`` structures is divided as far as the graph divides it; a part of a single structure stays with its whole.
    """
    return tuple(section for group in grouped(structures, graphs) for section in _divided(group, most))


def _divided(group: Group, most: int) -> list[tuple[str, tuple[Structure, ...]]]:
    everything = tuple(group)
    parts = [part for part in group.groups if len(tuple(part)) > 1]
    if len(everything) <= most or not parts:
        return [(group.title, everything)]
    below = [section for part in parts for section in _divided(part, most)]
    shown = {structure for _, of_section in below for structure in of_section}
    rest = tuple(structure for structure in everything if structure not in shown)
    return [*below, (f"{group.title}: other structures", rest)] if rest else below


def _group(graph: AnatomyGraph, node: Node, of_node: Mapping[str, tuple[Structure, ...]], title: str) -> Group:
    structures = list(of_node.get(node.id, ()))
    groups: list[Group] = []
    for child in graph.children(node.id):
        below = _group(graph, child, of_node, child.name[:1].upper() + child.name[1:])
        if below.groups or (graph.children(child.id) and len(below.structures) > 1):
            groups.append(below)
        else:
            # A leaf, or a heading over a single structure.
            structures += below.structures
    if not structures and len(groups) == 1:
        only = groups[0]
        return replace(only, title=title) if node is graph.root else only
    return Group(title, tuple(structures), tuple(groups), graph.name, node.id)
