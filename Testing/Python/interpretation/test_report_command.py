"""The command ``rauslicer report``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import SimpleITK as sitk

from RAUSlicerLib.cli.app import main
from RAUSlicerLib.interpretation.rendering.json_report import from_values
from RAUSlicerLib.results import Status


@pytest.fixture
def files(make_ellipsoids, tmp_path: Path) -> Path:
    """A reference and a target of three structures each, and what a run said of the target's."""
    for name, case in (("r", make_ellipsoids()), ("t", make_ellipsoids(scale=(1.1, 1.0, 1.0), seed=1))):
        sitk.WriteImage(case.volume, str(tmp_path / f"{name}.nii.gz"))
        sitk.WriteImage(case.segmentation.labelmap, str(tmp_path / f"{name}_seg.nii.gz"))
    (tmp_path / "labels.json").write_text(json.dumps({"1": "liver", "2": "left kidney", "3": "right kidney"}))
    said = [
        ("liver", 1, "found", 0.9),
        ("left kidney", 2, "low confidence", 0.4),
        ("right kidney", 3, "found", 0.8),
        ("spleen", 4, "not found", 0.1),
    ]
    structures = [
        {
            "name": name,
            "label": label,
            "status": status,
            "confidence": confidence,
            "presence": 0.5,
            "reference_volume_ml": 1.0,
            "box_mm": None,
        }
        for name, label, status, confidence in said
    ]
    (tmp_path / "result.json").write_text(json.dumps({"model": "embedded", "localizer": "vlm", "structures": structures}))
    return tmp_path


def _run(folder: Path, *more: str) -> int:
    return main(["report", "--target", f"{folder}/t.nii.gz", "--segmentation", f"{folder}/t_seg.nii.gz", *more])


def test_it_writes_every_format_that_is_asked_for(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    outputs = [argument for name in ("a.md", "a.html", "a.json") for argument in ("--output", f"{files}/{name}")]
    beside = ["--reference", f"{files}/r.nii.gz", "--reference-segmentation", f"{files}/r_seg.nii.gz", "--result", f"{files}/result.json"]

    assert _run(files, *outputs, *beside) == 0

    report = from_values(json.loads((files / "a.json").read_text(encoding="utf-8")))
    assert {found.name: found.status for found in report.findings} == {
        "liver": Status.FOUND,
        "left kidney": Status.LOW_CONFIDENCE,
        "right kidney": Status.FOUND,
        "spleen": Status.NOT_FOUND,
    }
    liver = next(found for found in report.findings if found.name == "liver")
    assert liver.measurements[0].comparison.reference
    assert report.source == {"Model": "embedded", "Localizer": "vlm", "Compared with": "the reference case"}
    assert "**left kidney** (low confidence 0.40)" in (files / "a.md").read_text(encoding="utf-8")
    assert (files / "a.html").read_text(encoding="utf-8").count("data:image/png") == 3
    printed = capsys.readouterr().out
    assert f"4 structures, {len(report.sentences)} sentences." in printed and "Research use only" in printed
    # Neither names of files, which may hold a patient's, nor anything left over.
    assert str(files) not in (files / "a.json").read_text(encoding="utf-8")
    assert not list(files.glob(".rauslicer-*"))


def test_without_a_result_file_the_confidence_is_unknown(files: Path) -> None:
    assert _run(files, "--output", f"{files}/a.md") == 0

    text = (files / "a.md").read_text(encoding="utf-8")
    assert "All 3 structures have no known confidence" in text and "- Compared with: nothing" in text


@pytest.mark.parametrize("name", ["a.txt", "missing/a.md", "taken.md", "t.dcm", "folder.md"])
def test_an_output_that_cannot_be_written_is_refused_before_anything_is_read(files: Path, name: str, capsys) -> None:
    (files / "taken.md").write_text("mine")
    (files / "folder.md").mkdir()
    (files / "t.nii.gz").write_bytes(b"damaged, which would be noticed if it was read")

    assert _run(files, "--output", f"{files}/{name}") == 4

    assert "Error:" in capsys.readouterr().err
    assert (files / "taken.md").read_text() == "mine"


def test_an_input_is_never_overwritten(files: Path) -> None:
    before = (files / "result.json").read_bytes()

    assert _run(files, "--result", f"{files}/result.json", "--output", f"{files}/result.json", "--force") == 4
    assert _run(files, "--output", f"{files}/a.md", "--output", f"{files}/a.md") == 4

    assert (files / "result.json").read_bytes() == before


def test_an_existing_report_is_replaced_only_if_that_is_asked_for(files: Path) -> None:
    (files / "a.md").write_text("old")

    assert _run(files, "--output", f"{files}/a.md", "--force") == 0

    assert (files / "a.md").read_text(encoding="utf-8").startswith("# Report on a segmentation")


def test_a_reference_without_its_segmentation_is_wrong_usage(files: Path) -> None:
    with pytest.raises(SystemExit) as caught:
        _run(files, "--output", f"{files}/a.md", "--reference", f"{files}/r.nii.gz")

    assert caught.value.code == 2
