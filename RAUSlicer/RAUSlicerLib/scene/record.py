"""What a run said of a structure, kept on its segment: it is saved with the segmentation, and undone with it."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from pathlib import PurePath
from typing import Any

import slicer
import vtk
from vtk.util.numpy_support import vtk_to_numpy

from ..imaging.label_values import value_counts
from ..support import strict_json

Corner = tuple[float, float, float]
Plane = tuple[int, int]

_PREFIX = "RAUSlicer."
_MISSING = _PREFIX + "NotFound"
# qMRMLNodeComboBox tells results from other segmentations by this attribute.
RESULT_ATTRIBUTE = _PREFIX + "Result"
_SOURCE = _PREFIX + "Source"
_TARGET = "RAUSlicer.target"
_REFERENCE = "RAUSlicer.reference"
_REFERENCE_SEGMENTATION = "RAUSlicer.referenceSegmentation"
# How Slicer calls the representation of segments as voxels.
BINARY = "Binary labelmap"
_MOST_LAYERS = 64


@dataclass(frozen=True)
class Row:
    """A structure of a result.

    ``key`` is the segment's id, or the name of a structure that was not found and so has no segment. ``source`` is the reference's segment
    id, or its name where it has none. ``status`` is a value of ``results.Status``. Volumes are in mL, ``volume_ml`` is what the segment
    holds now. ``box_mm`` is where the run looked, in LPS, mm, in the target's own coordinates. ``painted`` are planes (axis, index) of the
    target that the user has painted and used for an update. ``presence`` is the localizer's word on whether it is there, 0 to 1.
    """

    key: str
    name: str
    color: tuple[float, float, float]
    status: str
    confidence: float
    volume_ml: float
    reference_volume_ml: float
    box_mm: tuple[Corner, Corner] | None = None
    accepted: bool = False
    present: bool = True
    painted: tuple[Plane, ...] = ()
    source: str = ""
    presence: float | None = None

    @property
    def ratio(self) -> float | None:
        """Volume over the reference's; None where one of them is not there."""
        return self.volume_ml / self.reference_volume_ml if self.present and self.reference_volume_ml > 0 else None


def row_of(result) -> Row:
    """A row that stands for a StructureResult, before anything is written."""
    box = result.localization.box_mm if result.localization is not None else None
    return Row(
        key=result.structure.name,
        name=result.structure.name,
        color=tuple(result.structure.color or (0.5, 0.5, 0.5)),
        status=str(result.status.value),
        confidence=float(result.confidence),
        volume_ml=float(result.volume_ml),
        reference_volume_ml=float(result.reference_volume_ml),
        box_mm=box,
        present=result.status.value != "not found",
        source=result.structure.id or result.structure.name,
        presence=float(result.localization.presence) if result.localization is not None else None,
    )


def remember(segment, row: Row) -> None:
    """Keep a row on its segment."""
    fields = {
        "Status": row.status,
        "Source": row.source,
        "Confidence": f"{row.confidence:.4f}",
        "ReferenceVolumeMl": f"{row.reference_volume_ml:.6g}",
        # No colons or bars: Slicer's segmentation files separate tags with them.
        "Box": " ".join(f"{value:.3f}" for corner in row.box_mm for value in corner) if row.box_mm else "",
        "Presence": f"{row.presence:.4f}" if row.presence is not None else "",
        "Painted": " ".join(f"{axis},{index}" for axis, index in row.painted),
    }
    for name, text in fields.items():
        segment.SetTag(_PREFIX + name, text)


def remember_missing(node, rows: list[Row]) -> None:
    """Keep the rows of structures that were not found on the segmentation node."""
    fields = ("name", "color", "reference_volume_ml", "box_mm", "source", "presence")
    items = [{field: getattr(row, field) for field in fields} for row in rows]
    node.SetAttribute(_MISSING, strict_json.dumps(items) if items else None)


def remember_inputs(node, reference, reference_segmentation, target) -> None:
    """Mark a node as a result and keep what it was made from, as references that follow the nodes through saving and loading."""
    node.SetAttribute(RESULT_ATTRIBUTE, "1")
    for role, other in ((_REFERENCE, reference), (_REFERENCE_SEGMENTATION, reference_segmentation), (_TARGET, target)):
        node.SetNodeReferenceID(role, other.GetID() if other is not None else None)


def inputs_of(node) -> tuple:
    """(reference volume, reference segmentation, target volume) of a result; None for what is no longer in the scene."""
    return tuple(node.GetNodeReference(role) for role in (_REFERENCE, _REFERENCE_SEGMENTATION, _TARGET))


def remember_source(node, model: str, localizer: str) -> None:
    """Keep what a result was made with; of a model's folder its name alone."""
    node.SetAttribute(_SOURCE, json.dumps({"Model": PurePath(model).name, "Localizer": localizer}))


def source_of(node) -> dict[str, str]:
    """What a result was made with, by heading; empty where that was not kept."""
    kept = _kept(node, _SOURCE)
    return {str(heading): str(text) for heading, text in kept.items() if text} if isinstance(kept, dict) else {}


def is_result(node) -> bool:
    """Whether a segmentation node was written by a run."""
    return node is not None and node.GetAttribute(RESULT_ATTRIBUTE) is not None


class VoxelCounts:
    """How many voxels the labels of layers have. A layer is counted again only when it has changed: a large one takes a moment."""

    def __init__(self) -> None:
        self._kept: dict[str, tuple[int, dict[int, int]]] = {}

    def of(self, segment) -> int:
        """The voxels of a segment; those of its layer's other segments have other labels."""
        image = segment.GetRepresentation(BINARY)
        if image is None or image.IsEmpty():
            return 0
        address, time = image.GetAddressAsString(""), image.GetMTime()
        # No two changes have the same time, so another image at the same address is told apart too.
        if self._kept.get(address, (0,))[0] != time:
            if len(self._kept) > _MOST_LAYERS:
                self._kept.clear()
            self._kept[address] = time, value_counts(vtk_to_numpy(image.GetPointData().GetScalars()))
        return self._kept[address][1].get(segment.GetLabelValue(), 0)


def rows_of(node, counts: VoxelCounts | None = None) -> list[Row]:
    """A result's rows: its segments in their order, then what was not found. Who asks often keeps ``counts``."""
    segmentation, counts = node.GetSegmentation(), counts or VoxelCounts()
    segments = [(id_, segmentation.GetSegment(id_)) for id_ in segmentation.GetSegmentIDs()]
    return [_row_of_segment(id_, segment, counts) for id_, segment in segments if _tag(segment, "Status")] + missing_of(node)


def missing_of(node) -> list[Row]:
    """The rows of structures that were not found; none where what a scene's file says of them is damaged."""
    try:
        return _missing_rows(_kept(node, _MISSING) or [])
    except (KeyError, TypeError, ValueError):
        return []


def _kept(node, attribute: str) -> Any:
    """What an attribute says; None where there is none, or a scene's file that somebody has changed holds something else."""
    try:
        return strict_json.loads(node.GetAttribute(attribute) or "null")
    except ValueError:
        return None


def _missing_rows(items: list[dict[str, Any]]) -> list[Row]:
    return [
        Row(
            key=item["name"],
            name=item["name"],
            color=tuple(item["color"]),
            status="not found",
            confidence=0.0,
            volume_ml=0.0,
            reference_volume_ml=item["reference_volume_ml"],
            box_mm=_box([value for corner in item["box_mm"] or () for value in corner]),
            present=False,
            source=item["source"],
            presence=item.get("presence"),
        )
        for item in items
    ]


def forget_missing(node, name: str) -> None:
    """A structure that was not found has a segment now, or is removed from the table."""
    remember_missing(node, [row for row in missing_of(node) if row.name != name])


def with_painted(row: Row, planes: tuple[Plane, ...]) -> Row:
    """A row after an update from these planes, on top of those of earlier updates."""
    return replace(row, painted=tuple(sorted(set(row.painted) | set(planes))))


def _row_of_segment(id_: str, segment, counts: VoxelCounts) -> Row:
    logic = slicer.vtkSlicerSegmentationsModuleLogic
    image = segment.GetRepresentation(BINARY)
    voxel_ml = math.prod(image.GetSpacing()) / 1000 if image is not None else 0.0
    return Row(
        key=id_,
        name=segment.GetName(),
        color=tuple(segment.GetColor()),
        status=_tag(segment, "Status"),
        confidence=float(_tag(segment, "Confidence") or 0),
        volume_ml=counts.of(segment) * voxel_ml,
        reference_volume_ml=float(_tag(segment, "ReferenceVolumeMl") or 0),
        box_mm=_box([float(value) for value in _tag(segment, "Box").split()]),
        accepted=logic.GetSegmentStatus(segment) == logic.Completed,
        painted=tuple(_plane(text) for text in _tag(segment, "Painted").split()),
        source=_tag(segment, "Source"),
        presence=float(_tag(segment, "Presence")) if _tag(segment, "Presence") else None,
    )


def _tag(segment, name: str) -> str:
    text = vtk.reference("")
    return str(text) if segment.GetTag(_PREFIX + name, text) else ""


def _box(values: list[float]) -> tuple[Corner, Corner] | None:
    return ((values[0], values[1], values[2]), (values[3], values[4], values[5])) if len(values) == 6 else None


def _plane(text: str) -> Plane:
    axis, index = text.split(",")
    return int(axis), int(index)
