"""A result as it is in the scene now, for reports and questions: its target, its segments, and what is known of each."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import slicer
import vtk
from slicer.i18n import tr as _

from ..errors import InputError
from ..imaging.checks import distinct_names
from ..imaging.labelmap import label_counts
from ..imaging.segmentation import Reference, Segmentation, Structure
from ..results import Localization, Status, StructureResult
from . import record
from .segmentations import segmentation_from_node
from .volumes import volume_from_node

_DICOM_INSTANCES = "DICOM.instanceUIDs"


@dataclass(frozen=True)
class Snapshot:
    """A copy of a result. ``keys`` are the keys of its rows (``record.Row``) by the names that sentences use.

    The structures of ``results`` are the segmentation's, those that were not found too. ``source`` says what it was made with.
    """

    volume: sitk.Image
    segmentation: Segmentation
    results: tuple[StructureResult, ...]
    reference: Reference | None
    source: dict[str, str]
    keys: dict[str, str]


def snapshot_of(node) -> Snapshot:
    """Copy a result as it is now, with its reference where that is still in the scene.

    Segments that the user has added are in it too; nothing is known of them but their voxels.

    Raises:
        InputError: the target is no longer in the scene, or one of the nodes can't be used.
    """
    reference_volume, reference_segmentation, target = record.inputs_of(node)
    if target is None:
        raise InputError(
            _("The target volume of this result is no longer in the scene."),
            _("A report describes the segments together with the image they lie in."),
            _("Load the volume again and repeat the transfer."),
        )
    volume, segmentation = volume_from_node(target), segmentation_from_node(node, target)
    results, keys = _results(segmentation, {row.key: row for row in record.rows_of(node)})
    structures = tuple(result.structure for result in results)
    named = dict(zip(distinct_names(structures), keys, strict=True))
    reference = _reference(reference_volume, reference_segmentation)
    return Snapshot(volume, replace(segmentation, structures=structures), results, reference, record.source_of(node), named)


def stamp(node) -> tuple:
    """Changes whenever a report on a result would: by its segments' names and voxels, not by their colours or by being accepted."""
    segmentation = node.GetSegmentation()
    segments = [(id_, segmentation.GetSegment(id_)) for id_ in segmentation.GetSegmentIDs()]
    images = [segment.GetRepresentation(record.BINARY) for _id, segment in segments]
    return tuple(
        (id_, segment.GetName(), segment.GetLabelValue(), image.GetMTime() if image is not None else 0)
        for (id_, segment), image in zip(segments, images, strict=True)
    )


def dicom_folder(volume_node) -> Path | None:
    """The folder with the files of the series that a volume was loaded from; None where it was none, or they lie in several folders."""
    instances = (volume_node.GetAttribute(_DICOM_INSTANCES) or "").split() if volume_node is not None else []
    database = getattr(slicer, "dicomDatabase", None)
    if not instances or database is None:
        return None
    files = [database.fileForInstance(uid) for uid in instances]
    # A series that was removed from the database has no files any more.
    folders = {Path(file).parent for file in files}
    return folders.pop() if all(files) and len(folders) == 1 else None


def marked_region(volume_node) -> np.ndarray | None:
    """The voxels (z, y, x) of a volume inside of the ROI that the user has drawn last; None where there is none.

    The boxes that show where structures were looked for don't count.
    """
    drawn = [node for node in slicer.util.getNodesByClass("vtkMRMLMarkupsROINode") if node.GetNodeReference("RAUSlicer.result") is None]
    if not drawn or volume_node is None or volume_node.GetImageData() is None:
        return None
    roi = drawn[-1]
    image = volume_node.GetImageData()
    shape, first = image.GetDimensions()[::-1], image.GetExtent()[::2]
    to_roi = np.linalg.inv(_matrix(roi.GetObjectToNodeMatrix())) @ _between(volume_node, roi) @ _ijk_to_ras(volume_node)
    half = np.array(roi.GetSize()) / 2
    inside = np.ones(shape, bool)
    # An affine map is the sum of what each axis adds, so no array of points is needed.
    grids = [np.arange(size).reshape([-1 if axis == other else 1 for other in range(3)]) for axis, size in enumerate(shape)]
    for row in range(3):
        distance = to_roi[row, 3] + sum(to_roi[row, axis] * (grids[2 - axis] + first[axis]) for axis in range(3))
        inside &= np.abs(distance) <= half[row]
    return inside


def _results(segmentation: Segmentation, rows: dict[str, record.Row]) -> tuple[tuple[StructureResult, ...], list[str]]:
    """A result for each segment, then for what was not found; and the keys of their rows."""
    counts = [label_counts(layer) for layer in segmentation.layers]
    voxel_ml = math.prod(segmentation.labelmap.GetSpacing()) / 1000
    results, keys = [], []
    for structure in segmentation.structures:
        key = structure.id or structure.name
        results.append(_result(structure, rows.get(key), counts[structure.layer].get(structure.label, 0) * voxel_ml))
        keys.append(key)
    used = {label for count in counts for label in count} | {structure.label for structure in segmentation.structures}
    free = (label for label in itertools.count(1) if label not in used)
    for row in rows.values():
        if not row.present:
            # A label of its own, that no voxel has.
            results.append(_result(Structure(next(free), row.name, row.color, id=row.source), row, 0.0))
            keys.append(row.key)
    return tuple(results), keys


def _result(structure: Structure, row: record.Row | None, volume_ml: float) -> StructureResult:
    if row is None:
        return StructureResult(structure, Status.FOUND if volume_ml else Status.NOT_FOUND, math.nan, volume_ml, 0.0)
    place = None
    if row.presence is not None or row.box_mm is not None:
        place = Localization(structure, math.nan if row.presence is None else row.presence, row.box_mm)
    # A segment that the user has painted by hand is there, whatever the run had said.
    status = Status(row.status) if row.status != Status.NOT_FOUND else Status.FOUND
    return StructureResult(structure, status if volume_ml else Status.NOT_FOUND, row.confidence, volume_ml, row.reference_volume_ml, place)


def _reference(volume_node, segmentation_node) -> Reference | None:
    if volume_node is None or segmentation_node is None:
        return None
    try:
        return Reference(volume_from_node(volume_node), segmentation_from_node(segmentation_node, volume_node))
    except InputError:
        # It was usable for the run. What has become of it since is no obstacle: the run has noted its volumes.
        return None


def _ijk_to_ras(node) -> np.ndarray:
    matrix = vtk.vtkMatrix4x4()
    node.GetIJKToRASMatrix(matrix)
    return _matrix(matrix)


def _between(source_node, destination_node) -> np.ndarray:
    """From one node's own coordinates to another's, where the transforms between them are linear."""
    matrix = vtk.vtkMatrix4x4()
    parents = source_node.GetParentTransformNode(), destination_node.GetParentTransformNode()
    slicer.vtkMRMLTransformNode.GetMatrixTransformBetweenNodes(*parents, matrix)
    return _matrix(matrix)


def _matrix(matrix) -> np.ndarray:
    return slicer.util.arrayFromVTKMatrix(matrix)
