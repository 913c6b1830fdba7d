"""Rows of a result, what is done with them, and how it is undone."""

import dataclasses

import nodes
import numpy as np
import pytest
import slicer
import vtk
from vtk.util.numpy_support import vtk_to_numpy

from RAUSlicerLib.errors import OutputError
from RAUSlicerLib.results import Localization, Status, StructureResult, Transfer
from RAUSlicerLib.scene import UndoSteps, boxes, record, replace_segment, review, write_result

LIVER, SPLEEN = nodes.box((1, 4), (2, 6), (3, 7)), nodes.box((1, 4), (0, 2), (0, 3))
BOX = ((-40.0, -20.0, 380.0), (-30.0, -5.0, 400.0))
GONE = nodes.Structure(12, "Gone", (0.5, 0.25, 0.0), None, id="gone")


def result(target, statuses=(Status.FOUND, Status.LOW_CONFIDENCE), masks=(LIVER, SPLEEN)) -> Transfer:
    """Liver and spleen in one layer, and a structure that was not found."""
    plain = nodes.transfer(target, dict(zip((nodes.LIVER, nodes.SPLEEN), masks, strict=True)))
    pairs = zip((nodes.LIVER, nodes.SPLEEN), statuses, strict=True)
    results = [StructureResult(s, status, 0.625, 1.0, 0.25, Localization(s, 0.9, BOX)) for s, status in pairs]
    results.append(StructureResult(GONE, Status.NOT_FOUND, 0.0, 0.0, 3.0, Localization(GONE, 0.1, BOX)))
    return dataclasses.replace(plain, results=tuple(results))


@pytest.fixture
def written(scene):
    """A result in the scene: (node, target, undo steps)."""
    target = nodes.volume()
    undo = UndoSteps()
    return write_result(result(target), target, undo=undo, label="transfer"), target, undo


def voxels(node, key, target):
    return slicer.util.arrayFromSegmentBinaryLabelmap(node, key, target) > 0


def test_rows_say_what_the_run_said_and_what_the_segments_hold(written):
    node, _target, _undo = written

    liver, spleen, gone = record.rows_of(node)

    voxel_ml = 0.8 * 1.5 * 3 / 1000
    assert liver == record.Row(
        "liver", "Liver", nodes.LIVER.color, "found", 0.625, pytest.approx(LIVER.sum() * voxel_ml), 0.25, BOX, source="liver", presence=0.9
    )
    assert (spleen.status, spleen.accepted, spleen.present) == ("low confidence", False, True)
    assert (gone.key, gone.status, gone.present, gone.reference_volume_ml, gone.box_mm) == ("Gone", "not found", False, 3.0, BOX)
    assert liver.ratio == pytest.approx(LIVER.sum() * voxel_ml / 0.25)
    assert gone.ratio is None


def test_volumes_are_counted_again_only_where_a_layer_has_changed(written, monkeypatch):
    node, target, _undo = written
    counted = []
    real = record.value_counts
    monkeypatch.setattr(record, "value_counts", lambda labels: counted.append(labels.size) or real(labels))
    counts = record.VoxelCounts()

    first = [row.volume_ml for row in record.rows_of(node, counts)]
    assert [row.volume_ml for row in record.rows_of(node, counts)] == first
    # Both segments share one layer.
    assert len(counted) == 1

    slicer.util.updateSegmentBinaryLabelmapFromArray((LIVER | nodes.box((0, 1), (3, 7), (0, 8))).astype(np.uint8), node, "liver", target)
    liver, spleen, _gone = (row.volume_ml for row in record.rows_of(node, counts))

    voxel_ml = 0.8 * 1.5 * 3 / 1000
    assert liver == pytest.approx((LIVER.sum() + 32) * voxel_ml) and spleen == first[1]


def test_a_label_of_any_size_is_counted():
    image = slicer.vtkOrientedImageData()
    image.SetDimensions(8, 7, 6)
    image.AllocateScalars(vtk.VTK_UNSIGNED_INT, 1)
    voxels = vtk_to_numpy(image.GetPointData().GetScalars())
    voxels[:] = 0
    voxels[10:58] = 614454277
    segment = slicer.vtkSegment()
    segment.AddRepresentation("Binary labelmap", image)
    segment.SetLabelValue(614454277)

    assert record.VoxelCounts().of(segment) == 48


def test_accepting_makes_no_copy_of_voxels_and_leaves_what_is_painted_afterwards(written):
    node, target, undo = written
    review.accept(node, ["liver"], undo)
    stroke = nodes.box((0, 1), (3, 7), (0, 8))
    slicer.util.updateSegmentBinaryLabelmapFromArray((LIVER | stroke).astype(np.uint8), node, "liver", target)

    undo.undo()

    assert not record.rows_of(node)[0].accepted
    np.testing.assert_array_equal(voxels(node, "liver", target), LIVER | stroke)


def test_rows_survive_a_segmentation_file(written, tmp_path):
    node, _target, _undo = written
    path = str(tmp_path / "result.seg.nrrd")
    slicer.util.saveNode(node, path)

    loaded = slicer.util.loadSegmentation(path)

    def plain(rows):
        return [dataclasses.replace(row, color=(), volume_ml=round(row.volume_ml, 6)) for row in rows if row.present]

    assert plain(record.rows_of(loaded)) == plain(record.rows_of(node))


def test_accepted_is_what_slicer_calls_completed(written):
    node, _target, undo = written
    logic = slicer.vtkSlicerSegmentationsModuleLogic

    review.accept(node, ["liver", "no such segment"], undo)

    assert logic.GetSegmentStatus(node.GetSegmentation().GetSegment("liver")) == logic.Completed
    assert [row.accepted for row in record.rows_of(node)] == [True, False, False]
    undo.undo()
    assert [row.accepted for row in record.rows_of(node)] == [False, False, False]
    assert voxels(node, "liver", written[1]).sum() == LIVER.sum()


def test_removed_rows_come_back_with_their_voxels_and_place(written):
    node, target, undo = written

    review.remove(node, [row for row in record.rows_of(node) if row.name in ("Liver", "Gone")], undo)

    assert [row.key for row in record.rows_of(node)] == ["spleen"]
    undo.undo()
    assert [row.key for row in record.rows_of(node)] == ["liver", "spleen", "Gone"]
    np.testing.assert_array_equal(voxels(node, "liver", target), LIVER)
    np.testing.assert_array_equal(voxels(node, "spleen", target), SPLEEN)


def test_replacing_a_segment_leaves_its_neighbours_in_the_layer_alone_and_is_undone(written):
    node, target, undo = written
    grown = nodes.box((0, 5), (0, 6), (2, 7))
    row = record.rows_of(node)[0]

    replace_segment(result(target, masks=(grown, SPLEEN & False)), dataclasses.replace(row, painted=((2, 3),)), target, node, undo)

    np.testing.assert_array_equal(voxels(node, "liver", target), grown)
    np.testing.assert_array_equal(voxels(node, "spleen", target), SPLEEN)
    assert record.rows_of(node)[0].painted == ((2, 3),)
    undo.undo()
    np.testing.assert_array_equal(voxels(node, "liver", target), LIVER)
    np.testing.assert_array_equal(voxels(node, "spleen", target), SPLEEN)
    assert record.rows_of(node)[0] == row


def test_a_structure_that_is_found_now_gets_a_segment(written):
    node, target, undo = written
    gone = record.rows_of(node)[2]
    mask = nodes.box((5, 6), (5, 7), (0, 2))
    run = nodes.transfer(target, {dataclasses.replace(GONE, label=12): mask})

    key = replace_segment(run, gone, target, node, undo)

    np.testing.assert_array_equal(voxels(node, key, target), mask)
    assert record.missing_of(node) == []
    assert node.GetSegmentation().GetSegment(key).GetColor() == GONE.color
    undo.undo()
    assert [row.name for row in record.missing_of(node)] == ["Gone"]
    assert node.GetSegmentation().GetNumberOfSegments() == 2


def test_a_structure_that_is_not_found_any_more_keeps_an_empty_segment(written):
    node, target, undo = written
    row = record.rows_of(node)[0]

    replace_segment(result(target, (Status.NOT_FOUND, Status.FOUND), (LIVER & False, SPLEEN)), row, target, node, undo)

    assert record.rows_of(node)[0].volume_ml == 0
    np.testing.assert_array_equal(voxels(node, "spleen", target), SPLEEN)


def test_a_run_without_the_structure_changes_nothing(written):
    node, target, undo = written
    row = dataclasses.replace(record.rows_of(node)[0], source="kidney", name="Kidney")

    with pytest.raises(OutputError, match="no result for 'Kidney'"):
        replace_segment(result(target), row, target, node, undo)

    assert undo.label == "transfer"


def test_an_empty_segment_is_made_for_a_structure_that_was_not_found(written):
    node, target, undo = written
    record.remember_inputs(node, target, nodes.segmentation(target, {"gone": LIVER}), target)
    gone = record.rows_of(node)[2]

    key = review.add_empty(node, gone, undo)

    assert node.GetSegmentation().GetSegment(key).GetName() == "Gone"
    assert [(row.key, row.present) for row in record.rows_of(node)][2] == (key, True)
    undo.undo()
    assert record.rows_of(node)[2] == gone


def test_an_error_in_the_middle_of_a_step_leaves_no_trace(written):
    node, _target, undo = written
    before = record.rows_of(node)

    with pytest.raises(RuntimeError), undo.changing(node, ["liver"], "a step"):
        node.GetSegmentation().RemoveSegment("liver")
        node.GetSegmentation().AddEmptySegment("new", "new")
        raise RuntimeError

    assert record.rows_of(node) == before
    assert undo.label == "transfer"


def test_a_box_lies_around_the_same_points_in_the_world_and_comes_back_equal(written):
    node, target, _undo = written
    target.SetAndObserveTransformNodeID(nodes.transform().GetID())
    row = record.rows_of(node)[0]

    roi = boxes.show_box(node, row, target)

    np.testing.assert_allclose(boxes.read_box(roi), BOX, atol=1e-6)
    world, center = [0.0] * 3, [0.0] * 3
    roi.GetCenterWorld(center)
    target.TransformPointToWorld((35.0, 12.5, 390.0), world)
    np.testing.assert_allclose(center, world, atol=1e-6)
    assert boxes.moved_box(node, row.key) is None


def test_a_moved_box_is_noticed_until_it_is_used(written):
    node, target, _undo = written
    roi = boxes.show_box(node, record.rows_of(node)[0], target)

    roi.SetCenter(30.0, 12.5, 390.0)

    np.testing.assert_allclose(boxes.moved_box(node, "liver"), ((-35, -20, 380), (-25, -5, 400)), atol=1e-6)
    boxes.mark_used(node, "liver")
    assert boxes.moved_box(node, "liver") is None


def test_boxes_of_other_results_are_left_alone(written):
    node, target, undo = written
    other = write_result(result(target), target, undo=undo)
    for one in (node, other):
        boxes.show_box(one, record.rows_of(one)[0], target)

    boxes.hide_boxes(node)

    assert boxes.box_of(node, "liver") is None
    assert boxes.box_of(other, "liver") is not None


@pytest.mark.parametrize(
    "text", ["[" * 200_000, "not JSON", "[1]", '{"name": 1}', '[{"name": "liver"}]', "5", '[{"reference_volume_ml": NaN}]']
)
def test_a_scene_whose_file_somebody_has_changed_does_not_stop_the_panel(scene, text):
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode")
    for attribute in (record._SOURCE, record._MISSING):
        node.SetAttribute(attribute, text)

    assert record.missing_of(node) == []
    assert all(isinstance(one, str) for pair in record.source_of(node).items() for one in pair)
