import nodes
import numpy as np
import pytest
import qt
import slicer
from clicks import MASKS, click, results_of, voxels
from host import modules

from RAUSlicerLib.support.text import plain_text


def cells(panel, row):
    """What a row of the narrow table says: name and volumes, confidence in words and as the bar shows it, status."""
    table = panel.ui.resultsTable
    cell = table.cellWidget(row, 2)
    texts = [label.text for label in cell.findChildren(qt.QLabel)]
    return [table.item(row, 0).text(), *texts, *(bar.value for bar in cell.findChildren(qt.QProgressBar))]


def test_an_empty_scene_says_what_to_choose(panel):
    assert not panel.ui.transferButton.enabled
    assert panel.ui.reasonLabel.visible
    assert "Load two volumes and a segmentation" in panel.ui.reasonLabel.text
    assert panel.ui.sampleDataButton.visible
    assert "Research use only" in panel.ui.researchLabel.text


def test_inputs_pair_themselves_and_the_button_says_what_it_will_do(panel, loaded):
    reference, segmentation, target = loaded

    chosen = panel.parameters
    assert (chosen.referenceVolume, chosen.referenceSegmentation, chosen.targetVolume) == (reference, segmentation, target)
    assert panel.ui.targetVolumeSelector.currentNode() is target
    assert panel.ui.transferButton.enabled
    assert panel.ui.transferButton.text == "Transfer 2 structures to Target CT"
    assert not panel.ui.reasonLabel.visible


def test_the_reference_is_the_volume_the_segmentation_was_drawn_on_whatever_the_order(panel):
    other = nodes.volume("Other", matrix=np.eye(4))
    reference = nodes.volume("Reference")
    nodes.segmentation(reference, MASKS)
    modules.settle()

    assert panel.parameters.referenceVolume is reference
    assert panel.parameters.targetVolume is other


@pytest.mark.parametrize("geometry", [True, False], ids=["by its reference geometry", "by its label maps"])
def test_a_segmentation_that_names_no_volume_is_paired_by_its_grid(panel, geometry):
    nodes.volume("Other", matrix=np.eye(4))
    reference = nodes.volume("Reference")
    segmentation = nodes.segmentation(reference, MASKS)
    segmentation.SetNodeReferenceID(segmentation.GetReferenceImageGeometryReferenceRole(), None)
    if not geometry:
        parameter = slicer.vtkSegmentationConverter.GetReferenceImageGeometryParameterName()
        segmentation.GetSegmentation().SetConversionParameter(parameter, "")
    modules.settle()

    assert panel.parameters.referenceVolume is reference


def test_a_segmentation_on_no_loaded_grid_is_not_paired_by_guessing(panel, scene):
    elsewhere = nodes.volume("Elsewhere")
    nodes.segmentation(elsewhere, MASKS)
    scene.RemoveNode(elsewhere)
    nodes.volume("Other", matrix=np.eye(4))
    modules.settle()

    assert panel.parameters.referenceVolume is None
    assert "Choose the reference volume" in panel.ui.reasonLabel.text


def test_choices_of_the_user_are_not_guessed_away(panel, loaded):
    _reference, _segmentation, _target = loaded
    third = nodes.volume("Third")
    panel.ui.targetVolumeSelector.setCurrentNode(third)
    nodes.volume("Fourth")
    modules.settle()

    assert panel.parameters.targetVolume is third


def test_structures_are_listed_with_their_colors_and_ticked_hidden_ones_too(panel, loaded):
    _reference, segmentation, _target = loaded
    segmentation.GetDisplayNode().SetSegmentVisibility("Milz", False)
    segmentation.GetSegmentation().GetSegment("Milz").SetColor(1.0, 0.5, 0.0)
    modules.settle()

    items = [panel.ui.structuresList.item(index) for index in range(panel.ui.structuresList.count)]
    assert [item.text() for item in items] == ["Liver", "Milz"]
    assert all(item.checkState() == qt.Qt.Checked for item in items)
    color = items[1].icon().pixmap(14, 14).toImage().pixelColor(7, 7)
    assert (color.red(), color.green(), color.blue()) == (255, 128, 0)


def test_unticking_is_kept_in_the_scene_and_shown_on_the_button(panel, loaded):
    panel.ui.structuresList.item(0).setCheckState(qt.Qt.Unchecked)

    assert panel.ui.transferButton.text == "Transfer 1 structure to Target CT"
    assert panel.parameters.excludedSegments == ["Liver"]
    click(panel.ui.noStructuresButton)
    assert not panel.ui.transferButton.enabled
    assert "Tick at least one" in panel.ui.reasonLabel.text
    click(panel.ui.allStructuresButton)
    assert panel.ui.transferButton.text == "Transfer 2 structures to Target CT"


def test_a_segment_added_later_appears(panel, loaded):
    _reference, segmentation, _target = loaded

    segmentation.GetSegmentation().AddEmptySegment("new", "New")
    modules.settle()

    assert panel.ui.structuresList.count == 3


def test_the_same_volume_twice_is_allowed_with_a_note(panel, loaded):
    reference, _segmentation, _target = loaded

    panel.ui.targetVolumeSelector.setCurrentNode(reference)

    assert panel.ui.transferButton.enabled
    assert "same volume" in panel.ui.reasonLabel.text


def test_one_click_writes_the_segments_and_shows_the_results(panel, scripted, loaded, idle):
    _reference, segmentation, target = loaded
    target.SetAndObserveTransformNodeID(nodes.transform().GetID())

    click(panel.ui.transferButton)

    assert panel.ui.cancelButton.visible and not panel.ui.transferButton.visible
    idle()
    (node,) = results_of(segmentation)
    for id_, mask in MASKS.items():
        np.testing.assert_array_equal(voxels(node, id_, target), mask)
    volumes = [f"{mask.sum() * 0.8 * 1.5 * 3 / 1000:.2f} / 1.2" for mask in MASKS.values()]
    for row, (name, volume) in enumerate(zip(MASKS, volumes, strict=True)):
        assert cells(panel, row) == [f"{name}\n{volume} (▼ {float(volume.split()[0]) / 1.25:.2f})", "75 %", "✓ found, draft", 75]
    assert "2 of 2 structures found" in panel.ui.resultsLabel.text
    assert "2 still drafts" in panel.ui.resultsLabel.text
    assert panel.ui.explanationLabel.text == "A warning."


def test_only_ticked_structures_are_asked_for(panel, loaded, run):
    panel.ui.structuresList.item(0).setCheckState(qt.Qt.Unchecked)

    run()

    assert panel.ui.resultsTable.rowCount == 1
    assert panel.ui.resultsTable.item(0, 0).text().startswith("Milz")


def test_undo_takes_the_run_back_in_one_step(panel, loaded, run):
    _reference, segmentation, _target = loaded
    run()

    click(panel.ui.undoButton)

    assert results_of(segmentation) == []
    assert not panel.ui.undoButton.enabled


def test_nothing_found_is_said_plainly(panel, loaded, scene, run):
    _reference, segmentation, _target = loaded
    run("nothing")

    assert panel.ui.resultsLabel.text.startswith("Nothing was found. The scene was not changed.")
    assert cells(panel, 0)[1:] == ["✗ not found"]
    assert results_of(segmentation) == []


def test_cancel_takes_the_buttons_place_and_keeps_what_is_finished(panel, scripted, loaded, wait_until, idle):
    _reference, segmentation, _target = loaded
    panel.parameters.model = "wait"
    click(panel.ui.transferButton)
    wait_until(lambda: panel.ui.progressLabel.text.startswith("Drawing: Liver"))
    assert panel.ui.progressBar.value == 50

    click(panel.ui.cancelButton)

    assert not panel.ui.cancelButton.enabled
    idle()
    assert "cancelled" in panel.ui.resultsLabel.text
    assert results_of(segmentation)


def test_an_error_shows_problem_explanation_and_solution_and_the_next_run_works(panel, loaded, run):
    _reference, segmentation, _target = loaded
    run("model")

    assert panel.ui.messageBox.visible
    texts = [label.text for label in (panel.ui.problemLabel, panel.ui.explanationLabel, panel.ui.solutionLabel)]
    assert texts == ["The model 'x' is damaged.", "A checksum differs.", "Install it again."]
    assert results_of(segmentation) == []
    run("copy")
    assert results_of(segmentation)


EVIL = "\x1b[2JLiver\x07\x9b1m\u202eright"


def test_control_characters_in_names_are_shown_as_escapes_and_are_not_taken_over(panel, scripted, idle):
    reference = nodes.volume("Reference CT")
    segmentation = nodes.segmentation(reference, {"a": MASKS["Liver"], "b": MASKS["Milz"]})
    segmentation.GetSegmentation().GetSegment("a").SetName(EVIL)
    nodes.volume(EVIL)
    modules.settle()
    ui = panel.ui

    ui.logSection.collapsed = False
    click(ui.transferButton)
    idle()

    table, structures = ui.resultsTable, ui.structuresList
    shown = [table.item(row, 0).text() for row in range(table.rowCount)] + [table.item(row, 0).toolTip() for row in range(table.rowCount)]
    shown += [structures.item(row).text() for row in range(structures.count)] + [
        structures.item(row).toolTip() for row in range(structures.count)
    ]
    shown += [ui.transferButton.text, ui.resultsLabel.text, ui.progressLabel.text, ui.logText.toPlainText()]
    assert any("\\x1b[2JLiver" in text for text in shown)
    assert all(text.replace("\n", "").isprintable() for text in shown), shown
    (node,) = results_of(segmentation)
    # What was taken over keeps no characters that steer a terminal.
    assert plain_text(EVIL) in [node.GetSegmentation().GetSegment(id_).GetName() for id_ in node.GetSegmentation().GetSegmentIDs()]


def test_control_characters_in_a_message_are_shown_as_escapes_and_it_is_no_markup(panel):
    panel._show_failure(EVIL + "\r", "<b>bold</b>", "a\nb")

    assert panel.ui.problemLabel.text.isprintable() and "Liver" in panel.ui.problemLabel.text
    assert panel.ui.solutionLabel.text == "a\nb"
    labels = (panel.ui.problemLabel, panel.ui.explanationLabel, panel.ui.solutionLabel)
    assert all(label.textFormat == qt.Qt.PlainText for label in labels)


def test_an_unexpected_error_says_where_and_nothing_of_the_patient(panel, loaded, monkeypatch, caplog, run):
    def fail(_reply):
        raise ZeroDivisionError("in the volume of " + " ".join(("Jane", "Doe")))

    monkeypatch.setattr("RAUSlicerLib.service.exchange.read_result", fail)
    panel.ui.logSection.collapsed = False

    run()

    assert "ZeroDivisionError (test_panel.py, line" in panel.ui.problemLabel.text
    for text in (panel.ui.problemLabel.text, panel.ui.logText.toPlainText(), caplog.text):
        assert "ZeroDivisionError" in text and "Jane" not in text


def test_the_target_removed_during_the_run_gives_a_message(panel, scripted, loaded, wait_until, scene, idle):
    _reference, segmentation, target = loaded
    panel.parameters.model = "wait"
    click(panel.ui.transferButton)
    wait_until(lambda: panel.ui.progressLabel.text.startswith("Drawing: Liver"))

    scene.RemoveNode(target)
    click(panel.ui.cancelButton)
    idle()

    assert "target volume is no longer in the scene" in panel.ui.problemLabel.text
    assert results_of(segmentation) == []


def test_the_scene_closed_during_the_run_ends_it_with_a_message(panel, scripted, loaded, wait_until, scene, idle):
    panel.parameters.model = "wait"
    click(panel.ui.transferButton)
    wait_until(lambda: panel.ui.progressLabel.text.startswith("Drawing: Liver"))

    scene.Clear(0)
    idle()

    assert "no longer in the scene" in panel.ui.problemLabel.text
    assert not panel.ui.transferButton.enabled
    assert panel.parameters.referenceVolume is None
    assert not panel.ui.resultsSection.visible


def test_leaving_and_coming_back_keeps_the_choices_and_the_run(panel, scripted, loaded, wait_until):
    _reference, segmentation, _target = loaded
    panel.ui.structuresList.item(1).setCheckState(qt.Qt.Unchecked)
    click(panel.ui.transferButton)

    panel.exit()
    wait_until(lambda: results_of(segmentation))
    panel.enter()

    assert panel.ui.transferButton.text == "Transfer 1 structure to Target CT"
    assert results_of(segmentation)[0].GetSegmentation().GetNumberOfSegments() == 1


def test_choices_survive_saving_and_loading_the_scene(panel, loaded, scene, tmp_path):
    panel.ui.structuresList.item(0).setCheckState(qt.Qt.Unchecked)
    path = tmp_path / "scene.mrb"
    slicer.util.saveScene(str(path))
    scene.Clear(0)

    slicer.util.loadScene(str(path))
    modules.settle()

    assert panel.parameters.targetVolume.GetName() == "Target CT"
    assert panel.parameters.excludedSegments == ["Liver"]
    assert panel.ui.transferButton.text == "Transfer 1 structure to Target CT"


def test_no_temporary_file_is_left_behind(panel, loaded, tmp_path, run):
    run()
    (folder,) = (path for path in tmp_path.glob("rauslicer-*") if path.is_dir())
    assert [path.name for path in folder.iterdir()] == ["token"]

    panel._controller.stop()

    assert list(tmp_path.glob("rauslicer-*")) == []


def test_the_panel_fits_into_350_pixels_with_long_names(panel):
    reference = nodes.volume("AX T1 MPRAGE POST GADOLINIUM 1mm ISO RECON 2 of 2 (original)")
    nodes.segmentation(reference, {"Left superior cerebellar peduncle, posterior part": MASKS["Liver"]})
    nodes.volume("COR T2 FLAIR SPACE DARK FLUID 1mm ISO 3D follow-up examination 12 months")
    modules.settle()

    assert panel.ui.transferButton.enabled
    assert panel.ui.RAUSlicer.parent().minimumSizeHint().width() <= 350
