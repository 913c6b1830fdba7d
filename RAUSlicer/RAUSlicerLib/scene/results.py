"""Results into the scene: a run's segments as drafts, in the right place, without touching what is there."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace

import numpy as np
import slicer
import vtk
from slicer.i18n import tr as _

from ..errors import OutputError
from ..imaging.segmentation import Segmentation, Structure
from ..results import Status, Transfer
from .geometry import array_of, cropped_oriented_image, empty_oriented_image, transform_between
from .record import BINARY, RESULT_ATTRIBUTE, Row, forget_missing, remember, remember_missing, row_of
from .undo import UndoSteps, write_label_map

# Beyond a ten-thousandth of a millimetre, the volume is not the one that the result was computed on.
_SAME_PLACE_MM = 1e-4


@dataclass(frozen=True)
class _Draft:
    """Segments that share one image, ready to be added."""

    image: slicer.vtkOrientedImageData
    structures: tuple[Structure, ...]


def write_result(transfer: Transfer, target_node, output_node=None, undo: UndoSteps | None = None, label: str = ""):
    """Write a run's segments and return the segmentation node, or None where nothing was found (the scene is then left alone).

    A new node is put under the target's own transform and beside the target in the subject hierarchy; its reference geometry is the
    target's. In an existing ``output_node`` the segments are added with unique ids to what is there, converted to that node's own
    transform. Every segment carries its reference's name, colour and terminology and is marked as a draft ("in progress"; "flagged"
    where the confidence is low). What the run said of each structure is kept with it (see ``record``). ``label`` names the undo step.

    Raises:
        OutputError: the target or the output node is no longer in the scene, the target's geometry has changed since the run began, or
            the output node holds surfaces.
    """
    _require_in_scene(target_node, _("target volume"))
    if output_node is not None:
        _require_in_scene(output_node, _("output segmentation"))
        _require_voxels(output_node)
    _require_same_place(transfer.segmentation, target_node)
    drafts = _drafts(transfer.segmentation)
    if not drafts:
        return None
    undo = undo or UndoSteps()
    if output_node is None:
        with undo.new_node(target_node.GetScene(), label) as added:
            node = _new_node(target_node)
            added.append(node)
            _write(transfer, drafts, node, target_node)
        return node
    with undo.changing(output_node, (), label):
        if output_node.GetNodeReference(output_node.GetReferenceImageGeometryReferenceRole()) is None:
            output_node.SetReferenceImageGeometryParameterFromVolumeNode(target_node)
        _write(transfer, drafts, output_node, target_node)
    return output_node


def replace_segment(transfer: Transfer, row: Row, target_node, node, undo: UndoSteps, label: str = "") -> str:
    """Write one structure of a run in the place of what a result holds of it, and return its segment's id.

    The others keep their voxels; where they and the new ones overlap, Slicer keeps both, in layers of their own. A structure that was not
    found before gets a new segment; one that is not found now keeps its segment without voxels.

    Args:
        transfer: The run, which may hold further structures.
        row: What the result says of the structure; its ``painted`` planes are kept.
        target_node: The volume that the run was made on.
        node: The result.
        undo: Gets one step.
        label: Names the step.

    Raises:
        OutputError: as for ``write_result``, or the run holds no such structure.
    """
    _require_in_scene(target_node, _("target volume"))
    _require_in_scene(node, _("result segmentation"))
    _require_voxels(node)
    _require_same_place(transfer.segmentation, target_node)
    result = next((r for r in transfer.results if row.source in (r.structure.id, r.structure.name)), None)
    if result is None:
        raise OutputError(
            _("The run has no result for {name!r}.").format(name=row.name),
            _("It was cancelled before the structure was finished."),
            _("Nothing was changed; run again."),
        )
    image = cropped_oriented_image(transfer.segmentation.mask(result.structure)) or slicer.vtkOrientedImageData()
    transform = transform_between(target_node, node)
    if transform is not None and not image.IsEmpty():
        slicer.vtkOrientedImageDataResample.TransformOrientedImage(image, transform)
    if row.present or not image.IsEmpty():
        with undo.changing(node, [row.key], label):
            modifying = node.StartModify()
            key = row.key if row.present else _add_empty_segment(node, result.structure)
            write_label_map(node, key, image)
            segment = node.GetSegmentation().GetSegment(key)
            remember(segment, replace(row_of(result), painted=row.painted))
            _mark_draft(segment, result.status)
            node.EndModify(modifying)
        return key
    return row.key


def _add_empty_segment(node, structure: Structure) -> str:
    segmentation = node.GetSegmentation()
    id_ = segmentation.GenerateUniqueSegmentID(structure.id or structure.name)
    key = segmentation.AddEmptySegment(id_, structure.name, structure.color or _generated_color(node))
    if structure.terminology:
        segmentation.GetSegment(key).SetTerminology(structure.terminology)
    forget_missing(node, structure.name)
    return key


def _write(transfer: Transfer, drafts: list[_Draft], node, target_node) -> None:
    transform = transform_between(target_node, node)
    rows = {result.structure: row_of(result) for result in transfer.results}
    statuses = {result.structure: result.status for result in transfer.results}
    # The views are told once, at the end: one update instead of one a segment.
    modifying = node.StartModify()
    for draft in drafts:
        if transform is not None:
            slicer.vtkOrientedImageDataResample.TransformOrientedImage(draft.image, transform)
        for structure in draft.structures:
            segment = _add_segment(node, draft.image, structure, statuses.get(structure))
            if structure in rows:
                remember(segment, rows[structure])
    written = {structure for draft in drafts for structure in draft.structures}
    remember_missing(node, [replace(row, present=False) for structure, row in rows.items() if structure not in written])
    node.EndModify(modifying)


def _require_in_scene(node, role: str) -> None:
    if node is None or node.GetScene() is None:
        raise OutputError(
            _("The {role} is no longer in the scene.").format(role=role),
            _("It was removed, or the scene was closed, while the run was under way."),
            _("Load it again and repeat the run; nothing was written."),
        )


def _require_voxels(output_node) -> None:
    segmentation = output_node.GetSegmentation()
    if segmentation.GetNumberOfSegments() and segmentation.GetSourceRepresentationName() != BINARY:
        # Slicer would turn the new segments into surfaces and throw their voxels away.
        raise OutputError(
            _("The output segmentation {name!r} is stored as {kind!r}.").format(
                name=output_node.GetName(), kind=segmentation.GetSourceRepresentationName()
            ),
            _("The result's voxels would be lost in it."),
            _("Write into a new segmentation, or make the binary labelmap its source representation in the Segmentations module."),
        )


def _require_same_place(segmentation: Segmentation, target_node) -> None:
    result = empty_oriented_image(segmentation.labelmap)
    image = target_node.GetImageData()
    same = image is not None and image.GetDimensions() == result.GetDimensions()
    if not (
        same and np.allclose(_corners(target_node, image.GetExtent()), _corners(result, result.GetExtent()), rtol=0, atol=_SAME_PLACE_MM)
    ):
        raise OutputError(
            _("The geometry of the volume {name!r} has changed since the run began.").format(name=target_node.GetName()),
            _("It was cropped, resampled, or a transform was hardened on it, so the result would lie in the wrong place."),
            _("Repeat the run on the volume as it is now; nothing was written."),
        )


def _corners(owner, extent) -> np.ndarray:
    """The centres of the eight corner voxels in RAS, shape (8, 3); of a volume node or an oriented image."""
    matrix = vtk.vtkMatrix4x4()
    if owner.IsA("vtkMRMLVolumeNode"):
        owner.GetIJKToRASMatrix(matrix)
    else:
        owner.GetImageToWorldMatrix(matrix)
    indices = list(itertools.product(extent[0:2], extent[2:4], extent[4:6], (1.0,)))
    return (np.array(indices) @ slicer.util.arrayFromVTKMatrix(matrix).T)[:, :3]


def _drafts(segmentation: Segmentation) -> list[_Draft]:
    drafts = []
    for index, layer in enumerate(segmentation.layers):
        image = cropped_oriented_image(layer)
        if image is None:
            continue
        present = set(np.unique(array_of(image)).tolist())
        structures = tuple(s for s in segmentation.structures if s.layer == index and s.label in present)
        if structures:
            drafts.append(_Draft(image, structures))
    return drafts


def _new_node(target_node):
    scene = target_node.GetScene()
    node = scene.CreateNodeByClass("vtkMRMLSegmentationNode")
    node.UnRegister(None)
    node.SetName(scene.GenerateUniqueName(f"{target_node.GetName()} RAUSlicer"))
    # Before it is added: node selectors filter by the attribute when a node comes.
    node.SetAttribute(RESULT_ATTRIBUTE, "1")
    node = scene.AddNode(node)
    node.CreateDefaultDisplayNodes()
    # With a transform on the target alone, Slicer's functions apply it twice; sharing it leaves the voxels where they are.
    node.SetAndObserveTransformNodeID(target_node.GetTransformNodeID())
    node.SetReferenceImageGeometryParameterFromVolumeNode(target_node)
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    target_item = hierarchy.GetItemByDataNode(target_node)
    study = hierarchy.GetItemAncestorAtLevel(target_item, slicer.vtkMRMLSubjectHierarchyConstants.GetDICOMLevelStudy())
    # DICOM SEG export looks for the patient's and study's data above the segmentation.
    hierarchy.SetItemParent(hierarchy.GetItemByDataNode(node), study or hierarchy.GetItemParent(target_item))
    return node


def _add_segment(node, image, structure: Structure, status: Status | None):
    segment = slicer.vtkSegment()
    segment.SetName(structure.name)
    segment.SetColor(*(structure.color or _generated_color(node)))
    if structure.terminology:
        segment.SetTerminology(structure.terminology)
    segment.SetLabelValue(structure.label)
    # Segments that hold the same image share a layer: 10 segments of 512x512x300 take 0.05 s, one by one they took 9 s and 10 layers.
    segment.AddRepresentation(BINARY, image)
    _mark_draft(segment, status)
    segmentation = node.GetSegmentation()
    segmentation.AddSegment(segment, segmentation.GenerateUniqueSegmentID(structure.id or structure.name))
    return segment


def _mark_draft(segment, status: Status | None) -> None:
    logic = slicer.vtkSlicerSegmentationsModuleLogic
    logic.SetSegmentStatus(segment, logic.Flagged if status is Status.LOW_CONFIDENCE else logic.InProgress)


def _generated_color(node) -> list[float]:
    color = [0.0, 0.0, 0.0]
    node.CreateDefaultDisplayNodes()
    node.GetDisplayNode().GenerateSegmentColor(color)
    return color
