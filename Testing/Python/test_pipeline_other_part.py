"""What a run makes of a target that looks like another part of the body than the reference."""

from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk

from RAUSlicerLib.confidence.scoring import OTHER_PART_WARNING
from RAUSlicerLib.correction.edits import Correction
from RAUSlicerLib.imaging.frame import from_array
from RAUSlicerLib.imaging.segmentation import Reference
from RAUSlicerLib.matching.matcher import Match
from RAUSlicerLib.pipeline import Pipeline
from RAUSlicerLib.results import Status, Transfer

pytestmark = pytest.mark.usefixtures("coarse")


@pytest.fixture
def plain(tiny_pipeline: Pipeline, case: Reference) -> Transfer:
    return tiny_pipeline.transfer(case, case.volume)


@pytest.fixture
def wary(tiny_pipeline: Pipeline, plain: Transfer, monkeypatch: pytest.MonkeyPatch) -> Pipeline:
    """A pipeline to which a volume is not even alike itself. No side is compared in it."""
    calibration = replace(tiny_pipeline.model.calibration, other_body_part=1.1)
    monkeypatch.setattr(tiny_pipeline, "model", replace(tiny_pipeline.model, calibration=calibration))
    monkeypatch.setattr(
        "RAUSlicerLib.confidence.assessment.compare_laterality", lambda *given, **named: pytest.fail("sides say nothing here")
    )
    return tiny_pipeline


def test_every_structure_is_doubted_and_the_user_is_told(wary: Pipeline, plain: Transfer, case: Reference) -> None:
    assert set(plain.statuses.values()) == {Status.FOUND} and OTHER_PART_WARNING not in plain.warnings

    result = wary.transfer(case, case.volume)

    assert result.warnings == (*plain.warnings, OTHER_PART_WARNING)
    assert set(result.statuses.values()) == {Status.LOW_CONFIDENCE}
    assert all(result.confidences[name] < plain.confidences[name] for name in plain.confidences)
    # Doubted, not taken back.
    np.testing.assert_array_equal(*(sitk.GetArrayFromImage(run.segmentation.labelmap) for run in (plain, result)))


def test_one_reference_of_the_same_part_is_enough(wary: Pipeline, case: Reference, monkeypatch: pytest.MonkeyPatch) -> None:
    given = iter((0.2, 0.9))
    match = wary.matcher.match

    def matched(*arguments: object) -> Match:
        found = match(*arguments)  # type: ignore[arg-type]
        assert found is not None
        return replace(found, similarity=next(given))

    monkeypatch.setattr(wary.matcher, "match", matched)
    calibration = replace(wary.model.calibration, other_body_part=0.5)
    monkeypatch.setattr(wary, "model", replace(wary.model, calibration=calibration))
    monkeypatch.setattr("RAUSlicerLib.confidence.assessment.compare_laterality", lambda *given, **named: None)
    result = wary.transfer([case, case], case.volume)
    assert OTHER_PART_WARNING not in result.warnings and set(result.statuses.values()) == {Status.FOUND}
    assert list(given) == []


def test_a_correction_does_not_make_it_the_right_part(wary: Pipeline, case: Reference) -> None:
    wary.transfer(case, case.volume, keep_mb=500)
    mask = from_array(case.segmentation.array(case.segmentation.structures[0]).astype(np.uint8), case.volume)
    (corrected,) = wary.correct(Correction("body", mask, ((2, 12),))).results
    wary.forget()
    assert corrected.status is Status.LOW_CONFIDENCE


@pytest.mark.parametrize(("similarity", "other_part"), [(0.5, False), (0.499, True)])
def test_the_least_similarity_is_part_of_the_calibration(tiny_pipeline: Pipeline, similarity: float, other_part: bool) -> None:
    assert replace(tiny_pipeline.model.calibration, other_body_part=0.5).is_other_body_part(similarity) is other_part
    assert not tiny_pipeline.model.calibration.is_other_body_part(similarity)
