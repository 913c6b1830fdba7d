"""Results into the scene: a run's segments as drafts, in the right place, without touching what is there."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import slicer
import vtk

from ..errors import OutputError
from ..imaging.segmentation import Segmentation, Structure
from ..results import Status, Transfer
from .geometry import array_of, cropped_oriented_image, empty_oriented_image, transform_between
from .undo import RunUndo

_BINARY = "Binary labelmap"
# Beyond a ten-thousandth of a millimetre, the volume is not the one that the result was computed on.
_SAME_PLACE_MM = 1e-4


@dataclass(frozen=True)
class _Draft:
    """Segments that share one image, ready to be added."""

    image: slicer.vtkOrientedImageData
    structures: tuple[Structure, ...]


def write_result(transfer: Transfer, target_node, output_node=None, undo: RunUndo | None = None):
    """Write a run's segments and return the segmentation node, or None where nothing was found (the scene is then left alone).

    A new node is put under the target's own transform and beside the target in the subject hierarchy; its reference geometry is the
    target's. In an existing ``output_node`` the segments are added with unique ids to what is there, converted to that node's own
    transform. Every segment carries its reference's name, colour and terminology and is marked as a draft ("in progress"; "flagged"
    where the confidence is low).

    Raises:
        OutputError: the target or the output node is no longer in the scene, the target's geometry has changed since the run began, or
            the output node holds surfaces.
    """
    _require_in_scene(target_node, "target volume")
    if output_node is not None:
        _require_in_scene(output_node, "output segmentation")
        _require_voxels(output_node)
    _require_same_place(transfer.segmentation, target_node)
    drafts = _drafts(transfer.segmentation)
    if not drafts:
        return None
    undo = undo or RunUndo()
    if output_node is None:
        undo.before_new(target_node.GetScene())
        node = _new_node(target_node)
        undo.added(node)
    else:
        undo.before_change(output_node)
        node = output_node
        if node.GetNodeReference(node.GetReferenceImageGeometryReferenceRole()) is None:
            node.SetReferenceImageGeometryParameterFromVolumeNode(target_node)
    transform = transform_between(target_node, node)
    # The views are told once, at the end: one update instead of one a segment.
    modifying = node.StartModify()
    for draft in drafts:
        if transform is not None:
            slicer.vtkOrientedImageDataResample.TransformOrientedImage(draft.image, transform)
        for structure in draft.structures:
            _add_segment(node, draft.image, structure, transfer.statuses.get(structure.name))
    node.EndModify(modifying)
    return node


def _require_in_scene(node, role: str) -> None:
    if node is None or node.GetScene() is None:
        raise OutputError(
            f"The {role} is no longer in the scene.",
            "It was removed, or the scene was closed, while the run was under way.",
            "Load it again and repeat the run; nothing was written.",
        )


def _require_voxels(output_node) -> None:
    segmentation = output_node.GetSegmentation()
    if segmentation.GetNumberOfSegments() and segmentation.GetSourceRepresentationName() != _BINARY:
        # Slicer would turn the new segments into surfaces and throw their voxels away.
        raise OutputError(
            f"The output segmentation {output_node.GetName()!r} is stored as {segmentation.GetSourceRepresentationName()!r}.",
            "The result's voxels would be lost in it.",
            "Write into a new segmentation, or make the binary labelmap its source representation in the Segmentations module.",
        )


def _require_same_place(segmentation: Segmentation, target_node) -> None:
    result = empty_oriented_image(segmentation.labelmap)
    image = target_node.GetImageData()
    same = image is not None and image.GetDimensions() == result.GetDimensions()
    if not (
        same and np.allclose(_corners(target_node, image.GetExtent()), _corners(result, result.GetExtent()), rtol=0, atol=_SAME_PLACE_MM)
    ):
        raise OutputError(
            f"The geometry of the volume {target_node.GetName()!r} has changed since the run began.",
            "It was cropped, resampled, or a transform was hardened on it, so the result would lie in the wrong place.",
            "Repeat the run on the volume as it is now; nothing was written.",
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
    node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", scene.GenerateUniqueName(f"{target_node.GetName()} RAUSlicer"))
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


def _add_segment(node, image, structure: Structure, status: Status | None) -> None:
    segment = slicer.vtkSegment()
    segment.SetName(structure.name)
    segment.SetColor(*(structure.color or _generated_color(node)))
    if structure.terminology:
        segment.SetTerminology(structure.terminology)
    segment.SetLabelValue(structure.label)
    # Segments that hold the same image share a layer: 10 segments of 512x512x300 take 0.05 s, one by one they took 9 s and 10 layers.
    segment.AddRepresentation(_BINARY, image)
    logic = slicer.vtkSlicerSegmentationsModuleLogic
    logic.SetSegmentStatus(segment, logic.Flagged if status is Status.LOW_CONFIDENCE else logic.InProgress)
    segmentation = node.GetSegmentation()
    segmentation.AddSegment(segment, segmentation.GenerateUniqueSegmentID(structure.id or structure.name))


def _generated_color(node) -> list[float]:
    color = [0.0, 0.0, 0.0]
    node.CreateDefaultDisplayNodes()
    node.GetDisplayNode().GenerateSegmentColor(color)
    return color
