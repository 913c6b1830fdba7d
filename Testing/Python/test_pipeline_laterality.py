"""What a run makes of a target that looks like a mirror image; how it finds out is tested with the matching."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk

from RAUSlicerLib.confidence.laterality import MIRRORED_WARNING, Laterality
from RAUSlicerLib.correction.edits import Correction
from RAUSlicerLib.imaging.frame import from_array
from RAUSlicerLib.imaging.segmentation import Reference
from RAUSlicerLib.pipeline import Pipeline
from RAUSlicerLib.progress import CancelToken, ProgressEvent
from RAUSlicerLib.results import Status

pytestmark = pytest.mark.usefixtures("coarse")

Says = Callable[[Laterality], list[CancelToken]]


@pytest.fixture
def says(monkeypatch: pytest.MonkeyPatch) -> Says:
    """says(verdict): from now on the check answers so; the list grows by one with every call."""

    def answer(verdict: Laterality) -> list[CancelToken]:
        calls: list[CancelToken] = []

        def check(_matcher: object, _reference: sitk.Image, _target: sitk.Image, cancel: CancelToken, **_: object) -> Laterality:
            calls.append(cancel)
            return verdict

        monkeypatch.setattr("RAUSlicerLib.confidence.assessment.compare_laterality", check)
        return calls

    return answer


def test_in_a_mirror_image_what_has_a_side_is_doubted_and_the_user_is_told(tiny_pipeline: Pipeline, case: Reference, says: Says) -> None:
    says(Laterality.AGREES)
    plain = tiny_pipeline.transfer(case, case.volume)
    assert set(plain.statuses.values()) == {Status.FOUND} and MIRRORED_WARNING not in plain.warnings

    calls = says(Laterality.MIRRORED)
    result = tiny_pipeline.transfer(case, case.volume)

    assert len(calls) == 1 and result.warnings == (*plain.warnings, MIRRORED_WARNING)
    assert result.statuses == {"body": Status.FOUND, "left organ": Status.LOW_CONFIDENCE, "right organ": Status.LOW_CONFIDENCE}
    assert result.confidences["body"] == plain.confidences["body"]
    assert all(result.confidences[name] < plain.confidences[name] for name in ("left organ", "right organ"))
    # Doubted, not taken back.
    np.testing.assert_array_equal(*(sitk.GetArrayFromImage(run.segmentation.labelmap) for run in (plain, result)))


def test_what_is_unknown_is_no_alarm(tiny_pipeline: Pipeline, case: Reference, says: Says) -> None:
    calls = says(Laterality.UNKNOWN)
    result = tiny_pipeline.transfer(case, case.volume)
    assert len(calls) == 1 and set(result.statuses.values()) == {Status.FOUND} and MIRRORED_WARNING not in result.warnings


def test_without_structures_that_have_a_side_nothing_is_compared(tiny_pipeline: Pipeline, case: Reference, says: Says) -> None:
    calls = says(Laterality.MIRRORED)
    body, left, right = case.segmentation.structures
    sideless = replace(case.segmentation, structures=(body, replace(left, name="spot"), replace(right, name="hole")))
    for reference, asked in ((Reference(case.volume, sideless), None), (case, ["body"])):
        result = tiny_pipeline.transfer(reference, case.volume, asked)
        assert not calls and MIRRORED_WARNING not in result.warnings
        assert set(result.statuses.values()) == {Status.FOUND}


def test_a_cancel_while_it_is_compared_keeps_everything_as_it_was_judged(
    tiny_pipeline: Pipeline, case: Reference, monkeypatch: pytest.MonkeyPatch
) -> None:
    cancel = CancelToken()
    begun = []

    def first_view(*_given: object) -> None:
        begun.append(True)
        cancel.cancel()

    # The true check, stopped before its first fit.
    monkeypatch.setattr("RAUSlicerLib.confidence.laterality.affordable_spacing", lambda *given: first_view() or 1.0)
    monkeypatch.setattr("RAUSlicerLib.confidence.laterality.correspond", lambda *given: pytest.fail("it was not stopped"))

    result = tiny_pipeline.transfer(case, case.volume, cancel=cancel)

    assert begun and result.cancelled and MIRRORED_WARNING not in result.warnings
    assert set(result.statuses.values()) == {Status.FOUND}
    assert all(result.segmentation.array(structure).any() for structure in case.segmentation.structures)


@pytest.mark.parametrize("stage", ["matching", "segmentation", "confidence"])
def test_after_a_cancel_nothing_is_compared(tiny_pipeline: Pipeline, case: Reference, says: Says, stage: str) -> None:
    calls = says(Laterality.MIRRORED)
    cancel = CancelToken()

    def watch(event: ProgressEvent) -> None:
        if event.stage == stage:
            cancel.cancel()

    result = tiny_pipeline.transfer(case, case.volume, progress=watch, cancel=cancel)

    assert result.cancelled and not calls and MIRRORED_WARNING not in result.warnings


def test_a_correction_does_not_make_the_side_certain(tiny_pipeline: Pipeline, case: Reference, says: Says) -> None:
    says(Laterality.MIRRORED)
    tiny_pipeline.transfer(case, case.volume, keep_mb=500)
    body, left, _ = case.segmentation.structures
    statuses = {}
    for structure in (left, body):
        mask = from_array(case.segmentation.array(structure).astype(np.uint8), case.volume)
        (result,) = tiny_pipeline.correct(Correction(structure.name, mask, ((2, 12),))).results
        statuses[structure.name] = result.status
    tiny_pipeline.forget()
    assert statuses == {"left organ": Status.LOW_CONFIDENCE, "body": Status.FOUND}
