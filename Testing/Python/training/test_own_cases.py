"""A site's way: two cases with names of their own, one file, and commands only, from a check to a model that runs."""

import json
from pathlib import Path

import pytest
import SimpleITK as sitk
import yaml

from RAUSlicerLib.cli.app import main
from RAUSlicerLib.imaging.files import read_segmentation, write_segmentation


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, make_ellipsoids, tiny_model: Path, coarse: None) -> Path:
    """A folder with two cases as 3D Slicer saves them, and the configuration."""
    root = tmp_path_factory.mktemp("site")
    (root / "knees").mkdir()
    for number, name in enumerate(("anna", "ben", "cleo")):
        case = make_ellipsoids(size=(40, 46, 20), spacing=(2.4, 2.4, 3.6), scale=(1 + 0.04 * number, 1, 1), seed=number)
        sitk.WriteImage(case.volume, str(root / "knees" / f"{name}.nrrd"))
        write_segmentation(case.segmentation, root / "knees" / f"{name}.seg.nrrd", case.volume)
    knees = {
        "image": "{case}.nrrd",
        "segmentation": "{case}.seg.nrrd",
        "names": {1: "body", 2: "left organ", 3: "right organ"},
        "train": ["anna", "ben"],
        "val": ["cleo"],
        "patch": [48, 48, 48],
        "licence": "private",
        "what": "Made-up knees",
    }
    few = {"steps": 2, "rate": 1e-3}
    document = {
        "data": str(root),
        "output": str(root / "work"),
        "start": str(tiny_model),
        "device": "cpu",
        "threads": 1,
        "licence": "CC-BY-4.0",
        "datasets": {"knees": knees},
        "matching": few,
        "refiner": few | {"far": 48, "sizes": [[24, 2]]},
        "calibration": {"pairs": 1, "changed": 1},
    }
    (root / "mine.yaml").write_text(yaml.safe_dump(document))
    return root


def run(site: Path, action: str, *more: str) -> int:
    return main(["train", action, "--config", str(site / "mine.yaml"), *more])


def test_a_check_says_what_is_there(site: Path, capsys: pytest.CaptureFixture) -> None:
    assert run(site, "check") == 0
    said = capsys.readouterr().out
    assert "knees: 2 train cases of 2 people, 1 val cases" in said and "2 left organ in 3" in said and "Nothing is wrong." in said
    assert "matching: 2 steps at 0.001" in said and not (site / "work").exists()


def test_a_check_says_all_that_is_wrong(site: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    document = yaml.safe_load((site / "mine.yaml").read_text())
    document["datasets"]["knees"] |= {"train": ["anna", "dora"], "val": ["anna"], "names": {1: "body", 2: "left organ"}}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(document))
    assert main(["train", "check", "--config", str(tmp_path / "mine.yaml")]) == 3
    said = capsys.readouterr().err
    assert "dora: there is no segmentation" in said and "anna is in train and in val" in said and "'right organ'" in said


@pytest.mark.slow
def test_from_two_cases_to_a_model_that_runs(site: Path, tmp_path: Path, tiny_model: Path) -> None:
    for action in ("matching", "refiner", "score", "export", "calibration", "export"):
        assert run(site, action) == 0
    model = site / "work" / "model"
    config = json.loads((model / "matching" / "config.json").read_text())
    # What the network knew before is kept, and the new labels have a classifier of their own.
    assert config["labels"] == [5, 3, 4] and config["widths"] == [8, 8, 16]
    assert config["calibration"] == json.loads((site / "work" / "calibration.json").read_text())
    card = (model / "matching" / "README.md").read_text()
    assert "license: cc-by-4.0" in card and "Made-up knees; private. 2 cases of 2 people." in card and "knees 0." in card
    assert (model / "sam2" / "README.md").read_text() == (tiny_model / "sam2" / "README.md").read_text()
    knees, output = site / "knees", tmp_path / "out.seg.nrrd"
    given = ["--reference", str(knees / "anna.nrrd"), "--reference-segmentation", str(knees / "anna.seg.nrrd")]
    code = main(
        ["transfer", "--model", str(model), "--device", "cpu", *given, "--target", str(knees / "cleo.nrrd"), "--output", str(output)]
    )
    assert code == 0
    assert {one.name for one in read_segmentation(output).structures} <= {"body", "left organ", "right organ"}
    assert sitk.ReadImage(str(output)).GetSize() == (40, 46, 20)


def test_another_output_is_given_on_the_command_line(site: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert run(site, "export", "--output", str(tmp_path)) == 3
    assert f"left a state in {str(tmp_path)!r}" in capsys.readouterr().err


def test_the_recipe_has_a_name_and_without_one_it_is_said(site: Path, capsys: pytest.CaptureFixture) -> None:
    for given in ([], ["--config", str(site / "mine.yaml")]):
        with pytest.raises(SystemExit) as raised:
            main(["train", *given])
        assert raised.value.code == 2 and "rauslicer train recipe --config FILE" in capsys.readouterr().err
