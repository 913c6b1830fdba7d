"""The demo writes what it says, tells the truth about its numbers, and fails before the work when it can't write."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image
from rich.console import Console

from RAUSlicerLib.cli.demo import agreement_with_atlas, load_sample, run_demo
from RAUSlicerLib.errors import OutputError
from RAUSlicerLib.imaging.files import read_segmentation
from RAUSlicerLib.imaging.segmentation import Reference, Segmentation, Structure
from RAUSlicerLib.progress import ProgressEvent
from RAUSlicerLib.results import Status, StructureResult, Transfer


def labels(*blocks: tuple[int, slice], size: int = 20) -> sitk.Image:
    """A cube of 1 mm voxels with slabs of labels along x."""
    array = np.zeros((size, size, size), np.uint8)
    for value, columns in blocks:
        array[:, :, columns] = value
    return sitk.GetImageFromArray(array)


def copy_by_coordinates(reference: Reference, target: sitk.Image, structures: Sequence[str] | None = None, **_options: Any) -> Transfer:
    """A run that needs no model: the reference's labels at the same coordinates, the thalami lost on the way."""
    chosen = reference.segmentation.select(structures)
    labelmap = sitk.Resample(reference.segmentation.labelmap, target, sitk.Transform(), sitk.sitkNearestNeighbor)
    kept = {s.label: s.label if s in chosen and "thalamus" not in s.name else 0 for s in reference.segmentation.structures}
    labelmap = sitk.ChangeLabel(labelmap, kept)
    segmentation = Segmentation(labelmap, chosen)
    results = []
    for structure in chosen:
        volume = float(segmentation.array(structure).sum()) / 1000
        status = Status.FOUND if volume else Status.NOT_FOUND
        results.append(StructureResult(structure, status, 0.75 if volume else 0.1, volume, 1.0))
    return Transfer(segmentation, tuple(results), {"copying": 0.5}, ("A warning for the user.",), model="none", localizer="copy")


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, list[ProgressEvent]]:
    output = tmp_path_factory.mktemp("demo") / "new" / "folder"
    text, events = StringIO(), []
    console = Console(file=text, width=120)
    wanted = ["Left hippocampus", "Right hippocampus", "Left thalamus", "Vermis lobule VI"]
    run_demo(output, events.append, structures=wanted, console=console, run=copy_by_coordinates)
    return output, text.getvalue(), events


def test_segmentation_is_on_the_targets_grid_with_the_references_names(demo: tuple[Path, str, list[ProgressEvent]]) -> None:
    reference, target = load_sample()

    written = read_segmentation(demo[0] / "result.seg.nrrd")

    assert written.labelmap.GetSize() == target.GetSize()
    assert written.labelmap.GetOrigin() == pytest.approx(target.GetOrigin())
    expected = {s.name: (s.label, s.terminology) for s in reference.segmentation.structures}
    assert {s.name: (s.label, s.terminology) for s in written.structures}.items() <= expected.items()
    assert written.array(written.select(["Left hippocampus"])[0]).sum() > 5000


def test_pictures_can_be_opened(demo: tuple[Path, str, list[ProgressEvent]]) -> None:
    for name in ("contact_sheet.png", "volume_3d.png"):
        with Image.open(demo[0] / name) as picture:
            picture.load()
            assert picture.width > 1000


def test_report_holds_every_structure_and_says_what_agreement_is(demo: tuple[Path, str, list[ProgressEvent]]) -> None:
    report = json.loads((demo[0] / "report.json").read_text(encoding="utf-8"))

    rows = {row["name"]: row for row in report["structures"]}
    assert set(rows) == {"Left hippocampus", "Right hippocampus", "Left thalamus", "Vermis lobule VI"}
    assert rows["Left hippocampus"]["agreement_with_atlas"] == 1.0
    lost = rows["Left thalamus"]
    assert (lost["label"], lost["status"], lost["volume_ml"], lost["agreement_with_atlas"]) == (77, "not found", 0.0, 0.0)
    assert report["totals"]["found"] == 3 and report["totals"]["not found"] == 1
    assert report["totals"]["mean_agreement_all"] == 0.75 and report["totals"]["mean_agreement_found"] == 1.0
    assert "approximation" in report["agreement_note"]
    assert report["seconds_by_stage"] == {"copying": 0.5}


def test_what_is_printed_is_honest(demo: tuple[Path, str, list[ProgressEvent]]) -> None:
    printed = demo[1]

    assert "approximation" in printed and "Research use only" in printed
    assert "Left thalamus" in printed and "not found" in printed
    assert "3 found, 0 low confidence, 1 not found" in printed
    assert "A warning for the user." in printed


def test_progress_never_goes_back_and_ends_at_one(demo: tuple[Path, str, list[ProgressEvent]]) -> None:
    fractions = [event.fraction for event in demo[2]]

    assert fractions == sorted(fractions) and fractions[-1] == 1.0


def test_running_again_replaces_the_files_and_leaves_others_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("keep", encoding="utf-8")
    run_demo(tmp_path, structures=["Vermis lobule VI"], console=Console(file=StringIO()), run=copy_by_coordinates)

    run_demo(tmp_path, structures=["Left amygdala"], console=Console(file=StringIO()), run=copy_by_coordinates)

    assert (tmp_path / "mine.txt").read_text(encoding="utf-8") == "keep"
    assert [s.name for s in read_segmentation(tmp_path / "result.seg.nrrd").structures] == ["Left amygdala"]


@pytest.mark.parametrize("name", ["result.seg.nrrd", "report.json", "contact_sheet.png", "volume_3d.png"])
def test_what_is_not_an_earlier_demos_is_never_replaced(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text('{"mine": true}', encoding="utf-8")

    with pytest.raises(OutputError, match="no earlier demo"):
        run_demo(tmp_path, run=never)

    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text(encoding="utf-8") == '{"mine": true}'


@pytest.mark.parametrize("renames", range(4))
def test_a_demo_that_was_killed_anywhere_can_be_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, renames: int) -> None:
    replace, done = os.replace, []

    def killed(source: Path, destination: Path) -> None:
        if Path(destination).parent == tmp_path:
            done.append(destination)
            if len(done) > renames:
                raise KeyboardInterrupt
        replace(source, destination)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("os.replace", killed)
        run_demo(tmp_path, structures=["Left amygdala"], console=Console(file=StringIO()), run=copy_by_coordinates)
    assert not any(path.name.startswith(".") for path in tmp_path.iterdir())

    run_demo(tmp_path, structures=["Left amygdala"], console=Console(file=StringIO()), run=copy_by_coordinates)
    assert len(list(tmp_path.iterdir())) == 4


def test_a_run_stopped_before_the_first_structure_is_said_to_be_stopped(tmp_path: Path) -> None:
    text = StringIO()

    def stopped(_reference: Reference, target: sitk.Image, **_options: Any) -> Transfer:
        return Transfer(Segmentation(sitk.Image(target) * 0, ()), (), {}, cancelled=True)

    run_demo(tmp_path, console=Console(file=text, width=120), run=stopped)

    assert "was stopped" in text.getvalue()
    assert json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))["cancelled"] is True


def never(*_arguments: Any, **_options: Any) -> Transfer:
    raise AssertionError("the run was started")


def test_an_output_folder_that_is_a_file_is_refused_before_the_run(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("", encoding="utf-8")

    with pytest.raises(OutputError, match="taken"):
        run_demo(tmp_path / "taken", run=never)


def test_a_result_that_can_not_be_written_is_refused_before_the_run(tmp_path: Path) -> None:
    (tmp_path / "result.seg.nrrd").mkdir()

    with pytest.raises(OutputError, match=r"result\.seg\.nrrd"):
        run_demo(tmp_path, run=never)


def test_agreement_is_dice_in_patient_space() -> None:
    a, b = Structure(1, "a"), Structure(2, "b")
    atlas = Segmentation(labels((1, slice(0, 10)), (2, slice(10, 20))), (a, b))
    moved = labels((1, slice(0, 5)))
    moved.SetOrigin((5.0, 0.0, 0.0))
    result = Segmentation(moved, (a, b))

    agreement = agreement_with_atlas(atlas, result)

    # The result's grid starts at x = 5 mm: there the atlas has label 1 in 5 columns and label 2 in 10.
    assert agreement == {"a": 1.0, "b": 0.0}


def test_agreement_of_half_an_overlap() -> None:
    a = Structure(1, "a")
    atlas = Segmentation(labels((1, slice(0, 10))), (a,))
    result = Segmentation(labels((1, slice(5, 15))), (a,))

    assert agreement_with_atlas(atlas, result) == {"a": 0.5}
