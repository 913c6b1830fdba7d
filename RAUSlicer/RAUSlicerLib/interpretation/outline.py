"""The order of a report: which structures are treated together, under which node of the anatomy graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..anatomy.graph import AnatomyGraph, Node
from .evidence import StructureFindings

MOST_TOGETHER = 8
"""More structures than these are not described one after the other: a section of them is a summary."""
MOST_IN_TABLE = 30
"""A section of a long report, which is a summary and a table anyway, is divided from this number of structures on."""
FEWEST_TOGETHER = 3
"""Fewer structures get no section of their own where their neighbours can take them in."""
UNATTACHED = "Other structures"


@dataclass(frozen=True)
class Chapter:
    """Structures that are treated together. ``node`` is the graph's, None for those that are attached to none."""

    title: str
    node: str | None
    findings: tuple[StructureFindings, ...]


def chapters(findings: Sequence[StructureFindings], graphs: Mapping[str, AnatomyGraph], most: int = MOST_TOGETHER) -> tuple[Chapter, ...]:
    """Divide structures by the graphs that they are attached to, in the graphs' order; the unattached come last, in their own order.

    A chapter has no more than ``most`` structures as far as the graph allows.
    """
    attached: dict[str, dict[str, list[StructureFindings]]] = {}
    loose = []
    for found in findings:
        graph = graphs.get(found.graph or "")
        if graph is None or found.node not in graph.nodes:
            loose.append(found)
        else:
            attached.setdefault(graph.name, {}).setdefault(str(found.node), []).append(found)
    out = [chapter for name, of_node in attached.items() for chapter in _divide(graphs[name], graphs[name].root, of_node, most)]
    if loose:
        out.append(Chapter(UNATTACHED if out else "Structures", None, tuple(loose)))
    return tuple(out)


def nested(chapter: Chapter, graph: AnatomyGraph | None) -> bool:
    """Whether one of a chapter's structures lies in another by the graph, or shares its node, so that their volumes can't be added."""
    nodes = [found.node for found in chapter.findings if found.node is not None]
    if graph is None or len(nodes) < len(chapter.findings) or len(set(nodes)) < len(nodes):
        return True
    return any(above.id in nodes for node in nodes for above in graph.ancestors(node))


def _divide(graph: AnatomyGraph, node: Node, attached: Mapping[str, Sequence[StructureFindings]], most: int) -> list[Chapter]:
    inside = _inside(graph, node, attached)
    children = [(child, _inside(graph, child, attached)) for child in graph.children(node.id)]
    populated = [child for child, found in children if found]
    if not inside:
        return []
    if len(populated) == 1 and not attached.get(node.id):
        # The graph says more closely what all of them are part of. A leaf's name would only repeat the structure's.
        return (
            _divide(graph, populated[0], attached, most)
            if graph.children(populated[0].id)
            else [Chapter(_title(node), node.id, tuple(inside))]
        )
    if len(inside) <= most or not populated:
        return [Chapter(_title(node), node.id, tuple(inside))]
    out, rest = [], list(attached.get(node.id, ()))
    small = [child for child, found in children if 0 < len(found) < FEWEST_TOGETHER]
    for child, found in children:
        # A small group is not hidden among others if there are no others.
        if child in small and (rest or len(small) > 1):
            rest += found
        elif found:
            out += _divide(graph, child, attached, most)
    if rest:
        out.append(Chapter(f"{_title(node)}: other structures" if out else _title(node), node.id, tuple(rest)))
    return out


def _title(node: Node) -> str:
    return node.name[:1].upper() + node.name[1:]


def _inside(graph: AnatomyGraph, node: Node, attached: Mapping[str, Sequence[StructureFindings]]) -> list[StructureFindings]:
    return [found for below in graph.depth_first(node.id) for found in attached.get(below.id, ())]
