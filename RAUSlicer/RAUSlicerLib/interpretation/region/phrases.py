"""Knowledge as data: which findings a region can have, in which words, and what they are mistaken for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from ...anatomy.graph import AnatomyGraph, Node
from ...errors import ResourceError
from ...support import strict_json
from ...support.resources import resource_path

_FORMAT = 1
# In a finding's regions: every node that the model knows.
ANYWHERE = "*"


@dataclass(frozen=True)
class Finding:
    """Something that can be observed of a region.

    ``regions`` are ids of nodes; none for what is said of whole images only. ``present`` and ``absent`` are phrases, the first of each the
    one that is used by default. ``confused_with`` are findings that look like this one. ``located`` says how a region's name joins a
    phrase. Nothing is known of findings that are not ``trained``: there were too few cases with them. ``unseen`` are phrases that training
    leaves out, for judging how other words are understood.
    """

    id: str
    regions: tuple[str, ...]
    present: tuple[str, ...]
    absent: tuple[str, ...]
    confused_with: tuple[str, ...] = ()
    located: str = "{phrase} in the {region}"
    trained: bool = True
    unseen: tuple[str, ...] = ()

    def at(self, phrase: str, region: str) -> str:
        """A phrase with the name of the region in it."""
        return self.located.format(phrase=phrase, region=spoken(region))

    def fits(self, node_id: str) -> bool:
        """Whether it can be said of the region."""
        return node_id in self.regions or ANYWHERE in self.regions


@dataclass(frozen=True)
class Knowledge:
    """The findings of one anatomy graph's regions, by id."""

    graph: str
    findings: Mapping[str, Finding]

    def of(self, node_id: str) -> tuple[Finding, ...]:
        """What can be observed of a region."""
        return tuple(finding for finding in self.findings.values() if finding.fits(node_id))


@lru_cache(maxsize=8)
def load_knowledge(graph: str) -> Knowledge:
    """The shipped knowledge of a graph's regions.

    Raises:
        ResourceError: there is none, or its file is damaged.
    """
    path = resource_path("Anatomy", f"knowledge_{graph}.json")
    try:
        document = strict_json.load(path)
        if document["format"] != _FORMAT or document["graph"] != graph:
            raise ValueError(f"it is of format {document['format']} and for {document['graph']!r}")
        findings = [_finding(entry) for entry in document["findings"]]
    except (KeyError, TypeError, ValueError) as error:
        raise ResourceError(
            f"The knowledge file {str(path)!r} can't be used.", f"It is damaged: {error}.", "Install RAUSlicer again, or correct the file."
        ) from error
    known = {finding.id: finding for finding in findings}
    return Knowledge(graph, known)


def _finding(entry: Mapping) -> Finding:
    regions, present, absent, confused = (tuple(entry[key]) for key in ("regions", "present", "absent", "confused_with"))
    if not present or not absent:
        raise ValueError(f"the finding {entry['id']!r} has no phrase")
    return Finding(
        id=entry["id"],
        regions=regions,
        present=present,
        absent=absent,
        confused_with=confused,
        located=entry.get("located", Finding.located),
        trained=entry.get("trained", Finding.trained),
        unseen=tuple(entry.get("unseen", ())),
    )


def spoken(name: str) -> str:
    """A region's name as it stands within a sentence: ``Right lung`` is ``right lung``; abbreviations stay.

    >>> spoken("Right lung"), spoken("SVC")
    ('right lung', 'SVC')
    """
    return name if name[:2].isupper() else name[:1].lower() + name[1:]


def names_of(graph: AnatomyGraph, node: Node) -> tuple[str, ...]:
    """How a region is called, its name first; ``graph`` is not looked at for a node with synonyms of its own."""
    parent = graph.parent(node.id)
    fallback = () if node.synonyms or parent is None else (f"{spoken(node.name)} of the {spoken(parent.name)}",)
    return (spoken(node.name), *(spoken(name) for name in node.synonyms), *fallback)
