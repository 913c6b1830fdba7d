"""A library of cases: what was measured of each node of the anatomy graphs, without voxels and without anything of a patient."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..anatomy.terms import GRAPHS, load_graph
from ..errors import InputError
from ..support import strict_json
from ..support.outputs import write_json
from .evidence import Comparison, Measurement, Quantity, StructureFindings

FORMAT = 1
FEWEST_FOR_Z = 3
"""With fewer cases a spread says nothing, and no z-score is given."""

UNITS: Mapping[Quantity, str] = {
    Quantity.VOLUME: "mL",
    Quantity.EXTENT_RIGHT_LEFT: "mm",
    Quantity.EXTENT_ANTERIOR_POSTERIOR: "mm",
    Quantity.EXTENT_SUPERIOR_INFERIOR: "mm",
    Quantity.MEAN_INTENSITY: "[hnsf'U]",
    Quantity.INTENSITY_SPREAD: "[hnsf'U]",
    Quantity.ASYMMETRY: "%",
}
"""What is kept, in which unit. Intensities without a unit differ between scanners, positions depend on the reference."""

Key = tuple[str, str, Quantity]


@dataclass(frozen=True)
class Library:
    """Values by graph, node and quantity, in ascending order, so that those of one case can't be put together again.

    ``cases`` is how many were added; a node may have fewer values, because a structure was missing, not found or cut.
    """

    name: str
    cases: int = 0
    values: Mapping[Key, tuple[float, ...]] = field(default_factory=dict, repr=False)

    @classmethod
    def of_cases(cls, name: str, cases: Iterable[Sequence[StructureFindings]]) -> Library:
        """A library of the findings of several cases, each as ``measure`` returns them."""
        library = cls(name)
        for findings in cases:
            library = library.add(findings)
        return library

    def add(self, findings: Sequence[StructureFindings]) -> Library:
        """The library with one more case.

        Kept are measurements in the units of ``UNITS``, of structures with a node of their own; of those that the border cuts only the
        intensities.
        """
        values = dict(self.values)
        nodes = [(found.graph, found.node) for found in findings if found.node is not None]
        for found in findings:
            if found.graph is None or found.node is None or nodes.count((found.graph, found.node)) > 1:
                continue
            for measurement in found.measurements:
                if _is_kept(measurement):
                    key = (found.graph, found.node, measurement.quantity)
                    values[key] = tuple(sorted((*values.get(key, ()), measurement.value)))
        return Library(self.name, self.cases + 1, values)

    def compare(self, graph: str, node: str, measurement: Measurement) -> Comparison:
        """The measurement beside the library's values: their mean, spread (sample standard deviation) and number, and the z-score.

        There is no z-score with fewer than ``FEWEST_FOR_Z`` cases, for a cut structure, or where all cases are equal. Another unit than the
        library's is not compared.
        """
        values = self.values.get((graph, node, measurement.quantity), ())
        if not values or measurement.unit != UNITS.get(measurement.quantity):
            return Comparison()
        mean = float(np.mean(values))
        if len(values) < FEWEST_FOR_Z:
            return Comparison(mean=mean, n=len(values))
        spread = float(np.std(values, ddof=1))
        comparable = spread > 1e-9 * max(abs(mean), 1e-9) and _is_kept(measurement)
        return Comparison(mean=mean, spread=spread, z_score=(measurement.value - mean) / spread if comparable else None, n=len(values))

    def save(self, path: Path) -> None:
        """Write it as JSON, replacing what is there.

        Raises:
            OutputError: the file can't be written.
        """
        graphs: dict[str, dict[str, dict[str, object]]] = {}
        for (graph, node, quantity), values in sorted(self.values.items()):
            # Six digits are far finer than anything measured, and keep the file readable.
            rounded = [float(f"{value:.6g}") for value in values]
            graphs.setdefault(graph, {}).setdefault(node, {})[quantity.value] = {"unit": UNITS[quantity], "values": rounded}
        content = {"format": FORMAT, "name": self.name, "cases": self.cases, "graphs": graphs}
        write_json(path, "library", content, indent=1)

    @classmethod
    def load(cls, path: Path) -> Library:
        """Read a library and check all of it.

        Raises:
            InputError: the file is missing, no library, of another version, or holds an unknown graph, node, quantity or unit, or values
                that are no numbers.
        """
        try:
            content = strict_json.load(path)
        except (OSError, ValueError) as error:
            raise _refused(path, "can't be read", f"{error}.") from error
        try:
            return cls(*_checked(content))
        except _FormError as error:
            raise _refused(path, *error.args) from error


class _FormError(Exception):
    """Problem and explanation."""


def _is_kept(measurement: Measurement) -> bool:
    known = UNITS.get(measurement.quantity) == measurement.unit
    # The part of a cut structure that is seen is as bright as the rest.
    whole = not measurement.is_cut or measurement.unit == UNITS[Quantity.MEAN_INTENSITY]
    return known and whole and math.isfinite(measurement.value)


def _refused(path: Path, problem: str, explanation: str) -> InputError:
    return InputError(
        f"The library of cases {str(path)!r} {problem}.",
        explanation,
        "Choose another file, or make the library again; docs/reference/anatomy.md says how and describes the format.",
    )


def _checked(content: Any) -> tuple[str, int, dict[Key, tuple[float, ...]]]:
    if not isinstance(content, dict) or "graphs" not in content:
        raise _FormError("is no library", "A library is a JSON object with the keys 'format', 'name', 'cases' and 'graphs'.")
    if content.get("format") != FORMAT:
        raise _FormError(f"has the format {content.get('format')!r}", f"This version of RAUSlicer reads format {FORMAT}.")
    name, cases = content.get("name"), content.get("cases")
    if not isinstance(name, str) or not name.strip():
        raise _FormError("has no name", "Reports name the library that they compare with.")
    if not isinstance(cases, int) or isinstance(cases, bool) or cases < 0:
        raise _FormError(f"has {cases!r} cases", "Their number must be a whole number.")
    values: dict[Key, tuple[float, ...]] = {}
    for graph, nodes in _items(content["graphs"], "graphs"):
        if graph not in GRAPHS:
            raise _FormError(f"has the unknown graph {graph!r}", f"Known are {', '.join(GRAPHS)}.")
        for node, quantities in _items(nodes, f"the graph {graph!r}"):
            if node not in load_graph(graph).nodes:
                raise _FormError(f"has the unknown node {node!r} in the graph {graph!r}", "It was probably made with another version.")
            for quantity, entry in _items(quantities, f"the node {node!r}"):
                kind, numbers = _checked_entry(quantity, entry, node, cases)
                values[graph, node, kind] = numbers
    return name, cases, values


def _items(content: Any, where: str) -> Iterable[tuple[str, Any]]:
    if not isinstance(content, dict):
        raise _FormError(f"has something else than an object at {where}", "Objects by graph, node and quantity are nested in each other.")
    return content.items()


def _checked_entry(quantity: str, entry: Any, node: str, cases: int) -> tuple[Quantity, tuple[float, ...]]:
    if quantity not in {kind.value for kind in UNITS}:
        raise _FormError(
            f"has the unknown quantity {quantity!r} at the node {node!r}", f"Known are {', '.join(kind.value for kind in UNITS)}."
        )
    kind = Quantity(quantity)
    where = f"at the {quantity} of {node!r}"
    if not isinstance(entry, dict) or set(entry) != {"unit", "values"}:
        raise _FormError(f"has a wrong entry {where}", "It must be an object with the keys 'unit' and 'values'.")
    if entry["unit"] != UNITS[kind]:
        raise _FormError(f"has the unit {entry['unit']!r} {where}", f"It must be {UNITS[kind]!r}; values are not converted.")
    numbers = entry["values"]
    plain = isinstance(numbers, list) and all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in numbers)
    if not plain or not numbers or not all(math.isfinite(value) for value in numbers):
        raise _FormError(f"has wrong values {where}", "They must be a list of finite numbers.")
    if len(numbers) > cases:
        raise _FormError(f"has {len(numbers)} values {where}", f"It says that it has {cases} cases, and each gives one value at most.")
    return kind, tuple(sorted(float(value) for value in numbers))
