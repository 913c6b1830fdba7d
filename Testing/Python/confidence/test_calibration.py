from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk

from RAUSlicerLib.confidence.calibration import Calibration, StructureEvidence, sharpness
from RAUSlicerLib.errors import ModelError
from RAUSlicerLib.imaging.overlap import dice
from RAUSlicerLib.results import SoftMask, Status

GOOD = StructureEvidence(round_trip_dice=0.9, presence=0.95, sharpness=0.9, inlier_ratio=0.9, similarity=0.9, volume_ratio=0.9)


@pytest.mark.parametrize(
    "name", ["round_trip_dice", "presence", "sharpness", "inlier_ratio", "similarity", "volume_ratio", "label_support"]
)
def test_less_of_any_evidence_means_less_confidence(name: str) -> None:
    worse = StructureEvidence(**{**vars(GOOD), name: 0.1})
    calibration = Calibration(weights=Calibration().weights | {"similarity": 1.0, "label_support": 1.0})
    assert 0 < calibration.confidence(worse) < calibration.confidence(GOOD) < 1


def test_confidence_is_the_logistic_of_the_weighted_evidence() -> None:
    calibration = Calibration(intercept=-1.0, weights={"round_trip_dice": 2.0})
    assert calibration.confidence(GOOD) == pytest.approx(1 / (1 + np.exp(1.0 - 1.8)))


@pytest.mark.parametrize(("similarity", "counts"), [(0.8, 0), (0.85, 0), (0.875, 0.25), (0.95, 1), (0.99, 1)])
def test_similarity_counts_between_that_of_strangers_and_that_of_two_people(similarity: float, counts: float) -> None:
    calibration = Calibration(intercept=-1.0, weights={"similarity": 2.0}, similar=(0.85, 0.95))
    assert calibration.in_common(similarity) == pytest.approx(counts)
    assert calibration.confidence(replace(GOOD, similarity=similarity)) == pytest.approx(1 / (1 + np.exp(1.0 - 2.0 * counts)))


@pytest.mark.parametrize(
    ("confidence", "voxels", "status"),
    [(0.9, 10, Status.FOUND), (0.4, 10, Status.LOW_CONFIDENCE), (0.1, 10, Status.NOT_FOUND), (0.9, 0, Status.NOT_FOUND)],
)
def test_status_follows_confidence_and_an_empty_structure_is_not_found(confidence: float, voxels: int, status: Status) -> None:
    assert Calibration(low=0.5, absent=0.2).status(confidence, voxels) is status


@pytest.mark.parametrize(("low", "absent"), [(0.5, 0.05), (0.3, 0.25), (0.9, 0.0)])
def test_what_is_doubted_is_of_low_confidence_and_never_taken_back(low: float, absent: float) -> None:
    calibration = Calibration(low=low, absent=absent)
    assert calibration.status(calibration.doubted(1.0), 10) is Status.LOW_CONFIDENCE
    weak = (low + 2 * absent) / 3
    assert calibration.doubted(weak) == weak


def test_sharpness_is_one_for_decided_and_none_for_empty_masks() -> None:
    image = sitk.Image(4, 4, 4, sitk.sitkUInt8)
    assert sharpness(SoftMask(np.ones((2, 2, 2)), (0, 0, 0), image)) == 1
    assert sharpness(SoftMask(np.full((2, 2, 2), 0.75), (0, 0, 0), image)) == 0.5
    assert sharpness(SoftMask(np.zeros((2, 2, 2)), (0, 0, 0), image)) == 0


def test_overlap_is_dice_and_none_of_nothing() -> None:
    a, b = np.array([True, True, False]), np.array([True, False, False])
    assert dice(a, b) == pytest.approx(2 / 3)
    assert dice(a & ~a, b & ~b) == 0


@pytest.mark.parametrize("values", [{"warmth": 0.5}, {"weights": {"smell": 1.0}}])
def test_a_calibration_of_another_version_is_refused_and_not_guessed(values: dict) -> None:
    with pytest.raises(ModelError, match=r"warmth|smell"):
        Calibration.from_dict(values)
    assert Calibration.from_dict({"intercept": -1.0, "weights": {"round_trip_dice": 2.0}}).intercept == -1.0
