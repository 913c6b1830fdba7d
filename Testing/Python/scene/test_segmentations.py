import nodes
import numpy as np
import pytest
import vtk

from RAUSlicerLib.errors import InputError
from RAUSlicerLib.scene import segmentation_from_node, volume_from_node


def masks_of(segmentation):
    return {structure.id: segmentation.array(structure) for structure in segmentation.structures}


@pytest.mark.parametrize("flipped", [False, True])
def test_segments_are_read_voxel_by_voxel_on_an_oblique_grid(scene, flipped):
    volume = nodes.volume(matrix=nodes.oblique(flipped))
    expected = {"a": nodes.box((0, 2), (1, 4), (2, 8)), "b": nodes.box((3, 6), (0, 7), (0, 3))}
    node = nodes.segmentation(volume, expected)

    segmentation = segmentation_from_node(node, volume)

    assert segmentation.labelmap.GetOrigin() == volume_from_node(volume).GetOrigin()
    for id_, mask in masks_of(segmentation).items():
        np.testing.assert_array_equal(mask, expected[id_])


def test_name_color_terminology_and_order_are_kept(scene):
    volume = nodes.volume()
    node = nodes.segmentation(volume, {"z": nodes.box((0, 1), (0, 1), (0, 1)), "a": nodes.box((2, 3), (0, 1), (0, 1))})
    segment = node.GetSegmentation().GetSegment("z")
    segment.SetName("Leber, groß")
    segment.SetColor(0.25, 0.5, 0.75)
    segment.SetTerminology(nodes.LIVER.terminology)

    first, second = segmentation_from_node(node, volume).structures

    assert (first.id, first.name, first.color, first.terminology) == ("z", "Leber, groß", (0.25, 0.5, 0.75), nodes.LIVER.terminology)
    assert second.id == "a"


def test_overlapping_segments_keep_all_their_voxels(scene):
    volume = nodes.volume()
    expected = {"organ": nodes.box((0, 4), (0, 5), (0, 6)), "tumor": nodes.box((1, 3), (1, 3), (1, 3))}
    node = nodes.segmentation(volume, expected)

    segmentation = segmentation_from_node(node, volume)

    assert len(segmentation.layers) == 2
    np.testing.assert_array_equal(masks_of(segmentation)["organ"], expected["organ"])
    np.testing.assert_array_equal(masks_of(segmentation)["tumor"], expected["tumor"])


def test_hidden_segments_are_read_too(scene):
    volume = nodes.volume()
    node = nodes.segmentation(volume, {"a": nodes.box((0, 2), (0, 2), (0, 2)), "b": nodes.box((3, 5), (0, 2), (0, 2))})
    node.GetDisplayNode().SetSegmentVisibility("a", False)
    node.GetDisplayNode().SetVisibility(False)

    masks = masks_of(segmentation_from_node(node, volume))

    assert masks["a"].sum() == masks["b"].sum() == 8


def test_an_empty_segment_stays_a_structure_without_voxels(scene):
    volume = nodes.volume()
    node = nodes.segmentation(volume, {"a": nodes.box((0, 2), (0, 2), (0, 2))})
    node.GetSegmentation().AddEmptySegment("nothing", "Nothing")

    segmentation = segmentation_from_node(node, volume)

    assert [s.name for s in segmentation.structures] == ["a", "Nothing"]
    assert masks_of(segmentation)["nothing"].sum() == 0
    assert masks_of(segmentation)["a"].sum() == 8


def test_under_the_same_transform_the_voxels_are_exact(scene):
    volume = nodes.volume()
    expected = nodes.box((1, 4), (2, 5), (3, 7))
    node = nodes.segmentation(volume, {"a": expected})
    transform = nodes.transform()
    volume.SetAndObserveTransformNodeID(transform.GetID())
    node.SetAndObserveTransformNodeID(transform.GetID())

    np.testing.assert_array_equal(masks_of(segmentation_from_node(node, volume))["a"], expected)


def test_a_transform_on_the_volume_alone_moves_the_segments_to_where_they_are_seen(scene):
    volume = nodes.volume(matrix=np.diag((1.0, 1.0, 2.0, 1.0)))
    node = nodes.segmentation(volume, {"a": nodes.box((1, 3), (2, 4), (3, 5))})
    # The volume moves by +2 voxels along I and +1 along K, so the segment lies 2 and 1 voxels earlier in the volume.
    volume.SetAndObserveTransformNodeID(nodes.transform((2.0, 0.0, 2.0), 0.0).GetID())

    mask = masks_of(segmentation_from_node(node, volume))["a"]

    np.testing.assert_array_equal(mask, nodes.box((0, 2), (2, 4), (1, 3)))


def test_a_transform_on_the_segmentation_alone_moves_the_segments_the_other_way(scene):
    volume = nodes.volume(matrix=np.diag((1.0, 1.0, 2.0, 1.0)))
    node = nodes.segmentation(volume, {"a": nodes.box((1, 3), (2, 4), (3, 5))})
    node.SetAndObserveTransformNodeID(nodes.transform((2.0, 0.0, 2.0), 0.0).GetID())

    mask = masks_of(segmentation_from_node(node, volume))["a"]

    np.testing.assert_array_equal(mask, nodes.box((2, 4), (2, 4), (5, 7)))


def test_surfaces_are_made_voxels_of_without_changing_the_users_node(scene):
    volume = nodes.volume(matrix=np.diag((1.0, 1.0, 1.0, 1.0)), shape=(24, 24, 24))
    sphere = vtk.vtkSphereSource()
    sphere.SetCenter(12, 12, 12)
    sphere.SetRadius(6)
    sphere.SetPhiResolution(40)
    sphere.SetThetaResolution(40)
    sphere.Update()
    node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Surface")
    node.SetSourceRepresentationToClosedSurface()
    node.AddSegmentFromClosedSurfaceRepresentation(sphere.GetOutput(), "ball", [1.0, 0.0, 0.0], "ball")

    mask = masks_of(segmentation_from_node(node, volume))["ball"]

    assert mask.sum() == pytest.approx(4 / 3 * np.pi * 6**3, rel=0.05)
    assert mask[12, 12, 12]
    assert not node.GetSegmentation().ContainsRepresentation("Binary labelmap")


def test_no_segmentation_and_no_segments_are_refused(scene):
    volume = nodes.volume()
    with pytest.raises(InputError, match="No reference segmentation"):
        segmentation_from_node(None, volume)
    with pytest.raises(InputError, match="'Blank' has no segments"):
        segmentation_from_node(scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Blank"), volume)
