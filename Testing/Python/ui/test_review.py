"""What users do with a result: look, accept, correct, repeat, remove, undo."""

import nodes
import numpy as np
import pytest
import slicer
from clicks import LIVER, MILZ, click, click_row, load_case, paint, voxels
from host import modules

from RAUSlicerLib.scene import record


@pytest.fixture
def reviewed(panel, run):
    """The panel after a run with two drafts; called, it runs."""

    def load_and_run(transform=False):
        *_, target = load_case()
        if transform:
            target.SetAndObserveTransformNodeID(nodes.transform().GetID())
        run("copy")
        return panel.parameters.resultSegmentation, target

    return load_and_run


def test_a_click_shows_the_structure_in_the_views(panel, reviewed, scene):
    node, _target = reviewed(transform=True)
    view = scene.AddNewNodeByClass("vtkMRMLSliceNode", "Red")
    view.SetLayoutName("Red")

    click_row(panel, "Milz")

    to_slice = np.linalg.inv(slicer.util.arrayFromVTKMatrix(view.GetSliceToRAS()))
    x, y, depth = (to_slice @ (*node.GetSegmentCenterRAS("Milz"), 1.0))[:3]
    assert depth == pytest.approx(0, abs=1e-3)
    assert max(abs(x) / view.GetFieldOfView()[0], abs(y) / view.GetFieldOfView()[1]) <= 0.5


def test_accepting_ends_the_draft_and_undo_brings_it_back(panel, reviewed):
    node, _target = reviewed()
    click_row(panel, "Liver")

    click(panel.ui.acceptButton)

    assert [row.accepted for row in record.rows_of(node)] == [True, False]
    assert "1 still drafts" in panel.ui.resultsLabel.text
    assert panel.ui.undoButton.toolTip == "Undo accepting Liver"
    click(panel.ui.undoButton)
    assert [row.accepted for row in record.rows_of(node)] == [False, False]


def test_removing_takes_one_segment_and_undo_puts_it_back_in_its_place(panel, reviewed):
    node, target = reviewed()
    click_row(panel, "Liver")

    click(panel.ui.removeButton)

    assert list(node.GetSegmentation().GetSegmentIDs()) == ["Milz"]
    assert panel.ui.resultsTable.rowCount == 1
    click(panel.ui.undoButton)
    assert list(node.GetSegmentation().GetSegmentIDs()) == ["Liver", "Milz"]
    np.testing.assert_array_equal(voxels(node, "Liver", target), LIVER)
    np.testing.assert_array_equal(voxels(node, "Milz", target), MILZ)


def test_an_undo_leaves_what_was_painted_on_other_segments(panel, reviewed):
    node, target = reviewed()
    click_row(panel, "Liver")
    click(panel.ui.acceptButton)
    stroke = nodes.box((0, 1), (0, 7), (0, 8))
    paint(node, "Milz", target, stroke)

    click(panel.ui.undoButton)

    np.testing.assert_array_equal(voxels(node, "Milz", target), MILZ | stroke)


def test_redo_replaces_one_structure_and_no_other(panel, reviewed, idle):
    node, target = reviewed()
    paint(node, "Liver", target, nodes.box((0, 1), (0, 7), (0, 8)))
    paint(node, "Milz", target, nodes.box((0, 1), (0, 1), (0, 1)))
    click_row(panel, "Liver")

    click(panel.ui.redoButton)
    idle()

    np.testing.assert_array_equal(voxels(node, "Liver", target), LIVER)
    np.testing.assert_array_equal(voxels(node, "Milz", target), MILZ | nodes.box((0, 1), (0, 1), (0, 1)))


def test_a_painted_slice_is_offered_for_an_update_and_sent(panel, reviewed, idle):
    node, target = reviewed(transform=True)
    click_row(panel, "Liver")
    click(panel.ui.editButton)
    assert not panel.ui.updateButton.enabled
    assert "Paint at least one slice" in panel.ui.updateReasonLabel.text
    stroke = nodes.box((2, 3), (0, 7), (0, 3))

    paint(node, "Liver", target, stroke)

    assert panel.ui.updateButton.text == "Update from 1 painted slice"
    click(panel.ui.updateButton)
    idle()
    assert not panel.ui.messageBox.visible, panel.ui.problemLabel.text
    # The scripted pipeline answers with the mask it was sent, and a confidence of its own.
    np.testing.assert_array_equal(voxels(node, "Liver", target), LIVER | stroke)
    row = record.rows_of(node)[0]
    assert (row.confidence, row.painted) == (0.5, ((2, 2),))
    assert not panel.ui.updateButton.enabled
    click(panel.ui.undoButton)
    np.testing.assert_array_equal(voxels(node, "Liver", target), LIVER | stroke)
    assert panel.ui.updateButton.text == "Update from 1 painted slice"


def test_an_update_that_had_to_match_again_says_so_once(panel, reviewed, idle):
    node, target = reviewed()
    click_row(panel, "Liver")
    click(panel.ui.editButton)
    # As after a new start of the application: the worker knows nothing of the run.
    panel._controller.restart()
    for stroke, said in ((nodes.box((2, 3), (0, 7), (0, 3)), True), (nodes.box((3, 4), (0, 7), (0, 3)), False)):
        paint(node, "Liver", target, stroke)
        click(panel.ui.updateButton)
        idle()

        assert panel.ui.messageBox.visible is said, panel.ui.problemLabel.text
        assert "had to be matched again" in panel.ui.explanationLabel.text
        assert voxels(node, "Liver", target)[stroke].all()


def test_a_moved_box_is_offered_for_an_update_and_sent(panel, reviewed, idle):
    node, _target = reviewed(transform=True)
    click_row(panel, "Liver")
    click(panel.ui.boxesButton)
    boxes = slicer.util.getNodesByClass("vtkMRMLMarkupsROINode")
    assert len(boxes) == 1
    assert not panel.ui.updateButton.visible

    center = boxes[0].GetCenter()
    boxes[0].SetCenter(center[0] + 7, center[1], center[2])
    modules.settle(500)

    assert panel.ui.updateButton.text == "Update from the moved box"
    click(panel.ui.updateButton)
    idle()
    assert not panel.ui.messageBox.visible, panel.ui.problemLabel.text
    np.testing.assert_allclose(record.rows_of(node)[0].box_mm, ((-7, 1, 2), (-4, 4, 5)), atol=1e-3)


def test_boxes_lie_where_the_run_looked_and_go_again(panel, reviewed, scene):
    from RAUSlicerLib.scene import boxes

    node, target = reviewed(transform=True)

    click(panel.ui.boxesButton)

    box = boxes.box_of(node, "Milz")
    assert box.GetTransformNodeID() == target.GetTransformNodeID()
    np.testing.assert_allclose(boxes.read_box(box), ((0, 1, 2), (3, 4, 5)), atol=1e-4)
    click(panel.ui.boxesButton)
    assert slicer.util.getNodesByClass("vtkMRMLMarkupsROINode") == []


def test_surfaces_are_shown_stay_over_a_redo_and_are_removed(panel, reviewed, idle):
    node, target = reviewed()

    click(panel.ui.show3DButton)
    assert node.GetSegmentation().ContainsRepresentation("Closed surface")
    assert panel.ui.show3DButton.checked

    paint(node, "Liver", target, nodes.box((0, 1), (0, 7), (0, 8)))
    click_row(panel, "Liver")
    click(panel.ui.redoButton)
    idle()
    assert node.GetSegmentation().GetSegment("Liver").GetRepresentation("Closed surface") is not None
    click(panel.ui.show3DButton)
    assert not node.GetSegmentation().ContainsRepresentation("Closed surface")


def test_the_editor_opens_on_the_segment_and_closes_with_the_module(panel, reviewed):
    node, target = reviewed()
    click_row(panel, "Milz")

    click(panel.ui.editButton)

    editor = panel.ui.editorFrame.findChild(slicer.qMRMLSegmentEditorWidget)
    assert (editor.segmentationNode(), editor.sourceVolumeNode(), editor.currentSegmentID()) == (node, target, "Milz")
    assert editor.shortcuts_installed and editor.effect == "Paint"
    panel.exit()
    assert not editor.shortcuts_installed and editor.effect == ""
    panel.enter()
    click(panel.ui.doneEditingButton)
    assert not panel.ui.editorFrame.visible


def test_the_table_follows_the_segment_while_it_is_painted(panel, reviewed):
    node, target = reviewed()
    before = record.rows_of(node)[0].volume_ml

    paint(node, "Liver", target, nodes.box((0, 1), (0, 7), (0, 8)))

    assert panel._results.table.rows[0].volume_ml == pytest.approx(before + 56 * 0.8 * 1.5 * 3 / 1000)


def test_a_click_on_a_header_sorts_and_another_one_turns_it_round(panel, reviewed):
    reviewed()
    header = panel.ui.resultsTable.horizontalHeader()

    names = []
    for _click in range(2):
        header.sectionClicked.emit(0)
        names.append([row.name for row in panel._results.table.rows])

    assert names == [["Liver", "Milz"], ["Milz", "Liver"]]


def test_a_wide_table_has_a_column_for_everything(panel, reviewed):
    reviewed()
    panel.ui.RAUSlicer.parent().resize(700, 900)
    modules.settle(50)

    table = panel.ui.resultsTable
    assert [table.isColumnHidden(column) for column in range(6)] == [False] * 6
    assert [table.item(0, column).text() for column in (0, 1, 4)] == ["Liver", "✓ found, draft", "1.2"]


def test_a_result_survives_saving_and_loading_the_scene(panel, reviewed, scene, tmp_path):
    reviewed()
    click_row(panel, "Liver")
    click(panel.ui.acceptButton)
    path = tmp_path / "scene.mrb"
    slicer.util.saveScene(str(path))
    scene.Clear(0)
    modules.settle()

    slicer.util.loadScene(str(path))
    modules.settle(50)

    node = panel.parameters.resultSegmentation
    assert [(row.name, row.status, row.confidence, row.accepted) for row in record.rows_of(node)] == [
        ("Liver", "found", 0.75, True),
        ("Milz", "found", 0.75, False),
    ]
    assert [item.GetName() for item in record.inputs_of(node)] == ["Reference CT", "Reference", "Target CT"]
    assert panel.ui.resultsTable.rowCount == 2
    click_row(panel, "Milz")
    assert panel.ui.redoButton.enabled


def test_a_second_run_makes_a_second_result_of_another_name_and_both_can_be_looked_at(panel, reviewed, run):
    first, _target = reviewed()
    run()

    assert [node.GetName() for node in (first, panel.parameters.resultSegmentation)] == ["Target CT RAUSlicer", "Target CT RAUSlicer_1"]
    assert panel.ui.resultSelector.visible
    panel.ui.resultSelector.setCurrentNode(first)
    assert panel._results.node is first


def test_the_result_removed_while_it_is_edited_closes_the_editor(panel, reviewed, scene):
    node, _target = reviewed()
    click_row(panel, "Liver")
    click(panel.ui.editButton)

    scene.RemoveNode(node)
    modules.settle(500)

    assert not panel.ui.editorFrame.visible
    assert not panel.ui.resultsSection.visible or panel.ui.resultsTable.rowCount == 0
    assert not panel.ui.acceptButton.enabled


def test_the_target_removed_while_it_is_edited_offers_no_update(panel, reviewed, scene):
    _node, target = reviewed()
    click_row(panel, "Liver")
    click(panel.ui.editButton)

    scene.RemoveNode(target)
    modules.settle(500)

    assert not panel.ui.updateButton.enabled
    assert not panel.ui.redoButton.enabled
    assert not panel.ui.editButton.enabled or panel.ui.editorFrame.visible


def test_the_segment_removed_elsewhere_leaves_the_table(panel, reviewed):
    node, _target = reviewed()
    click_row(panel, "Liver")
    click(panel.ui.editButton)

    node.GetSegmentation().RemoveSegment("Liver")
    modules.settle(500)

    assert [row.name for row in panel._results.table.rows] == ["Milz"]
    assert not panel.ui.editorFrame.visible
