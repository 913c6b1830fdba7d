import json
from pathlib import Path

import pytest
import SimpleITK as sitk

from RAUSlicerLib.cli.app import main
from RAUSlicerLib.evaluation.methods import Bench
from RAUSlicerLib.evaluation.processes import Processes
from RAUSlicerLib.evaluation.trust import plan_trust, rows, side_rows, write_trust
from RAUSlicerLib.evaluation.worker import LABELMAP
from RAUSlicerLib.inputs import load_inputs
from RAUSlicerLib.progress import CancelToken


def shares(run, case: str) -> list[str]:
    """Of a case: how many structures, and the shares not found, of low confidence, found, and found but wrong."""
    return next(row[3:8] for row in rows([run]) if row[1] == case)


def test_everything_that_point_five_asks_for_is_run(tiny_data: Path) -> None:
    plan = plan_trust(tiny_data, limit=1, model="embedded", device="cpu")
    asked = [(trial.domain, trial.variant, trial.wrong_part) for trial, methods in plan.jobs if methods == ("rauslicer",)]
    assert len(asked) == len(plan.jobs)
    for domain in ("bodies", "others"):
        for variant in ("natural", "mirrored", "half", "rotated20", "scaled"):
            assert (domain, variant, False) in asked
        assert (domain, "natural", True) in asked
    # Only there is a structure of that name.
    assert [domain for domain, variant, _ in asked if variant == "without 2"] == ["others"]
    assert len(asked) == len(set(asked))


def test_a_wrong_part_of_the_body_is_doubted_where_its_structures_are_not_called_found(make_run, make_score) -> None:
    statuses = ["not found"] * 7 + ["low confidence"] * 1 + ["found"] * 2
    scores = [make_score(n, None, is_present=False, status=status) for n, status in enumerate(statuses)]
    run = make_run(references=("heart_mr/a",), structures=scores)
    assert shares(run, "wrong part") == ["10", "0.70", "0.10", "0.20", "0.20"]


def test_a_run_that_failed_has_doubted_nothing(make_run, make_score) -> None:
    score = make_score(1, None, is_present=False, said_present=False)
    run = make_run(references=("heart_mr/a",), structures=[score], error="out of memory")
    assert shares(run, "wrong part") == ["1", "0.00", "0.00", "0.00", "1.00"]


def test_of_a_target_with_an_organ_taken_out_only_that_one_is_asked(make_run, make_score) -> None:
    scores = [make_score(4, None, is_present=False, status="found"), make_score(5, None, is_present=False, status="not found")]
    assert shares(make_run(variant="without 4", structures=scores), "absent") == ["1", "0.00", "0.00", "1.00", "1.00"]


def test_a_mirrored_structure_follows_the_anatomy_is_doubted_or_follows_the_coordinates(make_run, make_score) -> None:
    scores = [
        make_score(1, 0.8, mirror_dice=0.0, status="found"),
        make_score(2, 0.0, mirror_dice=0.8, status="found"),
        make_score(3, 0.0, mirror_dice=0.8, status="low confidence"),
        make_score(4, 0.9, status="found"),
    ]
    assert side_rows([make_run(variant="mirrored", structures=scores)]) == [["brain_t1", "3", "0.33", "0.33", "0.33"]]


def test_rows_show_shares_by_case(make_run, make_score, tmp_path: Path) -> None:
    half = make_run(
        variant="half",
        structures=[
            make_score(1, 0.7, status="found", confidence=0.8),
            make_score(2, 0.1, status="found", confidence=0.9),
            make_score(3, None, is_present=False, said_present=False, status="not found"),
        ],
    )
    table = {row[1]: row for row in rows([half])}
    assert table["half"][2:8] == ["1", "2", "0.00", "0.00", "1.00", "0.50"]
    assert table["left the field"][3:7] == ["1", "1.00", "0.00", "0.00"]
    write_trust([half], 3, tmp_path)
    text = (tmp_path / "trust.md").read_text()
    assert "3 runs of the list are still missing" in text and "| brain_t1 | left the field |" in text


@pytest.mark.parametrize(
    ("confidences", "expected"),
    [([(n / 30) ** 2 for n in range(30)], "1.00"), ([-n for n in range(30)], "-1.00"), (range(19), "-"), ([0.5] * 30, "-")],
    ids=["follows", "turned", "too few", "all the same"],
)
def test_confidence_is_ranked_against_dice(make_run, make_score, confidences, expected: str) -> None:
    scores = [make_score(n, n / 30, confidence=confidence) for n, confidence in enumerate(confidences)]
    assert rows([make_run(structures=scores)])[0][-1] == expected


@pytest.fixture
def copying(monkeypatch: pytest.MonkeyPatch) -> None:
    """In place of the model: masks by the copy peer, trusted where the target's intensities under a mask are those of the reference."""

    def ask(self, name: str, request: dict, cancel: CancelToken) -> dict:
        pairs = [(Path(volume), Path(segmentation)) for volume, segmentation in request["references"]]
        inputs = load_inputs(pairs, Path(request["target"]))
        reference = inputs.references[0]
        structures = tuple(s for s in reference.segmentation.structures if s.label in request["labels"])
        outcome = Bench().run("copy", inputs.references, inputs.target, structures)
        sitk.WriteImage(outcome.labelmap, str(Path(request["folder"]) / LABELMAP))
        found, values = (sitk.GetArrayFromImage(image) for image in (outcome.labelmap, inputs.target))
        answers = {}
        for structure in structures:
            known = sitk.GetArrayFromImage(reference.volume)[reference.segmentation.array(structure)].mean()
            alike = abs(values[found == structure.label].mean() - known) < 15
            answers[str(structure.label)] = {"present": True, "confidence": float(alike), "status": "found" if alike else "low confidence"}
        return {"answers": answers, "seconds": 1.0, "load_seconds": None, "gives_boxes": False, "peak_mb": 1.0}

    monkeypatch.setattr(Processes, "ask", ask)


@pytest.mark.usefixtures("copying")
def test_the_command_runs_the_whole_suite(tiny_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--suite", "trust", "--domains", "others", "--limit", "1", "--model", "embedded"]
    code = main(["benchmark", "--data", str(tiny_data), *options, "--output", str(tmp_path)])

    assert code == 0
    runs = {run["variant"]: run for run in json.loads((tmp_path / "trust.json").read_text())["runs"] if "/" not in run["references"][0]}
    assert set(runs) == {"natural", "mirrored", "half", "rotated20", "scaled", "without 2"}
    said = {variant: {score["label"]: score for score in run["structures"]} for variant, run in runs.items()}
    assert said["natural"][2]["dice"] > 0.8 and said["natural"][2]["status"] == "found"
    # Boxes are laid over each other, so that neither size nor which half is there makes a difference to what copying finds.
    assert said["scaled"][2]["dice"] > 0.8
    assert said["half"][1]["dice"] < said["natural"][1]["dice"]
    # The bright organ was taken out, and the dark one lies where the bright one was.
    assert (said["without 2"][2]["is_present"], said["without 2"][2]["status"]) == (False, "low confidence")
    assert said["mirrored"][2]["status"] == "low confidence" and said["mirrored"][2]["dice"] < 0.2
    wrong = [run for run in json.loads((tmp_path / "trust.json").read_text())["runs"] if "/" in run["references"][0]]
    assert [[score["is_present"] for score in run["structures"]] for run in wrong] == [[False] * 3]
    printed = capsys.readouterr().out
    assert "wrong part" in printed and "Mirrored" in printed
