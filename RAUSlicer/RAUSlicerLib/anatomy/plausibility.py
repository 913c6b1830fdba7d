"""Tells where structures lie as anatomy does not: outside of what holds them, or left and right exchanged."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache

import numpy as np

from ..imaging.segmentation import Structure
from .graph import AnatomyGraph, Node
from .shapes import Shape

# Segmentations of two structures that touch each other are rarely exact to a voxel, and what lies inside may bulge a little.
_MARGIN_MM = 2.0
_OUTSIDE = 0.5
_DIRECTIONS = 200


def implausible(
    shapes: Mapping[Structure, Shape], attached: Mapping[Structure, tuple[AnatomyGraph, Node]], names: Mapping[Structure, str]
) -> dict[Structure, tuple[str, ...]]:
    """Sentences about structures that lie where they should not; structures without any are left out.

    A structure should lie within its parent in the graph and within the nodes that surround it, where these are segmented: at least half of
    it in their convex hull. Left ones should lie to the left of their right counterparts.

    Args:
        shapes: Of the structures that were found.
        attached: Their nodes.
        names: What the sentences call them.
    """
    of_node: dict[tuple[str, str], list[Structure]] = {}
    for structure, (graph, node) in attached.items():
        if structure in shapes:
            of_node.setdefault((graph.name, node.id), []).append(structure)
    reaches: dict[Structure, np.ndarray] = {}
    out: dict[Structure, tuple[str, ...]] = {}
    for structure, shape in shapes.items():
        if structure not in attached:
            continue
        graph, node = attached[structure]
        sentences = []
        for around in _around(graph, node, of_node):
            own = of_node[graph.name, around.id]
            if around.id not in node.within and sum(shapes[one].voxels for one in own) < shape.voxels:
                # Less than its part: what was left of the whole when its parts were drawn, and not its outline.
                continue
            others = [_reach_of(one, shapes, reaches) for one in _inside(graph, around, of_node, without=node)]
            share = _share_outside(shape, others)
            if share > _OUTSIDE:
                sentences.append(f"{100 * share:.0f} % of {names[structure]} lies outside of {names[own[0]]}, which should hold it.")
        counterpart = graph.counterpart(node.id)
        other = of_node.get((graph.name, counterpart.id), []) if counterpart is not None else []
        if len(other) == 1 and len(of_node[graph.name, node.id]) == 1:
            sentences += _side_sentences(structure, other[0], node, shapes, names)
        if sentences:
            out[structure] = tuple(sentences)
    return out


def _around(graph: AnatomyGraph, node: Node, of_node: Mapping[tuple[str, str], object]) -> list[Node]:
    """What is segmented of what should hold a node: the nearest ancestor and the nodes that surround it."""
    ancestors = [above for above in graph.ancestors(node.id) if (graph.name, above.id) in of_node]
    return ancestors[:1] + [graph.nodes[id_] for id_ in node.within if (graph.name, id_) in of_node]


def _inside(graph: AnatomyGraph, around: Node, of_node: Mapping[tuple[str, str], list[Structure]], without: Node) -> Iterable[Structure]:
    """The segmented parts of a node, but those of another: label maps take the voxels of a part away from the whole."""
    left_out = {below.id for below in graph.depth_first(without.id)}
    for below in graph.depth_first(around.id):
        if below.id not in left_out:
            yield from of_node.get((graph.name, below.id), ())


def _reach_of(structure: Structure, shapes: Mapping[Structure, Shape], reaches: dict[Structure, np.ndarray]) -> np.ndarray:
    """How far a structure reaches in each direction; what was worked out before is taken from ``reaches``."""
    if structure not in reaches:
        reaches[structure] = (_directions() @ shapes[structure].surface.T).max(axis=1)
    return reaches[structure]


def _share_outside(shape: Shape, reaches: Sequence[np.ndarray]) -> float:
    """Which share of a structure lies outside of the convex hull of others, seen from many directions, and a margin around it."""
    limits = np.max(reaches, axis=0) + _MARGIN_MM
    return float(((shape.sample @ _directions().T) > limits).any(axis=1).mean())


def _side_sentences(structure: Structure, other: Structure, node: Node, shapes: Mapping[Structure, Shape], names: Mapping) -> list[str]:
    # In LPS the first axis points to the patient's left.
    distance = float(shapes[structure].centroid[0] - shapes[other].centroid[0])
    if (distance > 0) == (node.laterality == "left"):
        return []
    wrong = "right" if node.laterality == "left" else "left"
    return [f"{names[structure]} lies to the {wrong} of {names[other]}: sides may be exchanged in the image or in the result."]


@lru_cache(maxsize=1)
def _directions() -> np.ndarray:
    """Evenly spread unit vectors (n, 3): points of a spiral around the sphere, a golden angle apart."""
    steps = np.arange(_DIRECTIONS)
    height = 1 - (2 * steps + 1) / _DIRECTIONS
    angle = steps * np.pi * (3 - np.sqrt(5))
    radius = np.sqrt(1 - height**2)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle), height], axis=1)
