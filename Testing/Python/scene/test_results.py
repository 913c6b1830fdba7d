import nodes
import numpy as np
import pytest
import slicer
import vtk

from RAUSlicerLib.errors import OutputError
from RAUSlicerLib.results import Status
from RAUSlicerLib.scene import UndoSteps, segmentation_from_node, write_result

LIVER_MASK = nodes.box((1, 4), (2, 6), (3, 7))
SPLEEN_MASK = nodes.box((4, 6), (0, 2), (0, 3))


def two_structures(volume):
    return nodes.transfer(volume, {nodes.LIVER: LIVER_MASK, nodes.SPLEEN: SPLEEN_MASK})


def ids(node):
    return [node.GetSegmentation().GetNthSegmentID(i) for i in range(node.GetSegmentation().GetNumberOfSegments())]


@pytest.mark.parametrize("flipped", [False, True])
@pytest.mark.parametrize("moved", [False, True])
def test_segments_lie_exactly_on_the_target_oblique_flipped_and_under_a_transform(scene, flipped, moved):
    target = nodes.volume(matrix=nodes.oblique(flipped))
    if moved:
        target.SetAndObserveTransformNodeID(nodes.transform().GetID())

    node = write_result(two_structures(target), target)

    assert node.GetTransformNodeID() == target.GetTransformNodeID()
    for id_, mask in (("liver", LIVER_MASK), ("spleen", SPLEEN_MASK)):
        np.testing.assert_array_equal(slicer.util.arrayFromSegmentBinaryLabelmap(node, id_, target) > 0, mask)
        expected = nodes.world_points_of_mask(mask, target)
        np.testing.assert_allclose(nodes.world_points_of_segment(node, id_), expected, rtol=0, atol=1e-6)


def test_what_is_written_is_read_back_equal(scene):
    target = nodes.volume()
    target.SetAndObserveTransformNodeID(nodes.transform().GetID())
    masks = {nodes.LIVER: LIVER_MASK, nodes.SPLEEN: SPLEEN_MASK, nodes.TUMOR: nodes.box((2, 3), (3, 5), (4, 6))}

    node = write_result(nodes.transfer(target, masks), target)

    back = segmentation_from_node(node, target)
    assert len(back.structures) == len(masks)
    for structure in back.structures:
        original = next(s for s in masks if s.id == structure.id)
        assert (structure.name, structure.color) == (original.name, original.color)
        # Slicer gives segments that have no terminology a general entry.
        assert original.terminology in (structure.terminology, None)
        np.testing.assert_array_equal(back.array(structure), masks[original])


def test_all_segments_of_a_layer_share_one_layer(scene):
    target = nodes.volume(shape=(20, 20, 20))
    structures = {nodes.Structure(k + 1, f"part {k}"): nodes.box((k, k + 1), (0, 20), (0, 20), shape=(20, 20, 20)) for k in range(20)}

    node = write_result(nodes.transfer(target, structures), target)

    assert node.GetSegmentation().GetNumberOfSegments() == 20
    assert node.GetSegmentation().GetNumberOfLayers() == 1


def test_name_color_terminology_and_draft_status_are_set(scene):
    target = nodes.volume()
    result = nodes.transfer(target, {nodes.LIVER: LIVER_MASK, nodes.SPLEEN: SPLEEN_MASK}, {nodes.SPLEEN.name: Status.LOW_CONFIDENCE})

    node = write_result(result, target)

    logic = slicer.vtkSlicerSegmentationsModuleLogic
    liver, spleen = (node.GetSegmentation().GetSegment(id_) for id_ in ("liver", "spleen"))
    assert (liver.GetName(), liver.GetColor(), liver.GetTerminology()) == ("Liver", (0.25, 0.5, 0.75), nodes.LIVER.terminology)
    assert logic.GetSegmentStatus(liver) == logic.InProgress
    assert logic.GetSegmentStatus(spleen) == logic.Flagged


def test_the_target_is_the_reference_geometry(scene):
    target = nodes.volume()

    node = write_result(two_structures(target), target)

    assert node.GetNodeReference(node.GetReferenceImageGeometryReferenceRole()) is target


def test_the_new_node_is_in_the_targets_study(scene):
    target = nodes.volume()
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    patient = hierarchy.CreateSubjectItem(hierarchy.GetSceneItemID(), "Patient")
    study = hierarchy.CreateStudyItem(patient, "Study")
    folder = hierarchy.CreateFolderItem(study, "Series")
    hierarchy.SetItemParent(hierarchy.GetItemByDataNode(target), folder)

    node = write_result(two_structures(target), target)

    assert hierarchy.GetItemParent(hierarchy.GetItemByDataNode(node)) == study


def test_an_existing_segmentation_keeps_its_segments_and_ids_stay_unique(scene):
    target = nodes.volume()
    drawn = nodes.box((0, 6), (0, 7), (0, 8))
    existing = nodes.segmentation(target, {"liver": drawn, "mine": nodes.box((0, 1), (0, 1), (0, 1))}, "My work")

    node = write_result(two_structures(target), target, existing)

    assert node is existing
    assert ids(node)[:2] == ["liver", "mine"]
    assert len(set(ids(node))) == 4
    np.testing.assert_array_equal(slicer.util.arrayFromSegmentBinaryLabelmap(node, "liver", target) > 0, drawn)
    np.testing.assert_array_equal(slicer.util.arrayFromSegmentBinaryLabelmap(node, "mine", target).sum(), 1)
    np.testing.assert_array_equal(slicer.util.arrayFromSegmentBinaryLabelmap(node, ids(node)[2], target) > 0, LIVER_MASK)


def test_two_runs_into_the_same_node_do_not_replace_each_other(scene):
    target = nodes.volume()
    node = write_result(two_structures(target), target)

    write_result(two_structures(target), target, node)

    assert len(set(ids(node))) == 4
    for id_ in ids(node)[::2]:
        np.testing.assert_array_equal(slicer.util.arrayFromSegmentBinaryLabelmap(node, id_, target) > 0, LIVER_MASK)


@pytest.mark.parametrize("which", ["target", "existing"])
def test_an_existing_segmentation_under_another_transform_gets_the_segments_where_the_target_shows_them(scene, which):
    target = nodes.volume()
    existing = nodes.segmentation(target, {"mine": nodes.box((0, 1), (0, 1), (0, 1))})
    (target if which == "target" else existing).SetAndObserveTransformNodeID(nodes.transform().GetID())

    node = write_result(two_structures(target), target, existing)

    written = nodes.world_points_of_segment(node, "liver")
    np.testing.assert_allclose(written, nodes.world_points_of_mask(LIVER_MASK, target), rtol=0, atol=1e-6)


def test_a_run_into_an_existing_node_is_undone_in_one_step(scene):
    target = nodes.volume()
    drawn = nodes.box((0, 6), (0, 7), (0, 8))
    existing = nodes.segmentation(target, {"mine": drawn})
    undo = UndoSteps()
    write_result(two_structures(target), target, existing, undo)

    undo.undo()

    assert ids(existing) == ["mine"]
    np.testing.assert_array_equal(slicer.util.arrayFromSegmentBinaryLabelmap(existing, "mine", target) > 0, drawn)
    assert not undo.available


def test_a_run_into_a_new_node_is_undone_by_removing_it(scene):
    target = nodes.volume()
    undo = UndoSteps()
    node = write_result(two_structures(target), target, undo=undo)

    undo.undo()

    assert node.GetScene() is None
    assert target.GetScene() is scene


def test_the_scenes_own_undo_takes_one_step_where_it_is_switched_on(scene):
    target = nodes.volume()
    scene.SetUndoOn()
    default = slicer.vtkMRMLSegmentationNode()
    default.SetUndoEnabled(True)
    scene.AddDefaultNode(default)
    before = scene.GetNumberOfUndoLevels()

    write_result(two_structures(target), target)

    assert scene.GetNumberOfUndoLevels() == before + 1
    scene.Undo()
    assert scene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode") == 0


def test_undo_after_the_node_was_removed_does_nothing(scene):
    target = nodes.volume()
    undo = UndoSteps()
    node = write_result(two_structures(target), target, undo=undo)
    scene.RemoveNode(node)

    undo.undo()

    assert not undo.available


def test_a_target_removed_during_the_run_gives_a_message_and_writes_nothing(scene):
    target = nodes.volume()
    result = two_structures(target)
    scene.RemoveNode(target)

    with pytest.raises(OutputError, match="target volume is no longer in the scene"):
        write_result(result, target)
    assert scene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode") == 0


def test_a_scene_closed_during_the_run_gives_a_message(scene):
    target = nodes.volume()
    result = two_structures(target)
    scene.Clear(0)

    with pytest.raises(OutputError, match="scene was closed"):
        write_result(result, target)


def test_an_output_node_removed_during_the_run_gives_a_message(scene):
    target = nodes.volume()
    existing = nodes.segmentation(target, {"mine": LIVER_MASK})
    scene.RemoveNode(existing)

    with pytest.raises(OutputError, match="output segmentation is no longer"):
        write_result(two_structures(target), target, existing)


def test_a_target_whose_geometry_changed_during_the_run_gives_a_message(scene):
    target = nodes.volume()
    result = two_structures(target)
    target.SetOrigin(0, 0, 0)

    with pytest.raises(OutputError, match="geometry of the volume 'CT' has changed"):
        write_result(result, target)


def test_a_transform_changed_during_the_run_keeps_the_segments_on_the_target(scene):
    target = nodes.volume()
    result = two_structures(target)
    target.SetAndObserveTransformNodeID(nodes.transform().GetID())

    node = write_result(result, target)

    written = nodes.world_points_of_segment(node, "liver")
    np.testing.assert_allclose(written, nodes.world_points_of_mask(LIVER_MASK, target), rtol=0, atol=1e-6)


def test_a_segmentation_of_surfaces_is_refused_and_left_as_it_is(scene):
    target = nodes.volume()
    sphere = vtk.vtkSphereSource()
    sphere.Update()
    surfaces = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Contours")
    surfaces.SetSourceRepresentationToClosedSurface()
    surfaces.AddSegmentFromClosedSurfaceRepresentation(sphere.GetOutput(), "ball", [1.0, 0.0, 0.0], "ball")

    with pytest.raises(OutputError, match="'Contours' is stored as 'Closed surface'"):
        write_result(two_structures(target), target, surfaces)
    assert ids(surfaces) == ["ball"]


def test_a_segmentation_shown_in_3d_gets_surfaces_of_the_new_segments(scene):
    target = nodes.volume()
    existing = nodes.segmentation(target, {"mine": nodes.box((0, 3), (0, 3), (0, 3))})
    existing.CreateClosedSurfaceRepresentation()

    write_result(two_structures(target), target, existing)

    assert existing.GetClosedSurfaceInternalRepresentation("liver").GetNumberOfPoints() > 0
    np.testing.assert_array_equal(slicer.util.arrayFromSegmentBinaryLabelmap(existing, "liver", target) > 0, LIVER_MASK)


def test_nothing_found_leaves_the_scene_alone(scene):
    target = nodes.volume()
    nothing = np.zeros(nodes.SHAPE, bool)

    node = write_result(nodes.transfer(target, {nodes.LIVER: nothing, nodes.SPLEEN: nothing}), target)

    assert node is None
    assert scene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode") == 0


def test_a_structure_that_was_not_found_leaves_no_empty_segment(scene):
    target = nodes.volume()

    node = write_result(nodes.transfer(target, {nodes.LIVER: LIVER_MASK, nodes.SPLEEN: np.zeros(nodes.SHAPE, bool)}), target)

    assert ids(node) == ["liver"]


def test_structures_without_a_color_get_different_ones(scene):
    target = nodes.volume()
    plain = {nodes.Structure(1, "one"): LIVER_MASK, nodes.Structure(2, "two"): SPLEEN_MASK}

    node = write_result(nodes.transfer(target, plain), target)

    first, second = (node.GetSegmentation().GetSegment(id_).GetColor() for id_ in ids(node))
    assert first != second
