"""``rauslicer ask`` from files to the answer; measuring and answering are the real ones."""

import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from RAUSlicerLib.cli import main


@pytest.fixture
def files(make_ellipsoids, tmp_path: Path) -> Path:
    """A target with a body, a left and a right organ; a reference of the same; a result file; a region."""
    target, reference = make_ellipsoids(), make_ellipsoids(scale=(0.9, 0.9, 0.9))
    for name, case in (("t", target), ("r", reference)):
        folder = tmp_path / name
        folder.mkdir()
        sitk.WriteImage(case.volume, str(folder / "volume.nii.gz"))
        sitk.WriteImage(case.segmentation.labelmap, str(folder / "labels.nii.gz"))
        (folder / "labels.json").write_text(json.dumps({"1": "body", "2": "left kidney", "3": "right kidney"}))
    said = {"label": 2, "name": "left kidney", "status": "low confidence", "confidence": 0.31, "presence": 0.8}
    lost = {"label": 9, "name": "spleen", "status": "not found", "confidence": 0.02, "presence": 0.1}
    numbers = {"volume_ml": 1.0, "reference_volume_ml": 2.0, "box_mm": None}
    (tmp_path / "result.json").write_text(json.dumps({"model": "m", "structures": [said | numbers, lost | numbers]}))
    sitk.WriteImage(target.segmentation.labelmap == 3, str(tmp_path / "region.nii.gz"))
    return tmp_path


@pytest.fixture
def ask(files: Path, capsys: pytest.CaptureFixture[str]):
    """ask(question, *options): exit code, what was printed, and the errors."""

    def run(question: str, *options: object) -> tuple[int, str, str]:
        given = ["--target", files / "t" / "volume.nii.gz", "--segmentation", files / "t" / "labels.nii.gz", *options]
        code = main(["ask", question, *(str(option) for option in given)])
        shown = capsys.readouterr()
        return code, shown.out, shown.err

    return run


def test_the_volume_is_the_one_of_the_voxels(ask, files: Path) -> None:
    labels = sitk.GetArrayFromImage(sitk.ReadImage(str(files / "t" / "labels.nii.gz")))

    code, out, _err = ask("How large is the left kidney?", "--json")

    document = json.loads(out)
    assert code == 0 and document["is_known"] and "Research use only" in document["notice"]
    volume = document["sentences"][0]["measurements"][0]
    assert volume["value"] == pytest.approx((labels == 2).sum() * 8 / 1000)
    assert (volume["unit"], volume["structures"]) == ("mL", ["left kidney"])


def test_an_answer_is_printed_with_what_it_rests_on(ask, files: Path) -> None:
    code, out, _err = ask("Is the left kidney present?", "--result", files / "result.json")

    assert code == 0
    assert "I can't tell for sure whether left kidney is present" in out
    assert "rests on: left kidney (status, confidence 0.31)" in out
    assert "Research use only" in out


def test_what_the_run_did_not_find_is_known_from_its_result_file(ask, files: Path) -> None:
    assert "spleen was not found" in ask("Is the spleen there?", "--result", files / "result.json")[1]
    assert "spleen" not in ask("Compare all", "--result", files / "result.json")[1].split("Not found")[0]


def test_a_point_may_be_given_in_lps_and_in_ras(ask, files: Path) -> None:
    labels = sitk.ReadImage(str(files / "t" / "labels.nii.gz"))
    index = np.argwhere(sitk.GetArrayFromImage(labels) == 3).mean(axis=0)[::-1]
    x, y, z = labels.TransformContinuousIndexToPhysicalPoint([float(value) for value in index])

    in_lps = ask("What is here?", "--at", x, y, z)[1]
    in_ras = ask("What is here?", "--at", -x, -y, z, "--ras")[1]

    assert in_lps == in_ras
    assert "This point lies in right kidney" in in_lps


def test_a_region_is_an_image(ask, files: Path) -> None:
    assert "100 % of the marked region lie in right kidney" in ask("What is the marked region?", "--region", files / "region.nii.gz")[1]


def test_a_reference_is_compared_with(ask, files: Path) -> None:
    reference = ("--reference", files / "r" / "volume.nii.gz", "--reference-segmentation", files / "r" / "labels.nii.gz")

    out = ask("compare the left kidney with the reference", *reference)[1]

    assert "larger than in the reference case" in out


def test_what_can_not_be_told_is_no_error(ask) -> None:
    code, out, _err = ask("Is this dangerous?")

    assert code == 0
    assert "I did not understand the question" in out


@pytest.mark.parametrize("text", ["{", "[]", '{"structures": [{"name": "x"}]}', '{"structures": [{"name": "x", "status": "lost"}]}'])
def test_a_result_file_that_is_none_is_an_input_error(ask, files: Path, text: str) -> None:
    (files / "bad.json").write_text(text)

    code, _out, err = ask("What is here?", "--result", files / "bad.json")

    assert code == 3
    assert "bad.json" in err and "transfer --json" in err


def test_half_a_reference_is_wrong_usage(ask, files: Path) -> None:
    with pytest.raises(SystemExit) as leaving:
        ask("What is here?", "--reference", files / "r" / "volume.nii.gz")
    assert leaving.value.code == 2
