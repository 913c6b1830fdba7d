"""The small controls: search, settings, sets, log, shortcuts, time left, sample data."""

import sys

import nodes
import pytest
import qt
import slicer
from clicks import click, load_case
from host import modules

from RAUSlicerLib.ui import settings
from RAUSlicerLib.ui.remaining import TimeLeft

MASKS = {
    "Left kidney": nodes.box((0, 2), (2, 6), (3, 7)),
    "Right kidney": nodes.box((2, 4), (0, 2), (0, 3)),
    "Milz": nodes.box((4, 6), (0, 2), (0, 3)),
}


@pytest.fixture
def loaded(panel):
    return load_case(MASKS, "DOE^JANE CT", "DOE^JANE CT follow-up")


def listed(panel):
    items = [panel.ui.structuresList.item(index) for index in range(panel.ui.structuresList.count)]
    return [item.text() for item in items if not item.isHidden()]


def test_the_search_narrows_the_list_and_its_buttons_act_on_what_is_listed(panel, loaded):
    qt.QTest.keyClicks(panel.ui.structuresSearch, "kidney lef")
    assert listed(panel) == ["Left kidney"]

    click(panel.ui.noStructuresButton)

    assert panel.parameters.excludedSegments == ["Left kidney"]
    panel.ui.structuresSearch.text = ""
    assert listed(panel) == list(MASKS)


def test_a_structure_is_unticked_with_the_keyboard(panel, loaded):
    panel.ui.structuresList.setCurrentRow(2)

    qt.QTest.keyClick(panel.ui.structuresList, qt.Qt.Key_Space)

    assert panel.parameters.excludedSegments == ["Milz"]


def test_one_click_loads_the_sample_data_and_it_pairs_itself(panel):
    click(panel.ui.sampleDataButton)
    modules.settle(50)

    chosen = panel.parameters
    assert [node.GetName() for node in (chosen.referenceVolume, chosen.referenceSegmentation, chosen.targetVolume)] == [
        "Colin27 T1",
        "AAL structures",
        "ICBM152 T1",
    ]
    assert panel.ui.transferButton.text == "Transfer 116 structures to ICBM152 T1"
    assert not panel.ui.sampleDataButton.visible


def test_the_sample_data_is_registered_by_file_url(scene):
    import SampleData

    slicer.app.complete_startup()

    (source,) = slicer.modules.sampleDataSources["RAUSlicer"]
    assert all(uri.startswith("file:///") for uri in source.uris)
    loaded = SampleData.SampleDataLogic().downloadFromSource(source)
    assert [node.GetName() for node in loaded] == ["Colin27 T1", "AAL structures", "ICBM152 T1"]
    assert loaded[1].GetSegmentation().GetNumberOfSegments() == 116


def test_settings_of_the_computer_are_kept_by_the_application_and_sent(panel, loaded):
    panel.ui.threadsBox.value = 3
    panel.ui.memoryBox.value = 8

    inputs = panel._inputs(None, None, None)
    assert (inputs.threads, inputs.memory_mb) == (3, 8000)
    assert settings.load() == settings.ComputerSettings(threads=3, memory_mb=8000)
    panel.ui.threadsBox.value = 0
    assert panel._inputs(None, None, None).threads is None


def test_damaged_settings_count_as_not_set():
    qt.QSettings().setValue("RAUSlicer/Threads", "many")

    assert settings.load().threads == 0


def test_a_models_folder_offers_its_models_and_reaches_the_worker(panel, loaded, tiny_model):
    panel.ui.advancedSection.collapsed = False
    panel.ui.modelsFolderEdit.text = str(tiny_model.parent)
    panel.ui.modelsFolderEdit.editingFinished.emit()
    panel._refresh()

    names = [panel.ui.modelBox.itemText(index) for index in range(panel.ui.modelBox.count)]
    assert names == ["Embedded", "tiny"]
    panel.ui.modelBox.setCurrentIndex(1)
    assert panel.parameters.model == "tiny"
    from RAUSlicerLib.ui.run import worker_client

    assert worker_client()._environment["RAUSLICER_MODELS"] == str(tiny_model.parent)


def test_the_device_is_chosen_in_the_list(panel, loaded):
    panel.ui.deviceBox.setCurrentText("cpu")

    assert panel.parameters.device == "cpu"


def test_several_sets_of_settings_keep_their_own_choices(panel, loaded):
    *_, target = loaded
    first = panel.parameters.parameterNode
    other = nodes.volume("Other")
    modules.settle()

    panel.ui.parameterNodeSelector.addNode()
    modules.settle()
    panel.ui.targetVolumeSelector.setCurrentNode(other)
    click(panel.ui.noStructuresButton)

    assert panel.parameters.parameterNode is not first
    panel.ui.parameterNodeSelector.setCurrentNode(first)
    assert panel.parameters.targetVolume is target
    assert panel.parameters.excludedSegments == []
    assert panel.ui.transferButton.text.startswith("Transfer 3 structures")


def test_the_last_set_can_be_removed_and_there_is_a_new_one(panel, loaded):
    panel.ui.parameterNodeSelector.removeCurrentNode()
    modules.settle(20)

    assert panel.parameters is not None
    assert panel.parameters.targetVolume is not None


def test_the_log_can_be_copied_and_names_no_patient(panel, loaded, run):
    run("model")
    panel.ui.logSection.collapsed = False

    click(panel.ui.copyLogButton)

    text = qt.QApplication.clipboard().text()
    assert "The model 'x' is damaged." in text and "a library prints to stdout" in text and "RAUSlicer " in text
    assert "DOE" not in text and "DOE" not in panel.ui.logText.toPlainText()
    assert str(sys.prefix).split("/")[1] != "home" or "/home" not in text


def test_shortcuts_are_there_only_while_the_module_is_entered(panel, loaded):
    def keys():
        return [shortcut.key.toString() for shortcut in panel.ui.RAUSlicer.findChildren(qt.QShortcut) if shortcut.enabled]

    assert sorted(keys()) == ["Ctrl+Backspace", "Ctrl+Down", "Ctrl+Return", "Ctrl+Shift+A", "Ctrl+Up"]
    panel.exit()
    assert keys() == []
    panel.enter()
    assert len(keys()) == 5


def test_the_keyboard_starts_and_cancels_a_run(panel, scripted, loaded, wait_until, idle):
    panel.parameters.model = "wait"
    top = panel.ui.RAUSlicer
    top.activateWindow()

    qt.QTest.keyClick(top, qt.Qt.Key_Return, qt.Qt.ControlModifier)
    wait_until(lambda: panel.ui.progressBar.value == 50)
    qt.QTest.keyClick(top, qt.Qt.Key_Backspace, qt.Qt.ControlModifier)

    idle()
    assert "cancelled" in panel.ui.resultsLabel.text


def test_tab_goes_through_the_panel_from_top_to_bottom(panel, loaded):
    order = ["referenceVolumeSelector", "referenceSegmentationSelector", "targetVolumeSelector", "structuresSearch", "structuresList"]
    order += ["allStructuresButton", "noStructuresButton", "transferButton"]
    widgets = [getattr(panel.ui, name) for name in order]
    found, current = [], widgets[0]
    for _step in range(80):
        owner = next((w for w in widgets if current is w or w.isAncestorOf(current)), None)
        if owner is not None and owner.objectName not in found:
            found.append(owner.objectName)
        current = current.nextInFocusChain()

    assert found == order


def test_every_control_that_takes_the_focus_has_an_accessible_name(panel):
    nodes_boxes = [w for w in vars(panel.ui).values() if isinstance(w, slicer.qMRMLNodeComboBox)]
    inside = {id(child) for box in nodes_boxes for child in box.findChildren(qt.QWidget)}
    kinds = (
        qt.QPushButton,
        qt.QToolButton,
        qt.QLineEdit,
        qt.QComboBox,
        qt.QSpinBox,
        qt.QListWidget,
        qt.QTableWidget,
        qt.QPlainTextEdit,
        qt.QProgressBar,
    )
    controls = [w for w in panel.ui.RAUSlicer.findChildren(qt.QWidget) if isinstance(w, kinds) and id(w) not in inside]

    unnamed = [w.objectName for w in controls if not w.accessibleName and not w.objectName.startswith("qt_")]

    assert unnamed == [] and len(controls) > 25
    assert all(box.accessibleName for box in nodes_boxes)


def test_the_time_left_waits_until_it_is_known_and_then_counts_down():
    left = TimeLeft()
    left.start(100.0)
    left.note(0.01, 101.0)
    assert left.text(101.0) == ""

    left.note(0.25, 120.0)
    assert left.text(120.0) == "about 60 s left"
    assert left.text(150.0) == "about 30 s left"
    left.note(0.95, 170.0)
    assert left.text(178.0) == "a few seconds left"


def test_a_long_run_is_told_in_minutes():
    left = TimeLeft()
    left.start(0.0)
    left.note(0.1, 60.0)

    assert left.text(60.0) == "about 9 min left"


def test_every_stage_of_a_run_has_words_that_can_be_translated():
    """Stages are named where they happen; the panel must know each of them."""
    from RAUSlicerLib.correction import update
    from RAUSlicerLib.matching import matcher, registration
    from RAUSlicerLib.rau import propagation, queries
    from RAUSlicerLib.service import interpreter, runs
    from RAUSlicerLib.ui import words

    named = {module.STAGE for module in (update, registration, matcher, queries, propagation)}
    named |= {interpreter.READING_STAGE, interpreter.MEASURING_STAGE, interpreter.WRITING_STAGE}
    for stage in {*named, runs.RETRY_STAGE, "starting", "confidence", "done", "waiting"}:
        assert stage in words._STAGES, stage
        assert words.progress(stage, None) == words._STAGES[stage] + "…"


def test_a_tiny_structure_has_a_size_in_the_table():
    from RAUSlicerLib.ui import words

    assert [words.volume(size) for size in (0.0, 0.0000417, 0.25, 1.24, 171.4)] == ["0.00", "0.000042", "0.25", "1.2", "171"]
