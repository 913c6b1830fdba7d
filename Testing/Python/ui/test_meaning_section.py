"""Report and questions in the panel: what is written, what a click shows, and what users do meanwhile."""

import json

import nodes
import numpy as np
import pytest
import qt
import slicer
from clicks import LIVER, MILZ, click, click_item, click_row, load_case, paint, replace
from host import modules

from RAUSlicerLib.scene import cases, record


@pytest.fixture
def reviewed(panel, run):
    """The panel after a run with two drafts, the section open; called, it runs."""

    def load_and_run(names=("Liver", "Milz"), transform=False):
        *_, target = load_case(dict(zip(names, (LIVER, MILZ), strict=True)), reference="DOE^JANE Reference")
        if transform:
            target.SetAndObserveTransformNodeID(nodes.transform().GetID())
        run("copy")
        panel.ui.meaningSection.collapsed = False
        modules.settle()
        return panel.parameters.resultSegmentation, target

    return load_and_run


@pytest.fixture
def said(panel, wait_until):
    """said(button): press a button of the section and wait until its report or answer is there."""

    def press(button):
        click(button)
        wait_until(lambda: not panel._meaning.running)

    return press


@pytest.fixture
def written(panel, reviewed, said):
    """As reviewed, with a report."""

    def report(**options):
        found = reviewed(**options)
        said(panel.ui.reportButton)
        assert panel._meaning._report is not None, panel.ui.reportMessageLabel.text
        return found

    return report


def click_sentence(widget, start):
    items = [widget.item(index) for index in range(widget.count)]
    click_item(widget, next(one for one in items if one.text().startswith(start) and not one.isHidden()))


def listed(widget):
    return [widget.item(index).text() for index in range(widget.count) if not widget.item(index).isHidden()]


@pytest.fixture
def ask(panel, said):
    """ask(question): the lines of the answer."""

    def asked(question):
        panel.ui.questionEdit.text = question
        said(panel.ui.askButton)
        assert not panel.ui.reportMessageLabel.visible, panel.ui.reportMessageLabel.text
        return listed(panel.ui.answerList)

    return asked


def test_without_a_result_everything_is_disabled_and_says_why(panel):
    panel.ui.meaningSection.collapsed = False

    for button in (panel.ui.reportButton, panel.ui.saveReportButton, panel.ui.askButton, panel.ui.hereButton, panel.ui.questionEdit):
        assert not button.enabled
        assert "no result yet" in button.toolTip
    assert "research use only" in panel.ui.meaningLabel.text


def test_a_report_is_written_under_titles_and_the_scene_stays_as_it_is(panel, written, scene):
    node, _target = written()

    texts = listed(panel.ui.reportList)
    assert texts[0] == "Overview" and "Limits" in texts
    assert any(text.startswith("Liver: the volume is") for text in texts)
    assert f"{panel._meaning._report_list.count} sentences" in panel.ui.reportLabel.text
    before = scene.GetNumberOfNodes(), cases.stamp(node)
    click_sentence(panel.ui.reportList, "Milz: the volume")
    assert (scene.GetNumberOfNodes(), cases.stamp(node)) == before


def test_what_is_sent_names_the_model_and_no_node(panel, written):
    written()

    assert dict(panel._meaning._report.source) == {"Model": "copy", "Localizer": "vlm"}
    assert "DOE" not in json.dumps(listed(panel.ui.reportList))


def test_a_sentence_selects_its_structure_and_moves_the_views(panel, written, scene):
    node, _target = written(transform=True)
    view = scene.AddNewNodeByClass("vtkMRMLSliceNode", "Red")
    view.SetLayoutName("Red")

    click_sentence(panel.ui.reportList, "Milz: the volume")

    assert [row.key for row in panel._results.table.selected] == ["Milz"]
    to_slice = np.linalg.inv(slicer.util.arrayFromVTKMatrix(view.GetSliceToRAS()))
    assert (to_slice @ (*node.GetSegmentCenterRAS("Milz"), 1.0))[2] == pytest.approx(0, abs=1e-3)
    # The list did not shrink below the mouse.
    assert any(text.startswith("Liver:") for text in listed(panel.ui.reportList))


def test_a_sentence_on_several_structures_selects_all_of_them(panel, written):
    written()

    click_sentence(panel.ui.reportList, "2 structures were looked for")

    assert sorted(row.key for row in panel._results.table.selected) == ["Liver", "Milz"]


def test_sentences_can_be_gone_through_with_the_keyboard(panel, written):
    written()
    panel.ui.reportList.setFocus()
    texts = listed(panel.ui.reportList)
    panel.ui.reportList.setCurrentRow(next(i for i, text in enumerate(texts) if text.startswith("Liver: the volume")))
    assert [row.key for row in panel._results.table.selected] == ["Liver"]

    while panel.ui.reportList.currentItem() is None or not panel.ui.reportList.currentItem().text().startswith("Milz:"):
        qt.QTest.keyClick(panel.ui.reportList, qt.Qt.Key_Down)

    assert [row.key for row in panel._results.table.selected] == ["Milz"]


def test_a_selected_row_shows_its_sentences_alone_until_the_box_is_unticked(panel, written):
    written()

    click_row(panel, "Milz")

    shown = panel._meaning._report_list.shown
    assert shown and all("Milz" in sentence.structures for sentence in shown)
    assert "on the selected structures" in panel.ui.reportLabel.text
    assert "Limits" not in listed(panel.ui.reportList)
    panel.ui.selectedOnlyBox.click()
    assert len(panel._meaning._report_list.shown) == panel._meaning._report_list.count


def test_evidence_is_in_the_tool_tip(panel, written):
    written()

    items = [panel.ui.reportList.item(index) for index in range(panel.ui.reportList.count)]
    tool_tip = next(item for item in items if item.text().startswith("Liver: the volume")).toolTip()
    assert "Rests on: Liver" in tool_tip and "volume" in tool_tip and "75 %" in tool_tip


def test_an_edited_segment_makes_the_report_old_and_the_next_one_measures_it_as_it_is(panel, written, said):
    node, target = written()
    volume = next(s for s in panel._meaning._report.about("Liver") if "the volume is" in s.text).measurements[0].value

    replace(node, "Liver", target, LIVER | nodes.box((0, 1), (0, 7), (0, 8)))

    assert "have changed since" in panel.ui.reportLabel.text
    said(panel.ui.reportButton)
    assert "have changed since" not in panel.ui.reportLabel.text
    now = next(s for s in panel._meaning._report.about("Liver") if "the volume is" in s.text).measurements[0].value
    assert now == pytest.approx(volume + 56 * 0.8 * 1.5 * 3 / 1000)


def test_accepting_does_not_make_the_report_old(panel, written):
    written()
    click_row(panel, "Liver")

    click(panel.ui.acceptButton)
    modules.settle(500)

    assert "have changed" not in panel.ui.reportLabel.text


def test_a_question_is_answered_with_its_evidence(panel, reviewed, ask):
    reviewed()

    answer = ask("How large is the milz?")

    assert answer[0] == "How large is the milz?"
    assert answer[1].startswith("Milz: the volume is")
    assert answer[-1] == "Rests on: Milz (confidence 75 %)"
    click_sentence(panel.ui.answerList, "Milz: the volume")
    assert [row.key for row in panel._results.table.selected] == ["Milz"]


def test_return_asks_and_an_empty_line_does_not(panel, reviewed, wait_until):
    reviewed()
    click(panel.ui.askButton)
    assert not panel._meaning.running

    qt.QTest.keyClicks(panel.ui.questionEdit, "Is this dangerous?")
    qt.QTest.keyClick(panel.ui.questionEdit, qt.Qt.Key_Return)
    wait_until(lambda: not panel._meaning.running)

    assert "I did not understand the question." in listed(panel.ui.answerList)[1]


def test_presence_is_kept_with_the_result_and_is_evidence(reviewed, ask):
    node, _target = reviewed()

    assert [row.presence for row in record.rows_of(node)] == [0.9, 0.9]
    assert any("0.90, which is high" in text for text in ask("Is the liver present?"))


def test_the_crosshair_is_where_it_is_seen_also_under_a_transform(panel, reviewed, scene, said):
    node, _target = reviewed(transform=True)
    crosshair = scene.GetFirstNodeByClass("vtkMRMLCrosshairNode")
    center = node.GetSegmentCenterRAS("Milz")
    crosshair.SetCrosshairRAS(*center)

    said(panel.ui.hereButton)

    assert listed(panel.ui.answerList)[1].startswith("This point lies in Milz")
    crosshair.SetCrosshairRAS(center[0] + 1000, center[1], center[2])
    said(panel.ui.hereButton)
    assert "outside of the image" in listed(panel.ui.answerList)[1]


def test_a_drawn_region_is_asked_about(reviewed, scene, ask):
    node, _target = reviewed(transform=True)
    assert "no point and no region" not in ask("What is the marked region?")[1]
    roi = scene.AddNewNodeByClass("vtkMRMLMarkupsROINode", "Mine")
    roi.SetCenterWorld(node.GetSegmentCenterRAS("Milz"))
    roi.SetSize(1.0, 1.0, 3.0)

    answer = ask("What is the marked region?")

    assert "of the marked region lie in Milz" in answer[1]


def test_the_marked_region_is_the_voxels_inside_of_the_box(scene):
    target = nodes.volume("Target", matrix=np.diag((-1.0, -1.0, 1.0, 1.0)))
    assert cases.marked_region(target) is None
    roi = scene.AddNewNodeByClass("vtkMRMLMarkupsROINode", "Mine")
    # Voxels x 2 to 4, y 1 to 2, z 3; a left-handed grid, so that x and y are negative in RAS.
    roi.SetCenter(-3.0, -1.5, 3.0)
    roi.SetSize(2.5, 1.5, 0.5)

    np.testing.assert_array_equal(cases.marked_region(target), nodes.box((3, 4), (1, 3), (2, 5)))


def test_a_structure_that_was_not_found_is_asked_about_too(panel, reviewed, ask):
    node, _target = reviewed()
    row = next(row for row in record.rows_of(node) if row.name == "Milz")
    node.GetSegmentation().RemoveSegment("Milz")
    record.remember_missing(node, [record.replace(row, present=False, presence=0.05)])
    panel._refresh()

    assert ask("Is the milz present?")[1:] == [
        "Milz was not found.",
        "The localizer's own estimate that Milz is there is 0.05, which is low.",
        "Rests on: Milz",
    ]


def test_a_segment_of_the_users_own_is_known_without_a_confidence(reviewed, ask):
    node, target = reviewed()
    node.GetSegmentation().AddEmptySegment("mine", "Lesion")
    replace(node, "mine", target, nodes.box((0, 1), (5, 7), (0, 2)))

    answer = ask("Is the lesion present?")

    assert answer[1].startswith("Lesion is present") and "confidence" not in answer[1]


def test_nothing_else_starts_while_a_report_is_written_and_it_can_be_cancelled(panel, reviewed, wait_until, said):
    reviewed(names=("slow", "Milz"))

    click(panel.ui.reportButton)

    assert panel.ui.cancelReportButton.visible and panel.ui.reportProgressBar.visible
    assert not panel.ui.transferButton.enabled and "Wait until" in panel.ui.transferButton.toolTip
    assert not panel.ui.reportButton.enabled
    wait_until(lambda: panel.ui.reportProgressBar.value >= 20)
    said(panel.ui.cancelReportButton)
    assert "cancelled" in panel.ui.reportMessageLabel.text
    assert panel.ui.transferButton.enabled and panel.ui.reportButton.enabled


@pytest.mark.parametrize("name", ["bug", "crash"])
def test_a_failure_is_explained_and_the_next_report_works(panel, reviewed, name, said):
    node, _target = reviewed(names=(name, "Milz"))

    said(panel.ui.reportButton)

    assert panel.ui.reportMessageLabel.visible and panel.ui.reportMessageLabel.text
    node.GetSegmentation().GetSegment(name).SetName("Liver")
    said(panel.ui.reportButton)
    assert not panel.ui.reportMessageLabel.visible
    assert panel.ui.reportList.visible


@pytest.mark.parametrize("what", ["result", "target", "scene"])
def test_what_is_deleted_while_a_report_is_written_does_no_harm(panel, reviewed, wait_until, scene, release, what):
    node, target = reviewed(names=("slow", "Milz"))
    click(panel.ui.reportButton)
    wait_until(lambda: panel.ui.reportProgressBar.value >= 20)

    if what == "scene":
        scene.Clear(0)
    else:
        scene.RemoveNode(node if what == "result" else target)
    release()
    wait_until(lambda: not panel._meaning.running)
    modules.settle(500)

    assert not panel.ui.reportButton.enabled
    assert panel.ui.reportButton.toolTip
    assert what == "target" or not panel.ui.reportList.visible


def test_a_removed_segment_leaves_sentences_that_select_nothing(panel, written):
    node, _target = written()
    node.GetSegmentation().RemoveSegment("Milz")
    modules.settle(500)
    assert "have changed since" in panel.ui.reportLabel.text

    click_sentence(panel.ui.reportList, "Milz: the volume")

    assert panel._results.table.selected == []


def test_another_result_has_no_report_of_the_first(panel, written, run):
    first, _target = written()
    run()
    assert not panel.ui.reportList.visible

    panel.ui.resultSelector.setCurrentNode(first)

    assert panel._meaning._node is first


@pytest.mark.parametrize(("name", "form"), [("mine.md", "md"), ("mine", "html"), ("mine.json", "json")])
def test_a_report_is_saved_where_the_dialog_says(panel, reviewed, tmp_path, monkeypatch, name, form, said):
    reviewed()
    asked = []
    monkeypatch.setattr(qt.QFileDialog, "getSaveFileName", lambda *arguments: asked.append(arguments) or (str(tmp_path / name), ""))

    said(panel.ui.saveReportButton)

    path = tmp_path / f"mine.{form}"
    assert path.is_file() and "Liver" in path.read_text(encoding="utf-8")
    assert panel.ui.reportMessageLabel.text == f"Saved as {path}."
    assert panel.ui.reportList.visible
    assert "dcm" not in asked[0][3]


def test_a_dialog_that_is_closed_and_a_folder_that_is_gone_are_no_trouble(panel, reviewed, tmp_path, monkeypatch, said):
    reviewed()
    monkeypatch.setattr(qt.QFileDialog, "getSaveFileName", lambda *_arguments: ("", ""))
    click(panel.ui.saveReportButton)
    assert not panel._meaning.running

    monkeypatch.setattr(qt.QFileDialog, "getSaveFileName", lambda *_arguments: (str(tmp_path / "gone" / "x.md"), ""))
    said(panel.ui.saveReportButton)
    assert "can't be written" in panel.ui.reportMessageLabel.text


def test_a_volume_from_dicom_offers_a_dicom_report(panel, reviewed, tmp_path, monkeypatch):
    _node, target = reviewed()
    target.SetAttribute("DICOM.instanceUIDs", "1.2 1.3")

    class Database:
        def fileForInstance(self, uid):
            return str(tmp_path / "series" / uid)

    monkeypatch.setattr(slicer, "dicomDatabase", Database(), raising=False)
    asked = []
    monkeypatch.setattr(qt.QFileDialog, "getSaveFileName", lambda *arguments: asked.append(arguments) or ("", ""))

    click(panel.ui.saveReportButton)

    assert "*.dcm" in asked[0][3]
    assert cases.dicom_folder(target) == tmp_path / "series"


def test_a_snapshot_keeps_overlapping_segments_and_leaves_the_nodes_alone(reviewed):
    node, target = reviewed()
    stroke = nodes.box((1, 2), (2, 6), (3, 7))
    paint(node, "Milz", target, stroke)
    before = cases.stamp(node)

    snapshot = cases.snapshot_of(node)

    voxels = {s.name: snapshot.segmentation.array(s) for s in snapshot.segmentation.structures}
    np.testing.assert_array_equal(voxels["Liver"], LIVER)
    np.testing.assert_array_equal(voxels["Milz"], MILZ | stroke)
    assert snapshot.keys == {"Liver": "Liver", "Milz": "Milz"}
    assert snapshot.reference is not None
    assert cases.stamp(node) == before
