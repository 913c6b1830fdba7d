"""Which pairs the confidence is fitted on, what is done to their targets, and what the fit makes of evidence."""

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from RAUSlicerLib.confidence.calibration import Calibration, StructureEvidence
from RAUSlicerLib.imaging.frame import from_array
from RAUSlicerLib.imaging.segmentation import Reference, Segmentation, Structure
from RAUSlicerLib.training.calibration import Pair, changed_target, fit, held_out, pairs
from RAUSlicerLib.training.datasets import Datasets, parse
from RAUSlicerLib.training.settings import CalibrationTraining


@pytest.fixture
def sets(tmp_path: Path) -> Datasets:
    """Two data sets, of which one has an organ that operations take out, and one of a single person."""
    names = {"belly": {1: "liver", 2: "spleen"}, "head": {1: "thalamus"}}
    entries = {name: {"train": [f"{name}{n}" for n in range(4)], "val": ["other"], "names": names[name]} for name in names}
    return parse({"datasets": {**entries, "alone": {"train": ["one"]}}}, Path("sets.yaml"), tmp_path)


def test_right_wrong_and_changed_pairs_are_drawn_as_often_as_asked_and_never_from_val(sets: Datasets) -> None:
    asked = CalibrationTraining(pairs=2, wrong=4, changed=4)
    drawn = list(pairs(sets, asked, seed=3))
    right = [pair for pair in drawn if not pair.wrong and pair.change == "natural"]
    assert [(pair.source, pair.domain) for pair in right] == [("belly", "belly")] * 2 + [("head", "head")] * 2
    assert [(pair.source, pair.domain) for pair in drawn if pair.wrong] == [("belly", "head"), ("head", "belly")] * 2
    changed = [pair for pair in drawn if pair.change != "natural"]
    changes = {domain: [pair.change for pair in changed if pair.domain == domain] for domain in ("belly", "head")}
    assert changes == {"belly": ["half", "mirrored", "operated", "operated"], "head": ["half", "mirrored"] * 2}
    assert all(pair.reference != pair.target and "other" not in (pair.reference, pair.target) for pair in drawn)
    assert drawn == list(pairs(sets, asked, seed=3))


def test_an_operation_takes_out_organs_and_leaves_the_others() -> None:
    labels = np.zeros((12, 16, 16), np.uint8)
    labels[3:9, 3:9, 2:7], labels[3:9, 3:9, 9:13] = 1, 2
    values = np.where(labels > 0, 100.0 * labels, 20.0).astype(np.float32)
    volume = sitk.GetImageFromArray(values)
    case = Reference(volume, Segmentation(from_array(labels, volume), (Structure(1, "liver"), Structure(2, "spleen"))))

    operated = changed_target(Pair("belly", "a", "belly", "b", "operated"), case)

    assert [structure.name for structure in operated.segmentation.structures] == ["liver"]
    found, after = sitk.GetArrayFromImage(operated.segmentation.labelmap), sitk.GetArrayFromImage(operated.volume)
    np.testing.assert_array_equal(found, np.where(labels == 2, 0, labels))
    assert after[labels == 2].max() < 100 < 200 == values[labels == 2].min()
    np.testing.assert_array_equal(after[labels == 1], values[labels == 1])
    assert changed_target(Pair("belly", "a", "belly", "b"), case) is case
    # Some were operated on before.
    again = changed_target(Pair("belly", "a", "belly", "b", "operated"), operated)
    assert again.segmentation.structures == operated.segmentation.structures
    np.testing.assert_array_equal(sitk.GetArrayFromImage(again.volume), after)


def test_the_fit_trusts_what_goes_with_dice_and_rather_claims_too_little() -> None:
    rng = np.random.default_rng(0)
    back, noise = rng.random(400), rng.random(400)
    dice = np.clip(back + rng.normal(0, 0.2, 400), 0, 1)
    same = {"presence": 0.9, "sharpness": 0.8, "inlier_ratio": 0.5, "similarity": 0.95, "label_support": 0.5}
    rows = [{"dice": d, "round_trip_dice": b, "volume_ratio": s, **same} for d, b, s in zip(dice, back, noise, strict=True)]

    calibration = Calibration(**fit(rows))

    assert calibration.weights["round_trip_dice"] > 5 * calibration.weights["volume_ratio"]
    said = np.array([calibration.confidence(StructureEvidence(b, 0.9, 0.8, 0.5, 0.95, s)) for b, s in zip(back, noise, strict=True)])
    assert np.corrcoef(said, dice)[0, 1] > 0.8
    assert -0.1 < float((said - dice).mean()) < -0.01


def test_a_pair_that_is_held_out_has_no_part_in_what_is_said_of_it() -> None:
    same = {"presence": 0.9, "sharpness": 0.8, "inlier_ratio": 0.5, "similarity": 0.95, "volume_ratio": 0.5, "label_support": 0.5}
    rows = [{"pair": [str(number % 4)], "dice": number / 40, "round_trip_dice": number / 40, **same} for number in range(40)]
    plain = held_out(rows)
    spoilt = held_out([row | {"dice": 1.0 - row["dice"]} if row["pair"] == ["2"] else row for row in rows])
    theirs = np.array([row["pair"] == ["2"] for row in rows])
    np.testing.assert_array_equal(plain[theirs], spoilt[theirs])
    assert (plain[~theirs] != spoilt[~theirs]).all()
