"""Small MRML nodes for the tests of this room."""

from __future__ import annotations

import numpy as np
import slicer
import vtk

from RAUSlicerLib.imaging.segmentation import Segmentation, Structure
from RAUSlicerLib.results import Status, StructureResult, Transfer
from RAUSlicerLib.scene import volume_from_node

SHAPE = (6, 7, 8)  # z, y, x


def oblique(flipped: bool = False) -> np.ndarray:
    """IJK to RAS of an anisotropic volume turned about two axes; left-handed where flipped."""
    a, b = np.deg2rad(25), np.deg2rad(-35)
    turn_z = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    turn_x = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    matrix = np.eye(4)
    matrix[:3, :3] = turn_z @ turn_x @ np.diag((0.8 * (-1 if flipped else 1), 1.5, 3.0))
    matrix[:3, 3] = (-31.25, 12.5, 407.75)
    return matrix


def volume(name="CT", matrix=None, shape=SHAPE):
    array = np.arange(np.prod(shape), dtype=np.int16).reshape(shape)
    ijk_to_ras = slicer.util.vtkMatrixFromArray(oblique() if matrix is None else matrix)
    node = slicer.util.addVolumeFromArray(array, ijkToRAS=ijk_to_ras, name=name)
    node.CreateDefaultDisplayNodes()
    return node


def transform(translation=(10.0, -20.0, 30.0), degrees=20.0):
    """A rigid transform node."""
    matrix = vtk.vtkTransform()
    matrix.Translate(translation)
    matrix.RotateWXYZ(degrees, 0.3, 0.5, 0.8)
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "Shift")
    node.SetMatrixTransformToParent(matrix.GetMatrix())
    return node


def segmentation(volume_node, masks: dict[str, np.ndarray], name="Reference"):
    """Segments as a user's script adds them; Slicer decides on layers and labels."""
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", name)
    node.CreateDefaultDisplayNodes()
    node.SetReferenceImageGeometryParameterFromVolumeNode(volume_node)
    for id_, mask in masks.items():
        node.GetSegmentation().AddEmptySegment(id_, id_)
        slicer.util.updateSegmentBinaryLabelmapFromArray(mask.astype(np.uint8), node, id_, volume_node)
    return node


def box(*bounds: tuple[int, int], shape=SHAPE) -> np.ndarray:
    mask = np.zeros(shape, dtype=bool)
    mask[tuple(slice(low, high) for low, high in bounds)] = True
    return mask


LIVER = Structure(3, "Liver", (0.25, 0.5, 0.75), "Segmentation category~SCT^123037004^Anatomical Structure~SCT^10200004^Liver", id="liver")
SPLEEN = Structure(9, "Milz (links) éü", (1.0, 0.0, 0.5), None, id="spleen")
TUMOR = Structure(3, "Tumor", (0.0, 1.0, 0.0), None, layer=1, id="tumor")


def transfer(volume_node, masks: dict[Structure, np.ndarray], statuses=None) -> Transfer:
    """A run's result on a volume node's grid."""
    grid = volume_from_node(volume_node)
    layers = [np.zeros(grid.GetSize()[::-1], dtype=np.uint8) for _ in range(1 + max(structure.layer for structure in masks))]
    for structure, mask in masks.items():
        layers[structure.layer][mask] = structure.label
    images = [on_grid(layer, grid) for layer in layers]
    statuses = statuses or {}
    results = tuple(
        StructureResult(s, statuses.get(s.name, Status.FOUND if mask.any() else Status.NOT_FOUND), 0.9, 1.0, 1.0)
        for s, mask in masks.items()
    )
    return Transfer(Segmentation(images[0], tuple(masks), tuple(images[1:])), results, {})


def on_grid(array: np.ndarray, grid):
    import SimpleITK as sitk

    image = sitk.GetImageFromArray(array)
    image.CopyInformation(grid)
    return image


def world_points(image, image_to_ras: np.ndarray, transform_node) -> np.ndarray:
    """World RAS of an image's non-zero voxels (IJK order), sorted; independent of the code under test."""
    points = (np.c_[image, np.ones(len(image))] @ image_to_ras.T)[:, :3]
    if transform_node is not None:
        to_world = slicer.util.arrayFromTransformMatrix(transform_node, toWorld=True)
        points = (np.c_[points, np.ones(len(points))] @ to_world.T)[:, :3]
    return points[np.lexsort(np.round(points, 3).T)]


def world_points_of_mask(mask: np.ndarray, volume_node) -> np.ndarray:
    matrix = vtk.vtkMatrix4x4()
    volume_node.GetIJKToRASMatrix(matrix)
    return world_points(np.argwhere(mask)[:, ::-1], slicer.util.arrayFromVTKMatrix(matrix), volume_node.GetParentTransformNode())


def world_points_of_segment(node, id_: str) -> np.ndarray:
    image = slicer.vtkOrientedImageData()
    node.GetBinaryLabelmapRepresentation(id_, image)
    matrix = vtk.vtkMatrix4x4()
    image.GetImageToWorldMatrix(matrix)
    array = vtk.util.numpy_support.vtk_to_numpy(image.GetPointData().GetScalars()).reshape(image.GetDimensions()[::-1])
    voxels = np.argwhere(array)[:, ::-1] + np.array(image.GetExtent()[::2])
    return world_points(voxels, slicer.util.arrayFromVTKMatrix(matrix), node.GetParentTransformNode())
