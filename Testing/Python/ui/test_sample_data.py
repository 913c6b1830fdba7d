import pytest
import qt
import slicer
from host import modules

pytest.importorskip("RAUSlicerLib.pipeline", reason="the pipeline is not there yet")

STRUCTURES = ("thalamus", "caudate")


@pytest.fixture
def sample():
    """The embedded pair: reference volume, its segmentation, target volume."""
    folder = modules.repository() / "Resources" / "SampleData"
    if not (folder / "reference.seg.nrrd").exists():
        pytest.skip("the sample data is not there")
    reference = slicer.util.loadVolume(str(folder / "reference.nii.gz"), {"name": "Colin27"})
    segmentation = slicer.util.loadSegmentation(str(folder / "reference.seg.nrrd"), {"name": "AAL"})
    target = slicer.util.loadVolume(str(folder / "target.nii.gz"), {"name": "ICBM152"})
    modules.settle(20)
    return reference, segmentation, target


@pytest.mark.slow
@pytest.mark.parametrize("localizer", ["copy", "registration"])
def test_the_embedded_pair_runs_by_one_click(panel, sample, scene, wait_until, localizer):
    reference, segmentation, target = sample
    assert (panel.parameters.referenceVolume, panel.parameters.targetVolume) == (reference, target)
    panel.parameters.localizer = localizer
    panel.parameters.device = "cpu"
    items = [panel.ui.structuresList.item(index) for index in range(panel.ui.structuresList.count)]
    wanted = [item for item in items if any(name in item.text().lower() for name in STRUCTURES)]
    qt.QTest.mouseClick(panel.ui.noStructuresButton, qt.Qt.LeftButton)
    for item in [panel.ui.structuresList.item(index) for index in range(len(items))]:
        if any(name in item.text().lower() for name in STRUCTURES):
            item.setCheckState(qt.Qt.Checked)
    assert panel.ui.transferButton.text == f"Transfer {len(wanted)} structures to ICBM152"

    qt.QTest.mouseClick(panel.ui.transferButton, qt.Qt.LeftButton)
    wait_until(lambda: panel.ui.transferButton.visible, seconds=300)

    assert not panel.ui.problemLabel.visible or panel.ui.problemLabel.text == "Please note", panel.ui.problemLabel.text
    node = next(node for node in slicer.util.getNodesByClass("vtkMRMLSegmentationNode") if node is not segmentation)
    names = [node.GetSegmentation().GetNthSegment(index).GetName() for index in range(node.GetSegmentation().GetNumberOfSegments())]
    assert sorted(names) == sorted(item for item in _names(segmentation) if any(name in item.lower() for name in STRUCTURES))
    for id_ in node.GetSegmentation().GetSegmentIDs():
        assert slicer.util.arrayFromSegmentBinaryLabelmap(node, id_, target).any()
    assert panel.ui.resultsTable.rowCount == len(wanted)


def _names(segmentation):
    segments = segmentation.GetSegmentation()
    return [segments.GetNthSegment(index).GetName() for index in range(segments.GetNumberOfSegments())]
