"""``rauslicer ask`` from files to the answer; measuring and answering are the real ones."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from RAUSlicerLib.cli.app import main
from RAUSlicerLib.imaging.files import write_segmentation
from RAUSlicerLib.imaging.grids import from_array
from RAUSlicerLib.imaging.segmentation import Segmentation, Structure


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


def test_the_volume_is_the_one_of_the_voxels(ask, files):
    labels = sitk.GetArrayFromImage(sitk.ReadImage(str(files / "t" / "labels.nii.gz")))

    code, out, _err = ask("How large is the left kidney?", "--json")

    document = json.loads(out)
    assert code == 0 and document["is_known"] and "Research use only" in document["notice"]
    volume = document["sentences"][0]["measurements"][0]
    assert volume["value"] == pytest.approx((labels == 2).sum() * 8 / 1000)
    assert (volume["unit"], volume["structures"]) == ("mL", ["left kidney"])


def test_an_answer_is_printed_with_what_it_rests_on(ask, files):
    code, out, _err = ask("Is the left kidney present?", "--result", files / "result.json")

    assert code == 0
    assert "I can't tell for sure whether left kidney is present" in out
    assert "rests on: left kidney (status, confidence 0.31)" in out
    assert "Research use only" in out


def test_what_the_run_did_not_find_is_known_from_its_result_file(ask, files):
    assert "spleen was not found" in ask("Is the spleen there?", "--result", files / "result.json")[1]
    assert "spleen" not in ask("Compare all", "--result", files / "result.json")[1].split("Not found")[0]


def test_a_point_may_be_given_in_lps_and_in_ras(ask, files):
    labels = sitk.ReadImage(str(files / "t" / "labels.nii.gz"))
    index = np.argwhere(sitk.GetArrayFromImage(labels) == 3).mean(axis=0)[::-1]
    x, y, z = labels.TransformContinuousIndexToPhysicalPoint([float(value) for value in index])

    in_lps = ask("What is here?", "--at", x, y, z)[1]
    in_ras = ask("What is here?", "--at", -x, -y, z, "--ras")[1]

    assert in_lps == in_ras
    assert "This point lies in right kidney" in in_lps


def test_a_region_is_an_image(ask, files):
    assert "100 % of the marked region lie in right kidney" in ask("What is the marked region?", "--region", files / "region.nii.gz")[1]


def test_a_reference_is_compared_with(ask, files):
    reference = ("--reference", files / "r" / "volume.nii.gz", "--reference-segmentation", files / "r" / "labels.nii.gz")

    out = ask("compare the left kidney with the reference", *reference)[1]

    assert "larger than in the reference case" in out


def test_what_can_not_be_told_is_no_error(ask):
    code, out, _err = ask("Is this dangerous?")

    assert code == 0
    assert "I did not understand the question" in out


def test_half_a_reference_is_wrong_usage(ask, files):
    with pytest.raises(SystemExit) as leaving:
        ask("What is here?", "--reference", files / "r" / "volume.nii.gz")
    assert leaving.value.code == 2


@pytest.mark.parametrize("frame", ["lps", "ras"])
@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "1e999", "1e300", "-1e7"])
@pytest.mark.parametrize("axis", range(3))
def test_a_point_that_is_no_place_is_an_input_error_and_no_endless_loop(ask, axis, value, frame):
    point = ["0", "0", "0"]
    point[axis] = value

    code, out, err = ask("What is here?", "--at", *point, *(["--ras"] if frame == "ras" else []))

    assert (code, out) == (3, "") and "is not a place" in err


def test_a_point_that_is_no_place_in_the_question_itself_is_an_input_error(ask):
    code, _out, err = ask(f"What is at LPS {'9' * 80} 0 0?")

    assert code == 3 and "is not a place" in err


def test_a_coordinate_may_be_written_with_an_exponent(ask):
    code, out, err = ask("What is here?", "--at", "-9.5e-05", "-1E+0", "-.5")

    assert code == 0 and out, err


def test_a_point_far_outside_is_answered(ask):
    code, out, _err = ask("What is here?", "--at", "1000000", "-1000000", "1000000")

    assert code == 0 and "outside" in out


_SAID = {"label": 2, "name": "left kidney", "status": "found", "confidence": 0.3, "presence": 0.8}
_NUMBERS = {"volume_ml": 1.0, "reference_volume_ml": 2.0, "box_mm": None}


@pytest.mark.parametrize(
    "text",
    [
        json.dumps({"structures": [_SAID | _NUMBERS | wrong]})
        for wrong in (
            {"confidence": float("nan")},
            {"confidence": float("inf")},
            {"confidence": -0.1},
            {"confidence": 30},
            {"confidence": "0.3"},
            {"confidence": True},
            {"confidence": None},
            {"presence": float("nan")},
            {"presence": [0.5]},
            {"reference_volume_ml": float("-inf")},
            {"reference_volume_ml": -1.0},
            {"reference_volume_ml": 10**400},
            {"box_mm": [[0, 0, 0], [1, 1, float("nan")]]},
            {"box_mm": "ab"},
            {"box_mm": [[0, 0], [1, 1]]},
            {"box_mm": [[0, 0, 0]]},
            {"label": [2]},
            {"label": {"a": 1}},
            {"name": 3},
            {"name": None},
            {"status": "lost"},
        )
    ]
    + [
        "[" * 100_000,
        '{"structures": ' + '{"a":' * 100_000,
        "",
        "{",
        "[]",
        "{}",
        "null",
        '{"structures": [{"name": "x"}]}',
        '{"structures": null}',
        '{"structures": [1]}',
    ]
    + ['{"structures": [{"confidence": 1e999}]}', '{"structures": [{"confidence": ' + "9" * 5000 + "}]}", '{"structures": {"a": 1}}'],
)
@pytest.mark.parametrize("command", ["ask", "report"])
def test_a_result_file_with_numbers_that_are_none_is_an_input_error(ask, files, command, text, capsys):
    path = files / "wrong.json"
    path.write_text(text)

    if command == "ask":
        code, _out, err = ask("Where is the left kidney?", "--result", path)
    else:
        given = ["--target", files / "t" / "volume.nii.gz", "--segmentation", files / "t" / "labels.nii.gz", "--result", path]
        code = main(["report", *(str(option) for option in given), "--output", str(files / "report.md")])
        err = capsys.readouterr().err

    assert code == 3 and "can't be used" in err and "wrong.json" in err and "transfer --json" in err and "fault of RAUSlicer" not in err
    assert len(err) < 2000


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"\x00" * 100, '{"structures": []}'.encode("utf-16")])
def test_a_result_file_in_no_encoding_is_an_input_error(ask, files, content):
    (files / "wrong.json").write_bytes(content)

    assert ask("Where is the left kidney?", "--result", files / "wrong.json")[0] == 3


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes of POSIX")
def test_a_result_file_without_an_end_is_an_input_error(ask, files):
    os.mkfifo(files / "pipe.json")

    for path in (files / "pipe.json", Path("/dev/zero"), files):
        assert ask("Where is the left kidney?", "--result", path)[0] == 3


@pytest.mark.parametrize(
    "text", ['{"graphs": ' + "[" * 100_000, '{"format": NaN, "graphs": {}}', '{"format": 1, "cases": 1e999, "graphs": {}}']
)
def test_a_library_with_numbers_that_are_none_is_an_input_error(files, text, capsys):
    (files / "library.json").write_text(text)
    given = ["--target", files / "t" / "volume.nii.gz", "--segmentation", files / "t" / "labels.nii.gz"]

    code = main(["report", *map(str, given), "--library", str(files / "library.json"), "--output", str(files / "report.md")])

    assert code == 3 and "library" in capsys.readouterr().err


def test_an_answer_as_json_is_json_where_confidences_are_unknown(ask):
    def refuse(constant):
        raise AssertionError(constant)

    for question in ("Which structures are uncertain?", "Where is the left kidney?", "Is the left kidney present?"):
        code, out, err = ask(question, "--json")
        assert code == 0, err
        json.loads(out, parse_constant=refuse)


def _saved_region(files: Path, name: str) -> Path:
    """The region as another program may save it: without a place, with NaN for background, or as a segmentation."""
    region = sitk.ReadImage(str(files / "region.nii.gz"))
    path = files / name
    if name.startswith("placeless"):
        region = sitk.GetImageFromArray(sitk.GetArrayFromImage(region))
    elif name.startswith("undefined"):
        array = sitk.GetArrayFromImage(region).astype(np.float32)
        array[array == 0] = np.nan
        undefined = from_array(array, region)
        region = undefined
    elif name.endswith(".seg.nrrd"):
        write_segmentation(Segmentation(region, (Structure(1, "marked"),)), path, region)
        return path
    sitk.WriteImage(region, str(path))
    if name.endswith("formless.nii"):
        content = bytearray(path.read_bytes())
        content[252:256] = bytes(4)
        path.write_bytes(content)
    return path


@pytest.mark.parametrize("name", ["undefined.nrrd", "undefined.mha", "undefined.nii.gz", "a.seg.nrrd"])
def test_a_region_may_be_a_segmentation_or_undefined_elsewhere(ask, files, name):
    code, out, err = ask("What is the marked region?", "--region", _saved_region(files, name))
    assert (code, err) == (0, "") and "100 % of the marked region lie in right kidney" in out


@pytest.mark.parametrize("name", ["placeless.nrrd", "placeless.nii.gz", "formless.nii"])
def test_a_region_that_has_lost_its_place_is_refused_as_a_segmentation_is(ask, files, name):
    code, out, err = ask("What is the marked region?", "--region", _saved_region(files, name))
    assert code != 0 and "%" not in out and "region" in err and ("place" in err or "elsewhere" in err)


def test_an_empty_region_is_refused(ask, files):
    sitk.WriteImage(sitk.ReadImage(str(files / "region.nii.gz")) * 0, str(files / "none.nrrd"))
    code, _out, err = ask("What is the marked region?", "--region", files / "none.nrrd")
    assert code != 0 and "is empty" in err


def test_what_is_odd_about_a_region_is_told(ask, files):
    region = sitk.Expand(sitk.ReadImage(str(files / "region.nii.gz")), [2, 2, 2], sitk.sitkNearestNeighbor)
    sitk.WriteImage(region, str(files / "fine.nrrd"))
    assert "on another grid" in ask("What is the marked region?", "--region", files / "fine.nrrd")[2]
    document = json.loads(ask("What is the marked region?", "--region", files / "fine.nrrd", "--json")[1])
    assert any("on another grid" in warning for warning in document["warnings"])
