"""In every command each output is compared with every input and every other output before the run, by whatever name they come."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import SimpleITK as sitk

from RAUSlicerLib.cli.app import main
from RAUSlicerLib.models.folders import FOLDER_VARIABLE

posix = pytest.mark.skipif(sys.platform == "win32", reason="links need other rights there")


@pytest.fixture
def files(make_ellipsoids, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Inputs of which each is read together with another file: names of labels, and voxels that lie apart from their header."""
    made = make_ellipsoids(size=(20, 24, 16), spacing=(5, 5, 5))
    for name in ("r", "t"):
        sitk.WriteImage(made.volume, str(tmp_path / f"{name}.nhdr"))
    sitk.WriteImage(made.segmentation.labelmap, str(tmp_path / "s.mhd"))
    (tmp_path / "labels.json").write_text(json.dumps({"1": "body", "2": "left organ", "3": "right organ"}))
    (tmp_path / "model" / "vlm").mkdir(parents=True)
    (tmp_path / "model" / "vlm" / "config.json").write_text("{}")
    (tmp_path / "d").mkdir()
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "models"))
    # Whoever gets as far as reading has overlooked something.
    monkeypatch.setattr("RAUSlicerLib.cli.transfer.load_inputs", _never)
    monkeypatch.setattr("RAUSlicerLib.interpretation.segmented.load_segmented", _never)
    return tmp_path


def _never(*_arguments: Any, **_named: Any) -> None:
    raise AssertionError("it was not refused before the run")


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def transfer(files: Path, **options: str) -> list[str]:
    """The arguments of a transfer with ``--force``; options name further outputs, relative to the folder."""
    inputs = ["--reference", f"{files}/r.nhdr", "--reference-segmentation", f"{files}/s.mhd", "--target", f"{files}/t.nhdr"]
    given = {"output": "o.nrrd", **options}
    named = [argument for name, value in given.items() for argument in (f"--{name}", value if name == "model" else f"{files}/{value}")]
    return ["transfer", *inputs, *named, "--force"]


DATA = [path for stem in ("r", "t") for path in (f"{stem}.nhdr", f"{stem}.raw")] + ["s.mhd", "s.raw", "labels.json"]


@pytest.mark.parametrize("name", [*DATA, "d/../labels.json", "LABELS.json"])
def test_json_is_never_written_over_what_is_read(files, name, capsys):
    before = content(files)
    if name not in ("d/../labels.json", "LABELS.json"):
        assert name in before
    assert main(transfer(files, json=name)) == 4
    assert content(files) == before
    assert "destroy the input" in capsys.readouterr().err


@pytest.mark.parametrize(
    "options",
    [
        {"json": "o.nrrd"},
        {"json": "d/../o.nrrd"},
        {"json": "O.NRRD"},
        {"report": "same.json", "json": "same.json"},
        {"report": "d/../same.json", "json": "same.json"},
        {"pictures": "d", "json": "d/contact_sheet.png"},
        {"pictures": "d", "json": "d/../d/volume_3d.png"},
        {"pictures": "d", "json": "d/CONTACT_SHEET.PNG"},
        {"pictures": "new", "json": "new"},
        {"pictures": "o.nrrd"},
        {"output": "o.dcm", "report": "o.dcm"},
    ],
)
def test_no_output_is_another_one(files, options, capsys):
    before = content(files)
    assert main(transfer(files, **options)) == 4
    assert content(files) == before and not (files / "new").exists()
    assert "Error:" in capsys.readouterr().err


def test_each_output_is_compared_once_with_all_inputs(files, monkeypatch):
    compared: list[tuple[str, int]] = []

    def note(path, what, *, force, inputs=()):
        compared.append((path.name, len({*inputs})))

    for place in ("cli.transfer", "imaging.files", "interpretation.rendering.files"):
        monkeypatch.setattr(f"RAUSlicerLib.{place}.require_free", note)
    main(transfer(files, report="o.md", json="o.json", pictures="d"))
    assert sorted(compared) == [("contact_sheet.png", 3), ("o.json", 3), ("o.md", 3), ("o.nrrd", 3), ("volume_3d.png", 3)]


def test_a_report_over_a_report_is_refused_by_whatever_name(files):
    twice = ["--report", f"{files}/a.html", "--report", f"{files}/d/../a.html"]
    assert main([*transfer(files), *twice]) == 4
    case = ["--target", f"{files}/t.nhdr", "--segmentation", f"{files}/s.mhd", "--force"]
    for one, two in (("a.html", "d/../a.html"), ("a.json", "A.json"), ("a.md", "a.md")):
        assert main(["report", *case, "--output", f"{files}/{one}", "--output", f"{files}/{two}"]) == 4
    assert not list(files.glob("[aA].*"))


@pytest.mark.parametrize("name", ["labels.json", "dataset.json", "result.json", "library.json"])
def test_a_report_is_never_written_over_what_it_is_made_from(files, name):
    for given in ("result.json", "library.json"):
        (files / given).write_text("{}")
    before = content(files)
    case = ["--target", f"{files}/t.nhdr", "--segmentation", f"{files}/s.mhd"]
    beside = ["--result", f"{files}/result.json", "--library", f"{files}/library.json"]
    assert main(["report", *case, *beside, "--output", f"{files}/d/../{name}", "--force"]) == 4
    assert content(files) == before


def test_a_file_of_a_series_that_is_the_target_is_never_replaced(files):
    (files / "d" / "sub").mkdir()
    (files / "d" / "sub" / "1.dcm").write_text("slice")
    case = ["--target", f"{files}/d", "--segmentation", f"{files}/s.mhd", "--force"]
    assert main(["report", *case, "--output", f"{files}/d/sub/1.dcm"]) == 4
    assert main(["report", *case, "--output", f"{files}/d/sub/../sub/1.dcm"]) == 4
    assert (files / "d" / "sub" / "1.dcm").read_text() == "slice"


@pytest.mark.parametrize("name", ["model/vlm/config.json", "model/vlm/new.json", "d/../model/new.json"])
def test_nothing_is_written_into_a_model(files, name):
    before = content(files)
    assert main(transfer(files, json=name, model=str(files / "model"))) == 4
    assert content(files) == before


def test_demo_and_benchmark_write_neither_into_a_model_nor_over_what_is_not_theirs(files, monkeypatch, capsys):
    monkeypatch.setattr("RAUSlicerLib.cli.demo.load_sample", _never)
    monkeypatch.setattr("RAUSlicerLib.evaluation.benchmark.plan_benchmark", _never)
    monkeypatch.setattr("RAUSlicerLib.evaluation.vqa_suite.run_vqa", _never)
    for name in ("report.json", "table.md", "vqa.md"):
        (files / "d" / name).write_text("mine")
    before = content(files)
    model = str(files / "model")
    assert main(["demo", "--model", model, "--output", f"{model}/vlm"]) == 4
    assert main(["demo", "--output", f"{files}/d"]) == 4
    assert main(["benchmark", "--model", model, "--output", f"{model}/out"]) == 4
    assert main(["benchmark", "--output", f"{files}/d"]) == 4
    assert main(["benchmark", "--suite", "vqa", "--output", f"{files}/d"]) == 4
    assert content(files) == before
    assert "Unexpected" not in capsys.readouterr().err


def test_a_log_that_no_benchmark_has_written_is_left_as_it_is(tmp_path):
    from RAUSlicerLib.errors import OutputError
    from RAUSlicerLib.evaluation.records import LOG, RecordedRuns

    for text in ('{"mine": 1}\n', "no JSON", '{"mine": 1}', '{"domain": "x"}\n', "[]\n", '"text"\n', "\n"):
        (tmp_path / LOG).write_text(text)
        with pytest.raises(OutputError, match="no benchmark has written"):
            RecordedRuns(tmp_path)
        assert (tmp_path / LOG).read_text() == text


def test_training_replaces_only_what_a_training_has_written(tmp_path):
    from types import SimpleNamespace

    from RAUSlicerLib.errors import OutputError
    from RAUSlicerLib.training.recipe import _check_output

    config = SimpleNamespace(output=tmp_path / "out", model="embedded")
    _check_output(config)  # type: ignore[arg-type]
    (tmp_path / "out" / "model").mkdir()
    for figures in (None, "{}", "mine"):
        if figures is not None:
            (tmp_path / "out" / "val.json").write_text(figures)
        with pytest.raises(OutputError, match="no training by the recipe"):
            _check_output(config)  # type: ignore[arg-type]
    (tmp_path / "out" / "val.json").write_text('{"start": {}}')
    _check_output(config)  # type: ignore[arg-type]
    with pytest.raises(OutputError, match="folder of the model"):
        _check_output(SimpleNamespace(output=tmp_path / "out" / "model" / "x", model=str(tmp_path / "out" / "model")))  # type: ignore[arg-type]
