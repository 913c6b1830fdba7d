"""Reads anatomy graphs from their JSON files; docs/reference/anatomy.md describes the format."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

from ..errors import InputError
from ..support import strict_json
from .graph import AnatomyGraph, Code, Laterality, Node
from .names import name_key

FORMAT = 1

# Right before left, as radiologists list them.
_SIDES: Mapping[str | None, tuple[Laterality | None, ...]] = {
    None: (None,),
    "both": ("right", "left"),
    "right": ("right",),
    "left": ("left",),
}
_GRAPH_KEYS = {"format", "name", "title", "nodes"}
_NODE_KEYS = {"id", "name", "parent", "sides", "synonyms", "code", "within", "abbreviations"}
_CODE_KEYS = {"scheme", "value", "meaning"}


def read_graph(path: Path) -> AnatomyGraph:
    """Read and check a graph.

    Raises:
        InputError: the file is missing, no JSON or of another form; a parent is unknown or lies inside of its own child; an id or a name is
            used twice.
    """
    try:
        content = strict_json.load(path)
    except (OSError, ValueError) as error:
        raise _refused(path, "can't be read", str(error)) from error
    try:
        return _graph(content)
    except _FormError as error:
        raise _refused(path, error.problem, error.explanation) from error


class _FormError(Exception):
    def __init__(self, problem: str, explanation: str) -> None:
        super().__init__(problem)
        self.problem = problem
        self.explanation = explanation


def _refused(path: Path, problem: str, explanation: str) -> InputError:
    return InputError(
        f"The anatomy graph {str(path)!r} {problem}.",
        explanation,
        "Correct the file as docs/reference/anatomy.md describes it, or install RAUSlicer again to get the shipped one back.",
    )


def _graph(content: Any) -> AnatomyGraph:
    _check_keys(content, _GRAPH_KEYS, _GRAPH_KEYS, "the file")
    if content["format"] != FORMAT:
        raise _FormError(f"has the format {content['format']!r}", f"This version of RAUSlicer reads format {FORMAT}.")
    entries = content["nodes"]
    if not isinstance(entries, list) or not entries:
        raise _FormError("has no nodes", "Its 'nodes' must be a list with one object a node.")
    for entry in entries:
        _check_entry(entry)
    unresolved = [node for entry in entries for node in _nodes(entry)]
    ids = [node.id for node in unresolved]
    _check_unique(ids, "has the id {} twice", "Nodes are referred to by their ids; left_ and right_ are put before those of paired nodes.")
    nodes = {node.id: _resolved(node, frozenset(ids)) for node in unresolved}
    _check_names(nodes.values())
    return AnatomyGraph(_text(content, "name", "the file"), _text(content, "title", "the file"), _parents_first(nodes))


def _check_entry(entry: Any) -> None:
    _check_keys(entry, _NODE_KEYS, {"id", "name"}, f"the node {entry.get('id')!r}" if isinstance(entry, dict) else "a node")
    where = f"the node {entry['id']!r}"
    for key in ("id", "name"):
        _text(entry, key, where)
    if entry.get("parent") is not None:
        _text(entry, "parent", where)
    if entry.get("sides") not in _SIDES:
        raise _FormError(f"has the sides {entry['sides']!r} at {where}", "They are 'both', 'left' or 'right', or left out.")
    for key in ("synonyms", "within", "abbreviations"):
        values = entry.get(key, [])
        if not isinstance(values, list) or not all(isinstance(value, str) and value.strip() for value in values):
            raise _FormError(f"has wrong {key} at {where}", "They must be a list of texts.")
    if entry.get("code") is not None:
        _check_keys(entry["code"], _CODE_KEYS, _CODE_KEYS, f"the code of {where}")
        for key in _CODE_KEYS:
            _text(entry["code"], key, f"the code of {where}")


def _check_keys(entry: Any, known: set[str], needed: set[str], where: str) -> None:
    if not isinstance(entry, dict):
        raise _FormError(f"has something else than an object at {where}", f"It must be an object with the keys {', '.join(sorted(known))}.")
    if unknown := sorted(set(entry) - known):
        raise _FormError(f"has the unknown key {unknown[0]!r} at {where}", f"Known are {', '.join(sorted(known))}.")
    if missing := sorted(needed - set(entry)):
        raise _FormError(f"lacks the key {missing[0]!r} at {where}", f"Needed are {', '.join(sorted(needed))}.")


def _text(entry: Mapping[str, Any], key: str, where: str) -> str:
    value = entry[key]
    if not isinstance(value, str) or not value.strip():
        raise _FormError(f"has the {key} {value!r} at {where}", "It must be a text that is not empty.")
    return value


def _nodes(entry: Mapping[str, Any]) -> Iterator[Node]:
    code = Code(**entry["code"]) if entry.get("code") else None
    for side in _SIDES[entry.get("sides")]:
        yield Node(
            id=f"{side}_{entry['id']}" if side else entry["id"],
            name=_sided(entry["name"], side),
            parent=entry.get("parent"),
            laterality=side,
            synonyms=tuple(_sided(synonym, side) for synonym in entry.get("synonyms", ())),
            code=code,
            within=tuple(entry.get("within", ())),
            abbreviations=tuple(_sided(short, side) for short in entry.get("abbreviations", ())),
        )


def _sided(name: str, side: Laterality | None) -> str:
    return f"{side} {name}" if side else name


def _resolved(node: Node, ids: frozenset[str]) -> Node:
    """The node with the ids of its own side's parent and surroundings: a right lobe lies in the right lung."""

    def own_side(id_: str) -> str:
        sided = f"{node.laterality}_{id_}"
        if sided in ids:
            return sided
        if id_ not in ids:
            sides = [side for side in get_args(Laterality) if f"{side}_{id_}" in ids]
            reason = "It has sides, so that only nodes of the same side can lie in it." if sides else "No node has that id."
            raise _FormError(f"refers to {id_!r} at the node {node.id!r}, which is unknown", reason)
        return id_

    parent = None if node.parent is None else own_side(node.parent)
    return replace(node, parent=parent, within=tuple(own_side(id_) for id_ in node.within))


def _check_unique(values: Sequence[str], problem: str, explanation: str) -> None:
    twice = next((value for index, value in enumerate(values) if value in values[:index]), None)
    if twice is not None:
        raise _FormError(problem.format(repr(twice)), explanation)


def _check_names(nodes: Iterable[Node]) -> None:
    owners: dict[object, Node] = {}
    for node in nodes:
        for name in (node.name, *node.synonyms):
            key = name_key(name)
            if not key.words:
                raise _FormError(f"has the name {name!r} at the node {node.id!r}", "Nothing is left of it but a side or a filling word.")
            other = owners.setdefault(key, node)
            if other is not node:
                raise _FormError(
                    f"has the name {name!r} at the nodes {other.id!r} and {node.id!r}",
                    "A structure of that name could be attached to either. Case, punctuation, order and plural make no difference.",
                )


def _parents_first(nodes: Mapping[str, Node]) -> dict[str, Node]:
    """The nodes depth first, children in the order of the file."""
    roots = [node for node in nodes.values() if node.parent is None]
    if len(roots) != 1:
        named = ", ".join(repr(node.id) for node in roots) or "none"
        raise _FormError(f"has {len(roots)} nodes without a parent ({named})", "Exactly one node, the root, has none.")
    children: dict[str, list[Node]] = {}
    for node in nodes.values():
        children.setdefault(node.parent or "", []).append(node)
    ordered: dict[str, Node] = {}
    waiting = [roots[0]]
    while waiting:
        node = waiting.pop()
        ordered[node.id] = node
        waiting += reversed(children.get(node.id, []))
    if lost := [id_ for id_ in nodes if id_ not in ordered]:
        raise _FormError(f"has a cycle at the node {lost[0]!r}", f"These nodes lie in themselves or below such nodes: {', '.join(lost)}.")
    return ordered
