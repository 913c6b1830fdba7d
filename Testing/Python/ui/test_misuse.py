"""What users do that nobody asked them to, and what goes wrong around them."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import nodes
import numpy as np
import pytest
import qt
import slicer
from clicks import MASKS, click, is_gone, replace, results_of, voxels
from host import modules


@pytest.mark.parametrize("stage", ["at once", "starting", "segmentation"])
def test_cancel_at_every_stage_ends_the_run_and_the_next_one_works(panel, loaded, wait_until, idle, stage, run):
    panel.parameters.model = "wait"
    click(panel.ui.transferButton)
    if stage != "at once":
        wait_until(lambda: panel._stage == stage or panel.ui.progressBar.value >= 50)

    click(panel.ui.cancelButton)
    idle()

    assert panel.ui.transferButton.enabled
    run("copy")
    assert "2 of 2 structures found" in panel.ui.resultsLabel.text


def test_a_click_on_cancel_after_the_end_does_no_harm(panel, loaded, run):
    run()

    panel._cancel()
    panel.ui.cancelButton.click()
    modules.settle(50)

    assert panel.ui.transferButton.visible and panel.ui.transferButton.enabled


def test_a_double_click_starts_one_run(panel, scripted, loaded, idle):
    _reference, segmentation, _target = loaded

    qt.QTest.mouseDClick(panel.ui.transferButton, qt.Qt.LeftButton)
    panel._start()
    idle()
    modules.settle(100)

    assert len(results_of(segmentation)) == 1


def test_hidden_segments_are_transferred_too(loaded, run):
    _reference, segmentation, target = loaded
    segmentation.GetDisplayNode().SetSegmentVisibility("Milz", False)
    segmentation.GetDisplayNode().SetVisibility(False)

    run()

    (node,) = results_of(segmentation)
    np.testing.assert_array_equal(voxels(node, "Milz", target), MASKS["Milz"])


def test_the_reference_removed_during_the_run_does_not_matter(panel, scripted, loaded, scene, wait_until, idle):
    reference, segmentation, _target = loaded
    panel.parameters.model = "wait"
    click(panel.ui.transferButton)
    wait_until(lambda: panel.ui.progressBar.value >= 50)

    scene.RemoveNode(reference)
    scene.RemoveNode(segmentation)
    click(panel.ui.cancelButton)
    idle()

    assert not panel.ui.problemLabel.text.startswith("An unexpected error")
    assert len(results_of(segmentation)) == 1
    # What it was made from is gone, so it can't be found again; it can still be accepted.
    panel._results.table.select("Liver")
    assert not panel.ui.redoButton.enabled and panel.ui.acceptButton.enabled


def test_the_result_removed_during_an_update_gives_a_message(panel, loaded, scene, wait_until, idle, run):
    run()
    node = panel.parameters.resultSegmentation
    panel.parameters.model = "wait"
    panel._results.table.select("Liver")
    click(panel.ui.redoButton)
    wait_until(lambda: panel.ui.progressBar.value >= 50)

    scene.RemoveNode(node)
    click(panel.ui.cancelButton)
    idle()

    assert "no longer in the scene" in panel.ui.problemLabel.text
    assert panel.ui.resultsTable.rowCount == 0


def test_a_run_that_finds_nothing_leaves_the_result_before_it_within_reach(panel, loaded, run):
    run()
    first = panel.parameters.resultSegmentation
    run("nothing")

    assert panel.ui.resultsLabel.text.startswith("Nothing was found.")
    assert first.GetScene() is not None
    assert panel.ui.resultSelector.visible
    panel.ui.resultSelector.setCurrentNode(first)
    assert "2 of 2 structures found" in panel.ui.resultsLabel.text


def test_the_target_cropped_during_the_run_gives_a_message_and_no_wrong_place(panel, scripted, loaded, wait_until, idle):
    _reference, segmentation, target = loaded
    panel.parameters.model = "wait"
    click(panel.ui.transferButton)
    wait_until(lambda: panel.ui.progressBar.value >= 50)

    slicer.util.updateVolumeFromArray(target, np.zeros((3, 3, 3), np.int16))
    click(panel.ui.cancelButton)
    idle()

    assert "has changed since the run began" in panel.ui.problemLabel.text
    assert results_of(segmentation) == []


def test_another_scene_loaded_during_the_run_is_not_written_to(panel, scripted, loaded, scene, wait_until, idle, tmp_path):
    path = tmp_path / "other.mrb"
    slicer.util.saveScene(str(path))
    panel.parameters.model = "wait"
    click(panel.ui.transferButton)
    wait_until(lambda: panel.ui.progressBar.value >= 50)

    slicer.util.loadScene(str(path))
    idle()
    modules.settle(50)

    assert len(slicer.util.getNodesByClass("vtkMRMLSegmentationNode")) == 1
    assert "no longer in the scene" in panel.ui.problemLabel.text
    assert panel.ui.transferButton.enabled


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_the_worker_killed_during_an_update_leaves_the_painted_slices(panel, loaded, wait_until, idle, run):
    run()
    target = panel.parameters.targetVolume
    node = panel.parameters.resultSegmentation
    panel.parameters.model = "deaf"
    panel._results.table.select("Liver")
    click(panel.ui.redoButton)
    wait_until(lambda: panel.ui.progressLabel.text.startswith("Drawing: "))

    os.kill(panel._controller._client.pid, signal.SIGKILL)
    idle()

    assert "stopped unexpectedly" in panel.ui.problemLabel.text
    np.testing.assert_array_equal(voxels(node, "Liver", target), MASKS["Liver"])
    assert not panel.ui.undoButton.toolTip.startswith("Undo redo")


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_the_application_killed_during_a_run_leaves_no_process_and_no_file(tmp_path, wait_until):
    here = Path(__file__).parent
    code = (
        f"import sys, time; sys.path[:0] = {[str(here.parents[1]), str(here.parent / 'scene')]!r}\n"
        "from host import environment; environment.prepare()\n"
        "from host import modules; modules.install()\n"
        "import nodes\n"
        "_, entry = modules.load_module(modules.repository() / 'RAUSlicer' / 'RAUSlicer.py')\n"
        "from RAUSlicerLib.service.client import WorkerClient; from RAUSlicerLib.ui import run\n"
        f"command = [sys.executable, '-u', {str(here.parent / 'service' / 'scripted_worker.py')!r}]\n"
        "run.WorkerClient = lambda **_options: WorkerClient(command=command)\n"
        "top = entry.widgetRepresentation(); top.show(); top.self().enter(); panel = top.self().panel\n"
        "reference = nodes.volume('Reference CT'); nodes.segmentation(reference, {'Liver': nodes.box((1, 4), (2, 6), (3, 7))})\n"
        "nodes.volume('Target CT'); modules.settle()\n"
        "panel.parameters.model = 'deaf'; panel.ui.transferButton.click()\n"
        "while not panel.ui.progressLabel.text.startswith('Drawing'): modules.settle(20)\n"
        "print('worker', panel._controller._client.pid, flush=True); time.sleep(600)"
    )
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=environment) as application:
        line = next((line for line in application.stdout if line.startswith("worker ")), "the application ended")
        group = int(line.split()[1])
        made = list(tmp_path.glob("rauslicer-exchange-*/run-*/*"))
        application.send_signal(signal.SIGKILL)

    assert made
    wait_until(lambda: is_gone(group))
    assert list(tmp_path.glob("rauslicer-*")) == []


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="needs a folder that can't be written")
def test_a_temporary_folder_that_can_not_be_written_gives_a_message(panel, loaded, tmp_path, run):
    tmp_path.chmod(0o500)
    try:
        run()
    finally:
        tmp_path.chmod(0o700)
    assert "temporary folder" in panel.ui.explanationLabel.text


def test_a_temporary_folder_that_is_gone_gives_a_message_and_comes_back(panel, loaded, monkeypatch, tmp_path, run):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "gone"))
    run()
    assert "temporary folder" in panel.ui.explanationLabel.text

    (tmp_path / "gone").mkdir()
    run()
    assert "2 of 2 structures found" in panel.ui.resultsLabel.text


@pytest.mark.slow
def test_the_real_pipeline_transfers_and_updates_through_the_panel(panel, monkeypatch, tiny_model, make_ellipsoids, idle):
    """Random weights find nothing of worth; everything around them is real."""
    from RAUSlicerLib.service.client import WorkerClient

    command = [sys.executable, "-u", str(Path(__file__).parents[1] / "service" / "tiny_worker.py")]
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(
        "RAUSlicerLib.ui.run.WorkerClient", lambda **options: WorkerClient(command=command, environment=options["environment"])
    )
    case = make_ellipsoids(size=(40, 46, 20), spacing=(2.4, 2.4, 3.6))
    import SimpleITK as sitk

    array = sitk.GetArrayFromImage(case.volume)
    matrix = np.diag((-2.4, -2.4, 3.6, 1.0))
    volumes = []
    for name in ("Reference", "Target"):
        volumes.append(slicer.util.addVolumeFromArray(array.astype(np.float32), ijkToRAS=slicer.util.vtkMatrixFromArray(matrix), name=name))
    nodes.segmentation(volumes[0], {s.name: case.segmentation.array(s) for s in case.segmentation.structures}, "Structures")
    modules.settle()
    panel.parameters.model = str(tiny_model)
    panel.parameters.device = "cpu"

    click(panel.ui.transferButton)
    idle(300)

    assert panel.ui.resultsSection.visible, panel.ui.problemLabel.text
    node = panel.parameters.resultSegmentation
    assert node is not None, panel.ui.resultsLabel.text
    row = next(row for row in panel._results.table.rows if row.present)
    panel._results.table.select(row.key)
    click(panel.ui.editButton)
    mask = voxels(node, row.key, volumes[1])
    index = int(np.median(np.argwhere(mask)[:, 0]))
    mask[index] = False
    mask[index, 10:20, 10:20] = True
    replace(node, row.key, volumes[1], mask)
    assert panel.ui.updateButton.text == "Update from 1 painted slice"
    click(panel.ui.updateButton)
    idle(300)

    # The volumes are coarse, and that is noted; nothing else is.
    assert not panel.ui.messageBox.visible or panel.ui.problemLabel.text == "Please note", panel.ui.problemLabel.text
    np.testing.assert_array_equal(voxels(node, row.key, volumes[1])[index], mask[index])
