"""Findings as they might be measured, and small graphs to order them."""

from __future__ import annotations

from collections.abc import Sequence

from RAUSlicerLib.anatomy.graph import AnatomyGraph, Code, Node
from RAUSlicerLib.interpretation.evidence import Comparison, Measurement, Quantity, StructureFindings
from RAUSlicerLib.results import Status

HU = "[hnsf'U]"
NOT_COMPARED = Comparison()


def graph(name: str, *nodes: Node) -> AnatomyGraph:
    return AnatomyGraph(name, name.title(), {node.id: node for node in nodes})


ABDOMEN = graph(
    "abdomen",
    Node("abdomen", "Abdomen"),
    Node("liver", "Liver", "abdomen", code=Code("SCT", "10200004", "Liver")),
    Node("spleen", "Spleen", "abdomen", code=Code("SCT", "78961009", "Spleen")),
    Node("kidneys", "Kidneys", "abdomen"),
    Node("right kidney", "Right kidney", "kidneys", "right", code=Code("SCT", "64033007", "Kidney")),
    Node("left kidney", "Left kidney", "kidneys", "left", code=Code("SCT", "64033007", "Kidney")),
    Node("gallbladder", "Gallbladder", "abdomen"),
)
GRAPHS = {"abdomen": ABDOMEN}


def volume(name: str, value: float, comparison: Comparison = NOT_COMPARED, cut: bool = False) -> Measurement:
    return Measurement(Quantity.VOLUME, value, "mL", (name,), comparison, cut)


def found(
    name: str,
    *measurements: Measurement,
    status: Status = Status.FOUND,
    confidence: float = 0.9,
    node: str | None = None,
    graph: str | None = "abdomen",
    warnings: tuple[str, ...] = (),
) -> StructureFindings:
    return StructureFindings(name, status, confidence, measurements, graph if node else None, node, warnings)


def abdomen() -> tuple[StructureFindings, ...]:
    """A found, a cut, a pair with an uncertain one, a missing and an unattached structure; their order is not the graph's."""
    left = volume("Left kidney", 171.3, Comparison(reference=150.2))
    right = volume("Right kidney", 148.44, Comparison(reference=160.0))
    asymmetry = Measurement(
        Quantity.ASYMMETRY,
        100 * (171.3 - 148.44) / ((171.3 + 148.44) / 2),
        "%",
        ("Left kidney", "Right kidney"),
        Comparison(reference=-6.3),
    )
    return (
        found("Lesion 12", volume("Lesion 12", 0.0512)),
        found("Gallbladder", status=Status.NOT_FOUND, confidence=0.11, node="gallbladder"),
        found("Left kidney", left, asymmetry, node="left kidney", status=Status.LOW_CONFIDENCE, confidence=0.43),
        found("Right kidney", right, asymmetry, node="right kidney", confidence=0.88),
        found(
            "Liver",
            volume("Liver", 1533.27, Comparison(1366.2, 1450.0, 120.0, 0.694, 12)),
            Measurement(Quantity.EXTENT_RIGHT_LEFT, 211.6, "mm", ("Liver",)),
            Measurement(Quantity.EXTENT_ANTERIOR_POSTERIOR, 160.2, "mm", ("Liver",)),
            Measurement(Quantity.EXTENT_SUPERIOR_INFERIOR, 169.5, "mm", ("Liver",)),
            Measurement(Quantity.MEAN_INTENSITY, -3.2, HU, ("Liver",), Comparison(reference=104.6)),
            Measurement(Quantity.INTENSITY_SPREAD, 14.4, HU, ("Liver",)),
            Measurement(Quantity.POSITION, 8.26, "mm", ("Liver",)),
            node="liver",
        ),
        found(
            "Spleen",
            volume("Spleen", 98.7, Comparison(reference=240.0), cut=True),
            Measurement(Quantity.EXTENT_SUPERIOR_INFERIOR, 61.0, "mm", ("Spleen",), is_cut=True),
            node="spleen",
            warnings=("Most of Spleen lies outside of Abdomen.",),
        ),
    )


def gyri(count: int, wrong: Sequence[int] = ()) -> tuple[tuple[StructureFindings, ...], dict[str, AnatomyGraph]]:
    """Many structures in two lobes and the graph of them; those of ``wrong`` are three times the reference's."""
    nodes = [Node("brain", "Brain"), Node("front", "Frontal lobe", "brain"), Node("back", "Occipital lobe", "brain")]
    out = []
    for index in range(count):
        name, node = f"Gyrus {index}", f"g{index}"
        nodes.append(Node(node, name, "front" if index % 3 else "back"))
        reference = 10.0 + index
        value = reference * (3.0 if index in wrong else 1.01)
        out.append(found(name, volume(name, value, Comparison(reference=reference)), node=node, graph="brain"))
    return tuple(out), {"brain": graph("brain", *nodes)}
