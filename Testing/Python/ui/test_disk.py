"""A full temporary folder, at each moment at which a run writes to it: a message, nothing lost or left, and the next run works."""

import numpy as np
import pytest
from clicks import MASKS, click, replace, results_of, voxels

pytestmark = pytest.mark.usefixtures("small")


@pytest.fixture
def small(disk, panel, monkeypatch):
    """The panel's worker has its temporary folder on the small disk."""
    monkeypatch.setattr("tempfile.tempdir", str(disk.path))
    monkeypatch.setenv("TMPDIR", str(disk.path))


def files(disk):
    # A worker that waits for the next run has its folder, with nothing of a run in it.
    kept = [path for folder in disk.path.glob("rauslicer-exchange-*") for path in (folder, folder / "token")]
    return [path for path in disk.path.rglob("*") if path not in kept]


def says_that_the_disk_is_full(panel):
    texts = [label.text for label in (panel.ui.problemLabel, panel.ui.explanationLabel, panel.ui.solutionLabel)]
    return panel.ui.messageBox.visible and all(texts) and "temporary folder" in texts[0] and texts[2].startswith("Free some space")


def test_full_before_the_run(panel, loaded, disk, run):
    disk.fill()

    run()

    assert says_that_the_disk_is_full(panel), panel.ui.problemLabel.text
    disk.free()
    assert files(disk) == [] and results_of(loaded[1]) == []
    run()
    assert "2 of 2 structures found" in panel.ui.resultsLabel.text
    assert files(disk) == []


def test_full_when_the_result_is_written(panel, loaded, disk, idle, wait_until, run):
    panel.parameters.model = "wait"
    click(panel.ui.transferButton)
    wait_until(lambda: panel.ui.progressLabel.text.startswith("Drawing"))
    disk.fill()

    click(panel.ui.cancelButton)
    idle()

    assert says_that_the_disk_is_full(panel), panel.ui.problemLabel.text
    disk.free()
    assert files(disk) == [] and results_of(loaded[1]) == []
    run("copy")
    np.testing.assert_array_equal(voxels(panel.parameters.resultSegmentation, "Liver", loaded[2]), MASKS["Liver"])


@pytest.mark.parametrize("button", ["redoButton", "updateButton"])
def test_full_when_a_structure_is_done_again(panel, loaded, disk, idle, button, run):
    run()
    panel._results.table.select("Liver")
    painted = MASKS["Liver"].copy()
    if button == "updateButton":
        click(panel.ui.editButton)
        painted[2, :2] = True
        replace(panel.parameters.resultSegmentation, "Liver", loaded[2], painted)
    disk.fill()

    click(getattr(panel.ui, button))
    idle()

    assert says_that_the_disk_is_full(panel), panel.ui.problemLabel.text
    np.testing.assert_array_equal(voxels(panel.parameters.resultSegmentation, "Liver", loaded[2]), painted)
    np.testing.assert_array_equal(voxels(panel.parameters.resultSegmentation, "Milz", loaded[2]), MASKS["Milz"])
    disk.free()
    assert files(disk) == []
    click(getattr(panel.ui, button))
    idle()
    assert not panel.ui.messageBox.visible or panel.ui.explanationLabel.text == "A warning.", panel.ui.problemLabel.text
    np.testing.assert_array_equal(voxels(panel.parameters.resultSegmentation, "Liver", loaded[2]), painted)
