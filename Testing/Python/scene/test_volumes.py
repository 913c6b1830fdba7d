import nodes
import numpy as np
import pytest
import SimpleITK as sitk
import slicer
import vtk

from RAUSlicerLib.errors import InputError
from RAUSlicerLib.scene import volume_from_node


@pytest.mark.parametrize("flipped", [False, True])
def test_voxels_lie_at_the_same_place_in_lps_as_in_ras(scene, flipped):
    matrix = nodes.oblique(flipped)
    node = nodes.volume(matrix=matrix)

    image = volume_from_node(node)

    for index in ((0, 0, 0), (7, 0, 0), (0, 6, 5), (7, 6, 5)):
        ras = (matrix @ (*index, 1.0))[:3]
        np.testing.assert_allclose(image.TransformIndexToPhysicalPoint(index), ras * (-1, -1, 1), rtol=0, atol=1e-10)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image), slicer.util.arrayFromVolume(node))
    assert image.GetSpacing() == pytest.approx((0.8, 1.5, 3.0), abs=1e-12)


def test_the_copy_does_not_follow_later_changes_of_the_node(scene):
    node = nodes.volume()
    image = volume_from_node(node)

    slicer.util.arrayFromVolume(node)[:] = -5
    slicer.util.arrayFromVolumeModified(node)

    assert sitk.GetArrayViewFromImage(image).min() == 0


def test_the_parent_transform_is_left_out(scene):
    node = nodes.volume()
    without = volume_from_node(node)

    node.SetAndObserveTransformNodeID(nodes.transform().GetID())

    assert volume_from_node(node).GetOrigin() == without.GetOrigin()


def test_no_node_is_refused(scene):
    with pytest.raises(InputError, match="No volume is chosen"):
        volume_from_node(None)


def test_an_empty_volume_is_refused_by_name(scene):
    node = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "Hollow")

    with pytest.raises(InputError, match="'Hollow' has no voxels"):
        volume_from_node(node)


def test_a_colour_volume_is_refused(scene):
    node = slicer.util.addVolumeFromArray(np.zeros((3, 4, 5, 3), np.uint8), name="Photo", nodeClassName="vtkMRMLVectorVolumeNode")

    with pytest.raises(InputError, match="3 values in each voxel"):
        volume_from_node(node)


def test_sheared_axes_are_refused(scene):
    node = nodes.volume(matrix=np.eye(4))
    sheared = np.eye(4)
    sheared[1, 2] = np.tan(np.deg2rad(15))
    sheared[:3, 2] /= np.linalg.norm(sheared[:3, 2])
    node.SetIJKToRASDirectionMatrix(slicer.util.vtkMatrixFromArray(sheared))

    with pytest.raises(InputError, match="not at right angles"):
        volume_from_node(node)


def test_an_extent_that_does_not_start_at_zero_is_honoured(scene):
    node = nodes.volume()
    whole = volume_from_node(node)
    cut = vtk.vtkExtractVOI()
    cut.SetInputData(node.GetImageData())
    cut.SetVOI(2, 5, 1, 4, 3, 5)
    cut.Update()
    part = slicer.vtkMRMLScalarVolumeNode()
    part.CopyOrientation(node)
    part.SetAndObserveImageData(cut.GetOutput())

    image = volume_from_node(part)

    np.testing.assert_allclose(image.GetOrigin(), whole.TransformIndexToPhysicalPoint((2, 1, 3)), atol=1e-10)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image), sitk.GetArrayFromImage(whole[2:6, 1:5, 3:6]))
