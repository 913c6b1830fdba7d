import pytest
import qt
import slicer
from clicks import click, results_of, voxels
from host import modules

from RAUSlicerLib.scene.record import rows_of

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
def test_the_embedded_pair_runs_by_one_click(panel, sample, idle):
    reference, segmentation, target = sample
    assert (panel.parameters.referenceVolume, panel.parameters.targetVolume) == (reference, target)
    panel.parameters.device = "cpu"
    items = [panel.ui.structuresList.item(index) for index in range(panel.ui.structuresList.count)]
    wanted = [item.text() for item in items if any(name in item.text().lower() for name in STRUCTURES)]
    click(panel.ui.noStructuresButton)
    for item in [panel.ui.structuresList.item(index) for index in range(panel.ui.structuresList.count)]:
        if item.text() in wanted:
            item.setCheckState(qt.Qt.Checked)
    assert panel.ui.transferButton.text == f"Transfer {len(wanted)} structures to ICBM152"

    click(panel.ui.transferButton)
    idle(300)

    assert panel.ui.resultsSection.visible, panel.ui.problemLabel.text
    table = panel.ui.resultsTable
    assert {table.item(row, 0).text().split("\n")[0] for row in range(table.rowCount)} == set(wanted)
    # How good the model is is the benchmark's business; here, what the table says and what the scene holds must agree.
    (written,) = results_of(segmentation)
    rows = rows_of(written)
    assert {row.name for row in rows} == set(wanted)
    segments = written.GetSegmentation()
    names = [segments.GetNthSegment(index).GetName() for index in range(segments.GetNumberOfSegments())]
    assert sorted(names) == sorted(row.name for row in rows if row.present)
    for id_ in segments.GetSegmentIDs():
        assert voxels(written, id_, target).any()
