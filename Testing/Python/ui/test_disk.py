"""A full temporary folder, at each moment at which a run writes to it: a message, nothing lost or left, and the next run works."""

import nodes
import numpy as np
import pytest
import slicer
from clicks import click
from host import modules

MASKS = {"Liver": nodes.box((1, 4), (2, 6), (3, 7)), "Milz": nodes.box((4, 6), (0, 2), (0, 3))}


@pytest.fixture
def idle(disk, panel, scripted, monkeypatch, wait_until):
    """idle(): wait until the run has ended. The panel's worker has its temporary folder on the small disk."""
    monkeypatch.setattr("tempfile.tempdir", str(disk.path))
    monkeypatch.setenv("TMPDIR", str(disk.path))
    return lambda: wait_until(lambda: panel.ui.transferButton.visible)


@pytest.fixture
def loaded(panel):
    reference = nodes.volume("Reference CT")
    segmentation = nodes.segmentation(reference, MASKS)
    nodes.volume("Target CT")
    modules.settle()
    return segmentation


def results_of(segmentation):
    return [node for node in slicer.util.getNodesByClass("vtkMRMLSegmentationNode") if node is not segmentation]


def files(disk):
    # A worker that waits for the next run has its folder, with nothing of a run in it.
    kept = [path for folder in disk.path.glob("rauslicer-exchange-*") for path in (folder, folder / "token")]
    return [path for path in disk.path.rglob("*") if path not in kept]


def voxels(panel, name):
    node = panel.parameters.resultSegmentation
    return slicer.util.arrayFromSegmentBinaryLabelmap(node, name, panel.parameters.targetVolume) > 0


def says_that_the_disk_is_full(panel):
    texts = [label.text for label in (panel.ui.problemLabel, panel.ui.explanationLabel, panel.ui.solutionLabel)]
    return panel.ui.messageBox.visible and all(texts) and "temporary folder" in texts[0] and texts[2].startswith("Free some space")


def test_full_before_the_run(panel, loaded, disk, idle):
    disk.fill()

    click(panel.ui.transferButton)
    idle()

    assert says_that_the_disk_is_full(panel), panel.ui.problemLabel.text
    disk.free()
    assert files(disk) == [] and results_of(loaded) == []
    click(panel.ui.transferButton)
    idle()
    assert "2 of 2 structures found" in panel.ui.resultsLabel.text
    assert files(disk) == []


def test_full_when_the_result_is_written(panel, loaded, disk, idle, wait_until):
    panel.parameters.model = "wait"
    click(panel.ui.transferButton)
    wait_until(lambda: panel.ui.progressLabel.text.startswith("Drawing"))
    disk.fill()

    click(panel.ui.cancelButton)
    idle()

    assert says_that_the_disk_is_full(panel), panel.ui.problemLabel.text
    disk.free()
    assert files(disk) == [] and results_of(loaded) == []
    panel.parameters.model = "copy"
    click(panel.ui.transferButton)
    idle()
    np.testing.assert_array_equal(voxels(panel, "Liver"), MASKS["Liver"])


@pytest.mark.parametrize("button", ["redoButton", "updateButton"])
def test_full_when_a_structure_is_done_again(panel, loaded, disk, idle, button):
    click(panel.ui.transferButton)
    idle()
    panel._results.table.select("Liver")
    painted = MASKS["Liver"].copy()
    if button == "updateButton":
        click(panel.ui.editButton)
        painted[2, :2] = True
        node, target = panel.parameters.resultSegmentation, panel.parameters.targetVolume
        slicer.util.updateSegmentBinaryLabelmapFromArray(painted.astype(np.uint8), node, "Liver", target)
        modules.settle(500)
    disk.fill()

    click(getattr(panel.ui, button))
    idle()

    assert says_that_the_disk_is_full(panel), panel.ui.problemLabel.text
    np.testing.assert_array_equal(voxels(panel, "Liver"), painted)
    np.testing.assert_array_equal(voxels(panel, "Milz"), MASKS["Milz"])
    disk.free()
    assert files(disk) == []
    click(getattr(panel.ui, button))
    idle()
    assert not panel.ui.messageBox.visible or panel.ui.explanationLabel.text == "A warning.", panel.ui.problemLabel.text
    np.testing.assert_array_equal(voxels(panel, "Liver"), painted)
