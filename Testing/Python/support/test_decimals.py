"""A structure of any size, down to a single voxel of a mouse's scan, is shown with its size."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from RAUSlicerLib.cli.transfer import _print_result, transfer_report
from RAUSlicerLib.imaging.segmentation import Reference, Structure
from RAUSlicerLib.interpretation.wording import number
from RAUSlicerLib.results import Status, StructureResult, Transfer
from RAUSlicerLib.support.decimals import volume_text

# One voxel of a hundredth of a mm, and a whole body.
sizes = st.floats(-9, 5).map(lambda exponent: 10**exponent)


@given(sizes)
def test_no_size_is_shown_as_nothing(size):
    # At 0.015 two decimals show 0.01 or 0.02.
    for shown in (volume_text(size), volume_text(size, 1), number(size, "mL"), number(size, "mm")):
        assert float(shown) == pytest.approx(size, rel=0.5)
    if size < 0.001:
        assert float(volume_text(size)) == pytest.approx(size, rel=0.051)


def test_usual_volumes_look_as_ever():
    assert [volume_text(value) for value in (0.0, 0.043, 0.12, 1.5, 1533.26)] == ["0.00", "0.04", "0.12", "1.50", "1533.26"]
    assert [number(value, "mL") for value in (0.0, 0.05, 0.0042, 8.0, 98.7)] == ["0.0000", "0.05", "0.0042", "8.00", "98.7"]


def test_a_run_reports_the_size_of_a_tiny_structure(make_ellipsoids, capsys):
    reference: Reference = make_ellipsoids()
    result = StructureResult(Structure(1, "habenula"), Status.FOUND, 0.9, 0.0000417, 0.000052)
    transfer = Transfer(reference.segmentation, (result,), {})
    (row,) = transfer_report(transfer, Path("out.nii.gz"))["structures"]
    assert (row["volume_ml"], row["reference_volume_ml"]) == (0.000042, 0.000052)
    _print_result(transfer)
    shown = capsys.readouterr().out
    assert "0.000042" in shown and "0.000052" in shown
