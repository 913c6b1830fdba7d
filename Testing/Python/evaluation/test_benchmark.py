import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from RAUSlicerLib.cli import main
from RAUSlicerLib.errors import InputError
from RAUSlicerLib.evaluation.benchmark import run_benchmark
from RAUSlicerLib.evaluation.pairs import choose_pairs, scored_labels
from RAUSlicerLib.imaging.segmentation import Structure
from RAUSlicerLib.progress import CancelToken, ignore
from RAUSlicerLib.protocols import SoftMask
from RAUSlicerLib.segmentation.resolution import resolve

NAMES = {"1": "body", "2": "left organ", "3": "right organ"}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, make_ellipsoids) -> Path:
    """Two tiny data sets of ellipsoids in the layout of the real ones."""
    root = tmp_path_factory.mktemp("data")
    splits = {}
    for number, domain in enumerate(("bodies", "others")):
        (root / domain).mkdir()
        (root / domain / "labels.json").write_text(json.dumps(NAMES))
        splits[domain] = {"train": ["a", "b", "c", "d"], "val": ["x", "y"]}
        for seed, case in enumerate("abcdxy", start=10 * number):
            made = make_ellipsoids(scale=(1 + 0.02 * (seed % 5), 1.0, 1.0), seed=seed)
            labelmap = made.segmentation.labelmap
            if case == "y":
                labelmap = sitk.Mask(labelmap, labelmap != 3)
            sitk.WriteImage(made.volume, str(root / domain / f"{case}.nii.gz"))
            sitk.WriteImage(labelmap, str(root / domain / f"{case}_seg.nii.gz"))
    splits["unsplit"] = {"train": ["a"]}
    (root / "splits.json").write_text(json.dumps(splits))
    return root


def test_pairs_are_the_same_every_time_and_start_with_every_target(data: Path) -> None:
    pairs = choose_pairs(data, "val", None, None)
    assert pairs == choose_pairs(data, "val", None, None)
    assert len(pairs) == 2 * 2 * 3
    first = [pair for pair in pairs if pair.domain == "bodies"]
    assert [pair.target for pair in first] == ["x", "y"] * 3
    for target in "xy":
        assert len({pair.reference for pair in first if pair.target == target}) == 3
    assert all(pair.reference in "abcd" for pair in pairs)


def test_limit_counts_pairs_of_each_domain(data: Path) -> None:
    assert [(pair.domain, pair.target) for pair in choose_pairs(data, "val", None, 1)] == [("bodies", "x"), ("others", "x")]


def test_an_unknown_domain_is_refused(data: Path) -> None:
    with pytest.raises(InputError, match="'unsplit'"):
        choose_pairs(data, "val", ["unsplit"], None)


def test_a_folder_without_splits_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"splits\.json"):
        choose_pairs(tmp_path, "val", None, None)


def test_cortical_parcels_of_the_brains_are_not_scored() -> None:
    assert scored_labels("brain_t1", [4, 99, 100, 207]) == [4, 99]
    assert scored_labels("abdomen_ct", [1, 150]) == [1, 150]


def test_an_unknown_method_is_refused_before_anything_runs(data: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="'magic'"):
        run_benchmark(data, tmp_path / "out", methods=["magic"], progress=ignore, cancel=CancelToken())
    assert not (tmp_path / "out").exists()


def test_resolve_gives_each_voxel_its_likeliest_structure() -> None:
    grid = sitk.Image(4, 1, 1, sitk.sitkUInt8)
    first = SoftMask(np.array([[[0.9, 0.6, 0.3]]], np.float32), (0, 0, 0), grid)
    second = SoftMask(np.array([[[0.7, 0.4, 0.8]]], np.float32), (0, 0, 1), grid)
    masks = {Structure(5, "a"): first, Structure(7, "b"): second}
    labels = resolve(masks, tuple(masks), grid).labelmap
    assert sitk.GetArrayFromImage(labels).ravel().tolist() == [5, 7, 0, 7]


def test_the_command_writes_scores_table_and_plots(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "scores"

    code = main(
        ["benchmark", "--data", str(data), "--domains", "bodies", "--methods", "copy,affine", "--limit", "2", "--output", str(output)]
    )

    assert code == 0
    runs = json.loads((output / "scores.json").read_text())["runs"]
    assert [(run["method"], run["target"]) for run in runs] == [("copy", "x"), ("affine", "x"), ("copy", "y"), ("affine", "y")]
    for run in runs:
        assert run["error"] is None and run["seconds"] > 0 and run["peak_mb"] > 50
        by_name = {score["name"]: score for score in run["structures"]}
        assert by_name["body"]["dice"] > 0.9 and by_name["left organ"]["dice"] > 0.8
        right = by_name["right organ"]
        assert (right["is_present"], right["dice"] is None, right["said_present"]) == (run["target"] == "x", run["target"] == "y", True)
    table = (output / "table.md").read_text()
    assert "| copy | 2 | 0 |" in table and "## bodies" in table
    assert (output / "dice_bodies.png").read_bytes().startswith(b"\x89PNG")
    assert "affine" in capsys.readouterr().out


def test_a_method_that_fails_scores_nothing_and_says_why(data: Path, tmp_path: Path) -> None:
    broken = tmp_path / "data"
    (broken / "bodies").mkdir(parents=True)
    for path in [data / "splits.json", *(data / "bodies").iterdir()]:
        (broken / path.relative_to(data)).write_bytes(path.read_bytes())
    for case in "abcd":
        image = sitk.ReadImage(str(broken / "bodies" / f"{case}.nii.gz"))
        sitk.WriteImage(image * 0, str(broken / "bodies" / f"{case}.nii.gz"))

    runs = run_benchmark(broken, tmp_path / "out", domains=["bodies"], methods=["copy"], limit=1, progress=ignore, cancel=CancelToken())

    assert runs[0].error is not None and "InputError" in runs[0].error
    assert [score.dice for score in runs[0].structures] == [0.0, 0.0, 0.0]
