"""Images between VTK, where space is RAS, and SimpleITK, where it is LPS."""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk
import slicer
import vtk
from vtk.util.numpy_support import get_vtk_array_type, numpy_to_vtk, vtk_to_numpy

_RAS_TO_LPS = np.diag((-1.0, -1.0, 1.0))


def array_of(image: vtk.vtkImageData) -> np.ndarray:
    """The voxels of a one-component image, shape (z, y, x); a view on VTK's memory."""
    return vtk_to_numpy(image.GetPointData().GetScalars()).reshape(image.GetDimensions()[::-1])


def image_on_grid(array: np.ndarray, spacing, origin_ras, directions_ras: np.ndarray) -> sitk.Image:
    """A copy of an array (z, y, x) as a volume in LPS.

    ``spacing`` in mm, ``origin_ras`` is the centre of the first voxel in mm, ``directions_ras`` has the axes as columns.
    """
    image = sitk.GetImageFromArray(np.ascontiguousarray(array))
    image.SetSpacing([float(value) for value in spacing])
    image.SetOrigin((_RAS_TO_LPS @ np.asarray(origin_ras, dtype=float)).tolist())
    image.SetDirection((_RAS_TO_LPS @ np.asarray(directions_ras, dtype=float)).ravel().tolist())
    return image


def empty_oriented_image(grid: sitk.Image) -> slicer.vtkOrientedImageData:
    """An image in RAS that has the grid's geometry and extent and no voxels."""
    image = slicer.vtkOrientedImageData()
    image.SetExtent(*(bound for size in grid.GetSize() for bound in (0, size - 1)))
    image.SetSpacing(grid.GetSpacing())
    image.SetOrigin((_RAS_TO_LPS @ np.array(grid.GetOrigin())).tolist())
    directions = np.eye(4)
    directions[:3, :3] = _RAS_TO_LPS @ np.array(grid.GetDirection()).reshape(3, 3)
    image.SetDirectionMatrix(slicer.util.vtkMatrixFromArray(directions))
    return image


def geometry_of(volume_node) -> slicer.vtkOrientedImageData:
    """An image that has a volume node's own geometry and extent and no voxels; much less than a copy of the volume."""
    image = slicer.vtkOrientedImageData()
    matrix = vtk.vtkMatrix4x4()
    volume_node.GetIJKToRASMatrix(matrix)
    image.SetExtent(volume_node.GetImageData().GetExtent())
    image.SetImageToWorldMatrix(matrix)
    return image


def cropped_oriented_image(layer: sitk.Image) -> slicer.vtkOrientedImageData | None:
    """A label map in RAS, cut to its non-zero voxels as Slicer keeps label maps in memory; None where all are zero."""
    array = sitk.GetArrayViewFromImage(layer)
    occupied = [np.flatnonzero(array.any(axis=tuple(other for other in range(3) if other != axis))) for axis in range(3)]
    if not occupied[0].size:
        return None
    start = [int(indices[0]) for indices in occupied]
    stop = [int(indices[-1]) + 1 for indices in occupied]
    cut = np.ascontiguousarray(array[tuple(slice(low, high) for low, high in zip(start, stop, strict=True))])
    image = empty_oriented_image(layer)
    image.SetExtent(*(bound for axis in (2, 1, 0) for bound in (start[axis], stop[axis] - 1)))
    image.GetPointData().SetScalars(numpy_to_vtk(cut.ravel(), deep=True, array_type=get_vtk_array_type(cut.dtype)))
    return image


def transform_between(source_node, destination_node) -> vtk.vtkGeneralTransform | None:
    """From one node's own coordinates to another's; None where both are under the same transform, or none."""
    source, destination = source_node.GetParentTransformNode(), destination_node.GetParentTransformNode()
    if source is destination:
        return None
    transform = vtk.vtkGeneralTransform()
    slicer.vtkMRMLTransformNode.GetTransformBetweenNodes(source, destination, transform)
    return transform


def smallest_label_type(highest: int) -> type[np.generic]:
    """The type that Slicer's label maps take: as few bytes as the labels need."""
    if highest < 2**8:
        return np.uint8
    return np.uint16 if highest < 2**16 else np.uint32
