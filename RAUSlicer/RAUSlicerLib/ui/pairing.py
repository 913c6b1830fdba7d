"""Guesses the inputs from what is loaded, so that the usual case needs no choosing."""

from __future__ import annotations

import slicer
import vtk

from ..scene.record import BINARY, is_result

# Positions are compared to a thousandth of a millimetre: files keep fewer digits than memory does.
_TOLERANCE = 1e-3


def fill_in(parameters, scene) -> None:
    """Fill in inputs that are not chosen yet: a segmentation, the volume it was drawn on, and the other volume."""
    volumes = [node for node in _nodes(scene, "vtkMRMLScalarVolumeNode") if node.GetClassName() == "vtkMRMLScalarVolumeNode"]
    segmentation, volume = parameters.referenceSegmentation, parameters.referenceVolume
    if segmentation is None:
        drawn = [node for node in _nodes(scene, "vtkMRMLSegmentationNode") if node.GetSegmentation().GetNumberOfSegments()]
        # What a run has written is nobody's reference before the user says so.
        candidates = [node for node in drawn if not is_result(node)]
        if volume is not None:
            candidates = [node for node in candidates if volume_of(node, [volume]) is volume]
        segmentation = candidates[0] if candidates else None
    if segmentation is not None and volume is None:
        volume = volume_of(segmentation, [node for node in volumes if node is not parameters.targetVolume])
    if segmentation is None or volume is None:
        return
    parameters.referenceSegmentation = segmentation
    parameters.referenceVolume = volume
    others = [node for node in volumes if node is not volume]
    if parameters.targetVolume is None and others:
        # With several others, the one loaded last is the case the user is working on.
        parameters.targetVolume = others[-1]


def volume_of(segmentation, volumes: list):
    """The volume a segmentation was drawn on: the one it names, else the one whose grid it was made on, else None."""
    named = segmentation.GetNodeReference(segmentation.GetReferenceImageGeometryReferenceRole())
    if named in volumes:
        return named
    geometries = [geometry for geometry in (_reference_geometry(segmentation), _label_map(segmentation)) if geometry is not None]
    return next((node for geometry in geometries for node in volumes if _on_grid(geometry, node)), None)


def _reference_geometry(segmentation):
    parameter = slicer.vtkSegmentationConverter.GetReferenceImageGeometryParameterName()
    text = segmentation.GetSegmentation().GetConversionParameter(parameter)
    geometry = slicer.vtkOrientedImageData()
    return geometry if text and slicer.vtkSegmentationConverter.DeserializeImageGeometry(text, geometry, False) else None


def _label_map(segmentation):
    # Files of other programs name no reference geometry; their label maps still lie on the volume's grid.
    segments = segmentation.GetSegmentation()
    return segments.GetLayerDataObject(0, BINARY) if segments.ContainsRepresentation(BINARY) else None


def _on_grid(image, volume) -> bool:
    """Whether an image has the volume's axes, spacing and origin and does not reach beyond it."""
    if volume.GetImageData() is None:
        return False
    mine, other = vtk.vtkMatrix4x4(), vtk.vtkMatrix4x4()
    volume.GetIJKToRASMatrix(mine)
    image.GetImageToWorldMatrix(other)
    aligned = all(abs(mine.GetElement(i, j) - other.GetElement(i, j)) < _TOLERANCE for i in range(3) for j in range(4))
    extent, size = image.GetExtent(), volume.GetImageData().GetDimensions()
    return aligned and all(extent[2 * axis] >= 0 and extent[2 * axis + 1] < size[axis] for axis in range(3))


def _nodes(scene, class_name: str) -> list:
    nodes = [scene.GetNthNodeByClass(index, class_name) for index in range(scene.GetNumberOfNodesByClass(class_name))]
    return [node for node in nodes if not node.GetHideFromEditors()]
