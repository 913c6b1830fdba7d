import json
import os
import signal
import sys
import types
from pathlib import Path

import pydicom
import pytest
import SimpleITK as sitk
from pydicom.uid import generate_uid

from RAUSlicerLib.cli.app import main
from RAUSlicerLib.cli.progress import cancel_on_interrupt, show_progress
from RAUSlicerLib.errors import OutputError
from RAUSlicerLib.imaging import files as files_module
from RAUSlicerLib.imaging.files import read_segmentation, write_segmentation
from RAUSlicerLib.imaging.segmentation import Segmentation, Structure
from RAUSlicerLib.progress import ProgressEvent
from RAUSlicerLib.results import Localization, Status, StructureResult, Transfer

from ..imaging.builders import counted_reads, write_enhanced


@pytest.fixture
def files(make_ellipsoids, tmp_path: Path) -> Path:
    reference, target = make_ellipsoids(), make_ellipsoids(seed=1)
    sitk.WriteImage(reference.volume, str(tmp_path / "r.nii.gz"))
    sitk.WriteImage(reference.segmentation.labelmap, str(tmp_path / "s.nii.gz"))
    sitk.WriteImage(target.volume, str(tmp_path / "t.nii.gz"))
    (tmp_path / "labels.json").write_text(json.dumps({"1": "body", "2": "left organ", "3": "right organ"}))
    return tmp_path


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch):
    """Puts a pipeline in place that copies the reference's labels, so that these tests are about the command line alone."""
    calls = []

    def transfer(
        reference, target, structures=None, localizer="vlm", model="embedded", device="auto", progress=None, cancel=None
    ) -> Transfer:
        calls.append({"references": len(reference), "structures": structures, "localizer": localizer, "model": model, "device": device})
        segmentation = reference[0].segmentation
        progress(ProgressEvent("matching", 0.5))
        results = []
        for structure in segmentation.select(structures):
            if cancel.cancelled:
                break
            results.append(StructureResult(structure, Status.FOUND, 0.9, 1.5, 1.4, Localization(structure, 0.8, ((0, 0, 0), (1, 1, 1)))))
            progress(ProgressEvent("propagation", 0.9, structure.name))
            if calls[-1]["structures"] == ["body"] and calls[-1]["device"] == "cpu":
                os.kill(os.getpid(), signal.SIGINT)
        labelmap = sitk.Image(segmentation.labelmap)
        labelmap.CopyInformation(target)
        return Transfer(
            segmentation.map_layers([labelmap]), tuple(results), {"matching": 1.0}, ("Looked odd.",), cancel.cancelled, model, localizer
        )

    module = types.ModuleType("RAUSlicerLib.pipeline")
    module.transfer = transfer
    monkeypatch.setitem(sys.modules, "RAUSlicerLib.pipeline", module)
    monkeypatch.setattr(sys.modules["RAUSlicerLib"], "pipeline", module, raising=False)
    return calls


def arguments(folder: Path, *more: str, output: str = "out.nii.gz") -> list[str]:
    inputs = ["--reference", f"{folder}/r.nii.gz", "--reference-segmentation", f"{folder}/s.nii.gz", "--target", f"{folder}/t.nii.gz"]
    return ["transfer", *inputs, "--output", str(folder / output), *more]


def test_options_reach_the_pipeline_and_results_reach_the_disk(files, scripted, capsys):
    code = main(arguments(files, "--structures", "left organ,Right Organ", "--localizer", "registration", "--json", f"{files}/o.json"))

    assert code == 0
    assert scripted == [
        {"references": 1, "structures": ["left organ", "Right Organ"], "localizer": "registration", "model": "embedded", "device": "auto"}
    ]
    written, target = sitk.ReadImage(str(files / "out.nii.gz")), sitk.ReadImage(str(files / "t.nii.gz"))
    assert (written.GetSize(), written.GetOrigin(), written.GetDirection()) == (target.GetSize(), target.GetOrigin(), target.GetDirection())
    document = json.loads((files / "o.json").read_text())
    assert [structure["name"] for structure in document["structures"]] == ["left organ", "right organ"]
    assert document["structures"][0]["status"] == "found" and document["structures"][0]["presence"] == 0.8
    assert "Research use only" in document["notice"] and "Looked odd." in document["warnings"]
    shown = capsys.readouterr()
    assert "left organ" in shown.out and "0.90" in shown.out and "1.50" in shown.out and "Research use only" in shown.out
    assert "Warning: Looked odd." in shown.err


def test_several_references_are_paired_in_order(files, scripted):
    second = ["--reference", f"{files}/t.nii.gz", "--reference-segmentation", f"{files}/s.nii.gz"]
    assert main(arguments(files, *second)) == 0
    assert scripted[0]["references"] == 2


def test_unpaired_references_are_wrong_usage(files, scripted):
    with pytest.raises(SystemExit) as leaving:
        main(arguments(files, "--reference", f"{files}/t.nii.gz"))
    assert leaving.value.code == 2 and scripted == []


def test_pictures_are_written(files, scripted):
    assert main(arguments(files, "--pictures", f"{files}/pictures")) == 0
    pictures = sorted(path.name for path in (files / "pictures").iterdir())
    assert pictures == ["contact_sheet.png", "volume_3d.png"]


@pytest.mark.parametrize("existing", ["out.nii.gz", "o.json", "pictures/contact_sheet.png"])
def test_nothing_is_overwritten_unless_forced(files, scripted, existing, capsys):
    (files / "pictures").mkdir()
    (files / existing).write_text("precious")
    options = ["--json", f"{files}/o.json", "--pictures", f"{files}/pictures"]

    assert main(arguments(files, *options)) == 4
    assert (files / existing).read_text() == "precious" and scripted == []
    assert "--force" in capsys.readouterr().err

    assert main(arguments(files, *options, "--force")) == 0
    assert (files / existing).read_bytes() != b"precious"


@pytest.mark.parametrize(
    ("option", "name"),
    [
        *(("--output", name) for name in ("absent/out.nii.gz", "out.xyz")),
        ("--json", "absent/o.json"),
        *(("--report", name) for name in ("r.docx", "t.nii.gz", "missing/r.html", "r.dcm", "out.json")),
    ],
)
def test_an_impossible_output_is_4_before_any_work(files, scripted, option, name):
    more = ["--json", f"{files}/out.json"] if option == "--report" else []
    assert main(arguments(files, "--force", *more, option, f"{files}/{name}")) == 4
    assert scripted == []


@pytest.mark.parametrize("option", ["--output", "--json", "--report"])
@pytest.mark.parametrize("name", ["t.nii.gz", "r.nii.gz", "s.nii.gz"])
def test_no_input_is_ever_written_to(files, scripted, name, option, capsys):
    before = (files / name).read_bytes()
    path = files / name
    if option == "--report":
        # Reports have endings that no input has.
        path = files / "link.md"
        path.symlink_to(files / name)
    more = [] if option == "--output" else [option, str(path)]
    assert main(arguments(files, "--force", *more, output=name if option == "--output" else "out.nii.gz")) == 4
    assert scripted == [] and (files / name).read_bytes() == before
    assert "destroy the input" in capsys.readouterr().err


def test_a_bad_input_is_3_with_problem_explanation_and_solution(files, scripted, capsys):
    (files / "t.nii.gz").write_bytes(b"no image")
    assert main(arguments(files)) == 3
    shown = capsys.readouterr().err
    assert shown.startswith("Error: ") and "t.nii.gz" in shown and len(shown.strip().splitlines()) >= 3
    assert "Traceback" not in shown and scripted == [] and not (files / "out.nii.gz").exists()


@pytest.mark.parametrize("names", ["liver", "", "left organ,"])
def test_unknown_or_empty_structure_names_are_3(files, scripted, names):
    assert main(arguments(files, "--structures", names)) == 3
    assert not (files / "out.nii.gz").exists()


def test_interrupt_keeps_what_is_finished_and_is_130(files, scripted, capsys):
    assert main(arguments(files, "--structures", "body", "--device", "cpu")) == 130
    assert (files / "out.nii.gz").exists()
    shown = capsys.readouterr()
    assert "Stopping" in shown.err and "only the structures above" in shown.out


def test_the_second_interrupt_ends_at_once_and_the_old_handler_returns():
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), cancel_on_interrupt() as cancel:
        os.kill(os.getpid(), signal.SIGINT)
        assert cancel.cancelled
        os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_a_log_gets_plain_lines_and_not_too_many(capsys):
    with show_progress() as progress:
        for step in range(1000):
            progress(ProgressEvent("matching" if step < 500 else "propagation", step / 1000, "liver" if step == 500 else None))
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "  0 % matching" and " 50 % propagation: liver" in lines
    assert 5 < len(lines) < 15


def test_a_report_of_the_run_is_written_in_the_same_command(files, scripted, capsys):
    from RAUSlicerLib.interpretation.rendering.json_report import from_values

    reports = [argument for name in ("r.json", "r.html") for argument in ("--report", f"{files}/{name}")]

    assert main(arguments(files, *reports)) == 0

    report = from_values(json.loads((files / "r.json").read_text(encoding="utf-8")))
    assert [found.name for found in report.findings] == ["body", "left organ", "right organ"]
    assert all(found.confidence == 0.9 for found in report.findings)
    assert report.source["Compared with"] == "the reference case"
    said = capsys.readouterr().out
    assert f"3 structures, {len(report.sentences)} sentences." in said
    assert "<img" in (files / "r.html").read_text(encoding="utf-8")


def _dicom_target(files: Path, *lacks: str) -> str:
    volume = sitk.Cast(sitk.ReadImage(str(files / "t.nii.gz")), sitk.sitkInt16)

    def gap(_number, header):
        for keyword in lacks:
            delattr(header, keyword)

    return str(write_enhanced(volume, files / "t.dcm", range(volume.GetDepth())[::-1], StudyDate=None, gap=gap))


def test_overlapping_structures_for_a_label_map_are_4_before_any_work(files, scripted, capsys):
    labels = sitk.ReadImage(str(files / "s.nii.gz"))
    structures = (Structure(1, "body"), Structure(2, "left organ", layer=1))
    write_segmentation(Segmentation(labels, structures, (sitk.Cast(labels > 0, sitk.sitkUInt8) * 2,)), files / "o.seg.nrrd", labels)
    options = ["--reference", f"{files}/r.nii.gz", "--reference-segmentation", f"{files}/o.seg.nrrd", "--target", f"{files}/t.nii.gz"]

    assert main(["transfer", *options, "--output", str(files / "out.nii.gz")]) == 4

    assert scripted == [] and ".seg.nrrd" in capsys.readouterr().err


def test_a_series_without_a_segmentation_is_4_before_any_work(files, scripted, monkeypatch, capsys):
    target = _dicom_target(files)
    monkeypatch.setattr("RAUSlicerLib.imaging.dicom_source.SourceSeries.slices_of", lambda *_: None)

    assert main(arguments(files, "--target", target, output="out.dcm")) == 4

    assert scripted == [] and ".seg.nrrd" in capsys.readouterr().err


def test_a_result_that_can_not_be_written_is_kept_and_named(files, scripted, monkeypatch, capsys):
    real = files_module._write

    def fails(segmentation, part, path, volume, volume_path):
        if path.name == "out.nii.gz" and scripted:
            raise OutputError("The disk is gone.", "It was pulled out.", "Put it in again.")
        return real(segmentation, part, path, volume, volume_path)

    monkeypatch.setattr(files_module, "_write", fails)

    assert main(arguments(files, "--json", str(files / "out.json"))) == 4

    assert json.loads((files / "out.json").read_text())["output"] == str(files / "out.seg.nrrd")

    assert str(files / "out.seg.nrrd") in capsys.readouterr().err
    assert [s.name for s in read_segmentation(files / "out.seg.nrrd").structures] == ["body", "left organ", "right organ"]


def test_each_file_of_the_target_is_read_at_most_four_times(files, scripted, monkeypatch):
    volume = sitk.Cast(sitk.ReadImage(str(files / "t.nii.gz")), sitk.sitkInt16)
    (files / "series").mkdir()
    uids = {f"{kind}UID": generate_uid() for kind in ("StudyInstance", "SeriesInstance", "FrameOfReference")}
    for k in range(volume.GetDepth()):
        write_enhanced(volume, files / "series" / f"slice{k}.dcm", [k], **uids)
    reports = ["--report", f"{files}/r.dcm", "--report", f"{files}/r2.dcm", "--json", f"{files}/o.json"]

    reads = counted_reads(monkeypatch)

    assert main(arguments(files, "--target", f"{files}/series", *reports, output="out.dcm")) == 0

    of_target = [count for name, count in reads.items() if name.startswith("slice")]
    assert len(of_target) == volume.GetDepth() and max(of_target) <= 4
    assert pydicom.dcmread(files / "r.dcm").Modality == "SR" and pydicom.dcmread(files / "out.dcm").Modality == "SEG"


@pytest.mark.parametrize("output", ["out.dcm", "out.seg.nrrd"])
@pytest.mark.parametrize("report", [True, False])
def test_what_a_dicom_target_lacks_is_told_before_the_run_and_in_the_json(files, scripted, capsys, output, report):
    lacks = ("PatientID", "FrameOfReferenceUID")
    reports = ["--report", f"{files}/r.dcm"] if report else []

    assert main(arguments(files, "--target", _dicom_target(files, *lacks), "--json", f"{files}/o.json", *reports, output=output)) == 0

    shown, told = capsys.readouterr().err, json.loads((files / "o.json").read_text())["warnings"]
    for words in (f"lack {keyword}" for keyword in lacks):
        count = int(report or output == "out.dcm")
        assert shown.count(words) == count and len([sentence for sentence in told if words in sentence]) == count
    assert not report or pydicom.dcmread(files / "r.dcm").PatientID == ""
    assert output != "out.dcm" or len(pydicom.dcmread(files / "out.dcm").SegmentSequence) == 3
