"""Segmentation nodes to segmentations on a volume's grid."""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk
import slicer
import vtk
from slicer.i18n import tr as _

from ..errors import InputError
from ..imaging.segmentation import Segmentation, Structure
from .geometry import array_of, empty_oriented_image, smallest_label_type, transform_between
from .record import BINARY
from .volumes import volume_from_node


def segmentation_from_node(segmentation_node, volume_node) -> Segmentation:
    """A copy of every segment, hidden ones too, on the volume's grid.

    Names, colours, terminology entries and ids are kept; segments that share one of Slicer's layers share a label map here. Where the
    two nodes are under different transforms, the segments are moved to where they are seen on the volume (nearest neighbour).

    Raises:
        InputError: there is no segmentation node, it has no segments, or its surfaces can't be made voxels of.
    """
    if segmentation_node is None:
        raise InputError(
            _("No reference segmentation is chosen."), _("Its segments are what is transferred."), _("Choose one in the panel.")
        )
    if segmentation_node.GetSegmentation().GetNumberOfSegments() == 0:
        raise InputError(
            _("The segmentation {name!r} has no segments.").format(name=segmentation_node.GetName()),
            _("There is nothing to transfer."),
            _("Draw or load at least one segment, or choose another segmentation."),
        )
    grid = volume_from_node(volume_node)
    segmentation = _with_label_maps(segmentation_node, grid)
    transform = transform_between(segmentation_node, volume_node)
    layers, structures = [], {}
    for index in range(segmentation.GetNumberOfLayers(BINARY)):
        ids = segmentation.GetSegmentIDsForLayer(index, BINARY)
        labels = [segmentation.GetSegment(id_).GetLabelValue() for id_ in ids]
        layers.append(_resampled(segmentation.GetLayerDataObject(index, BINARY), grid, transform, max(labels)))
        structures.update({id_: _structure(segmentation.GetSegment(id_), id_, index) for id_ in ids})
    ordered = [segmentation.GetNthSegmentID(index) for index in range(segmentation.GetNumberOfSegments())]
    return Segmentation(layers[0], tuple(structures[id_] for id_ in ordered), tuple(layers[1:]))


def segment_mask(segmentation_node, id_: str, volume_node) -> sitk.Image:
    """One segment's voxels on the volume's grid, 1 inside and 0 outside, where they are seen on the volume."""
    image = slicer.vtkOrientedImageData()
    segmentation_node.GetBinaryLabelmapRepresentation(id_, image)
    transform = transform_between(segmentation_node, volume_node)
    # What was cut out for one segment has the value 1.
    return sitk.Cast(_resampled(image, volume_from_node(volume_node), transform, 1) == 1, sitk.sitkUInt8)


def _with_label_maps(node, grid: sitk.Image) -> slicer.vtkSegmentation:
    segmentation = node.GetSegmentation()
    if segmentation.ContainsRepresentation(BINARY):
        return segmentation
    # Surfaces and contours are turned into voxels on a copy: the user's node stays as it is.
    copy = slicer.vtkSegmentation()
    copy.DeepCopy(segmentation)
    parameter = slicer.vtkSegmentationConverter.GetReferenceImageGeometryParameterName()
    if not copy.GetConversionParameter(parameter):
        copy.SetConversionParameter(parameter, slicer.vtkSegmentationConverter.SerializeImageGeometry(empty_oriented_image(grid)))
    if not copy.CreateRepresentation(BINARY):
        raise InputError(
            _("The segments of {name!r} can't be turned into voxels.").format(name=node.GetName()),
            _("They are stored as {kind!r}.").format(kind=segmentation.GetSourceRepresentationName()),
            _("Open the Segmentations module, create the binary labelmap representation there, and try again."),
        )
    return copy


def _resampled(layer, grid: sitk.Image, transform: vtk.vtkGeneralTransform | None, highest: int) -> sitk.Image:
    voxels = np.zeros(grid.GetSize()[::-1], dtype=smallest_label_type(highest))
    if not layer.IsEmpty():
        resampled = slicer.vtkOrientedImageData()
        slicer.vtkOrientedImageDataResample.ResampleOrientedImageToReferenceOrientedImage(
            layer, empty_oriented_image(grid), resampled, False, False, transform, 0
        )
        voxels[:] = array_of(resampled)
    image = sitk.GetImageFromArray(voxels)
    image.CopyInformation(grid)
    return image


def _structure(segment, id_: str, layer: int) -> Structure:
    return Structure(
        label=segment.GetLabelValue(),
        name=segment.GetName(),
        color=tuple(segment.GetColor()),
        terminology=segment.GetTerminology() or None,
        layer=layer,
        id=id_,
    )
