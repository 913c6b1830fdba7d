import json
import random
from pathlib import Path

import numpy as np
import pytest

from RAUSlicerLib.cli.app import main
from RAUSlicerLib.evaluation.vqa import Answered, answer, box_fit, choose_questions, evidence_fit, nearest_box
from RAUSlicerLib.evaluation.vqa_suite import Sheet, naming_rows, presence_rows
from RAUSlicerLib.imaging.frame import canonical
from RAUSlicerLib.imaging.segmentation import Structure
from RAUSlicerLib.protocols import SoftMask
from RAUSlicerLib.results import Localization

LIVER, SPLEEN, KIDNEY = Structure(1, "liver"), Structure(2, "spleen"), Structure(3, "kidney")


def block(*sides: tuple[int, int]) -> np.ndarray:
    mask = np.zeros((20, 30, 30), bool)
    mask[tuple(slice(*side) for side in sides)] = True
    return mask


def test_regions_are_marked_where_a_slice_shows_enough_of_them() -> None:
    masks = {LIVER: block((2, 10), (0, 9), (0, 9)), SPLEEN: block((12, 18), (0, 9), (0, 9)), KIDNEY: block((15, 18), (15, 16), (0, 9))}
    questions = [question for question in choose_questions(masks, random.Random(0)) if question.naming]
    # The kidney's nine pixels are too few to be marked.
    assert {question.structure for question in questions} == {LIVER, SPLEEN} and len(questions) == 12
    assert all(question.present and masks[question.structure][question.level].any() for question in questions)


def test_presence_is_asked_as_often_where_it_is_as_where_it_is_not() -> None:
    masks = {LIVER: block((2, 18), (0, 9), (0, 9)), SPLEEN: block((12, 18), (0, 9), (0, 9)), KIDNEY: block((15, 18), (15, 16), (0, 9))}
    questions = [question for question in choose_questions(masks, random.Random(0)) if not question.naming]
    for structure, number in ((LIVER, 4), (SPLEEN, 6), (KIDNEY, 0)):
        own = [question for question in questions if question.structure == structure]
        assert [sum(question.present is said for question in own) for said in (True, False)] == [number, number]
        assert all((masks[structure][question.level].sum() > 0) == question.present for question in own)
    assert questions == [question for question in choose_questions(masks, random.Random(0)) if not question.naming]


def test_a_box_fits_by_its_overlap_and_counts_by_its_presence() -> None:
    region = block((0, 1), (10, 20), (10, 20))[0]
    boxes = [
        Localization(LIVER, 0.5, None, {0: (10.0, 10.0, 20.0, 20.0)}),
        Localization(SPLEEN, 1.0, None, {0: (15.0, 10.0, 25.0, 20.0)}),
        Localization(KIDNEY, 1.0, None, {7: (10.0, 10.0, 20.0, 20.0)}),
    ]
    assert box_fit(region, 0, boxes) == {LIVER: pytest.approx(0.5), SPLEEN: pytest.approx(1 / 3), KIDNEY: 0.0}


def test_evidence_fits_by_its_soft_overlap() -> None:
    region = block((0, 1), (10, 20), (10, 20))[0]
    other = block((0, 1), (10, 20), (15, 25))[0]
    fits = evidence_fit(region, {LIVER: 0.5 * region, SPLEEN: other.astype(float), KIDNEY: np.zeros(region.shape)})
    assert fits == {LIVER: pytest.approx(2 / 3), SPLEEN: pytest.approx(0.5), KIDNEY: 0.0}


def test_the_rule_takes_the_nearest_box() -> None:
    region = block((0, 1), (10, 20), (10, 20))[0]
    near, far = block((0, 1), (12, 22), (10, 20))[0], block((0, 1), (0, 5), (0, 5))[0]
    assert nearest_box(region, {LIVER: far, SPLEEN: near, KIDNEY: np.zeros_like(far)}) == "spleen"
    assert nearest_box(region, {LIVER: np.zeros_like(far)}) is None


def test_a_localizer_that_knows_all_answers_all(make_ellipsoids) -> None:
    reference, target = make_ellipsoids(), make_ellipsoids(scale=(1.1, 1.0, 1.0), seed=1)
    frame = canonical(target.volume)
    known = []
    for structure in reference.segmentation.structures:
        mask = target.segmentation.array(structure)
        boxes = {}
        for level in np.flatnonzero(mask.any(axis=(1, 2))).tolist():
            rows, columns = np.flatnonzero(mask[level].any(1)), np.flatnonzero(mask[level].any(0))
            boxes[level] = (float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1))
        known.append(Localization(structure, 1.0, None, boxes, prior=SoftMask(mask.astype(np.float32), (0, 0, 0), frame)))

    answers = answer(reference, target.volume, target.segmentation, known, "seed")

    asked = [one for one in answers if one.naming]
    assert len(asked) == 20 and all(one.name == one.named == one.named_by_box == one.named_by_evidence for one in asked)
    present = [one for one in answers if not one.naming]
    assert len(present) == 36 and all(one.said_present == one.present and one.named is None for one in present)
    # Bodies that differ by little in size are what the rule is good at.
    assert np.mean([one.named_by_rule == one.name for one in asked]) > 0.8
    blind = [Localization(one.structure, 0.0, None) for one in known]
    assert not any(one.said_present or one.named for one in answer(reference, target.volume, target.segmentation, blind, "seed"))


def test_rows_are_accuracies_beside_chance() -> None:
    answers = (
        Answered(3, "liver", True, True, "liver", "spleen", "liver", None),
        Answered(3, "spleen", True, True, "liver", "spleen", None, "spleen"),
        Answered(3, "liver", True, False, said_present=True, rule_present=False),
        Answered(4, "spleen", True, False, said_present=False, rule_present=True),
        Answered(5, "kidney", False, False, said_present=True, rule_present=False),
    )
    sheets = [Sheet("abdomen_ct", "00", "18", "weights", 4, answers)]
    assert naming_rows(sheets) == [["abdomen_ct", "1", "2", "0.500", "0.500", "0.500", "0.500", "0.250"]]
    assert presence_rows(sheets) == [["abdomen_ct", "1", "3", "0.333", "0.667", "0.667"]]


@pytest.mark.slow
def test_the_command_asks_every_target_once(tiny_data: Path, tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--suite", "vqa", "--domains", "bodies", "--limit", "1", "--model", str(tiny_model), "--device", "cpu"]
    command = ["benchmark", "--data", str(tiny_data), *options, "--output", str(tmp_path)]
    assert main(command) == 0
    lines = (tmp_path / "vqa.jsonl").read_text().splitlines()
    sheet = json.loads(lines[0])
    assert len(lines) == 1 and sheet["target"] == "x" and sheet["choices"] == 3 and len(sheet["answers"]) > 20
    assert "| bodies | 1 |" in (tmp_path / "vqa.md").read_text()
    assert "Nearest reference box" in capsys.readouterr().out

    assert main(command) == 0
    assert (tmp_path / "vqa.jsonl").read_text().splitlines() == lines
