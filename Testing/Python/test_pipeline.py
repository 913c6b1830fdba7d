"""The whole way: with tiny random networks, which match a volume to itself, and with the embedded weights on a part of the sample data."""

import gc
import threading
from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk

from RAUSlicerLib.errors import InputError
from RAUSlicerLib.imaging.grids import same_grid
from RAUSlicerLib.imaging.segmentation import Reference, Segmentation
from RAUSlicerLib.matching import demons
from RAUSlicerLib.matching.matcher import Match, Matcher
from RAUSlicerLib.pipeline import Pipeline, transfer
from RAUSlicerLib.progress import CancelToken, ProgressEvent
from RAUSlicerLib.rau.slices import MatchedCase
from RAUSlicerLib.results import Status, Transfer

pytestmark = pytest.mark.usefixtures("coarse")


def dice(first: np.ndarray, second: np.ndarray) -> float:
    return 2 * np.count_nonzero(first & second) / max(np.count_nonzero(first) + np.count_nonzero(second), 1)


@pytest.mark.parametrize("code", ["LPS", "RAS", "ASL", "PIR"])
def test_a_reoriented_copy_gets_its_own_labels_back(tiny_pipeline: Pipeline, case: Reference, code: str) -> None:
    target, truth = sitk.DICOMOrient(case.volume, code), sitk.DICOMOrient(case.segmentation.labelmap, code)

    result = tiny_pipeline.transfer(case, target)

    assert same_grid(result.segmentation.labelmap, target)
    assert result.segmentation.structures == case.segmentation.structures
    labels = sitk.GetArrayFromImage(truth)
    for structure in case.segmentation.structures:
        assert dice(result.segmentation.array(structure), labels == structure.label) > 0.9, structure.name
        assert result.statuses[structure.name] is Status.FOUND


@pytest.mark.parametrize("angles", [(0.2, -0.3, 0.25), (-0.1, 0.15, 0.6)])
def test_the_result_does_not_depend_on_where_and_how_the_scanner_was_tilted(tiny_pipeline: Pipeline, case: Reference, angles) -> None:
    plain = sitk.GetArrayFromImage(tiny_pipeline.transfer(case, case.volume).segmentation.labelmap)
    turn = sitk.Euler3DTransform()
    turn.SetRotation(*angles)
    target = sitk.Image(case.volume)
    target.SetDirection(turn.GetMatrix())
    target.SetOrigin((-61.7, 17.3, 245.9))

    result = tiny_pipeline.transfer(case, target)

    assert same_grid(result.segmentation.labelmap, target)
    found = sitk.GetArrayFromImage(result.segmentation.labelmap)
    assert np.mean((found == plain)[plain > 0]) > 0.99


@pytest.mark.parametrize("axis", range(3))
def test_tilts_on_two_sides_of_45_degrees_are_seen_as_alike(tiny_pipeline: Pipeline, case: Reference, axis: int) -> None:
    def tilted(image: sitk.Image, degrees: float) -> sitk.Image:
        turn = sitk.Euler3DTransform()
        turn.SetRotation(*(np.radians(degrees) * np.eye(3)[axis]).tolist())
        copy = sitk.Image(image)
        copy.SetDirection(turn.GetMatrix())
        return copy

    reference = Reference(tilted(case.volume, 41), case.segmentation.map_layers([tilted(case.segmentation.labelmap, 41)]))
    target = tilted(case.volume, 50)

    result = tiny_pipeline.transfer(reference, target)

    assert same_grid(result.segmentation.labelmap, target)
    for structure in case.segmentation.structures:
        assert dice(result.segmentation.array(structure), case.segmentation.array(structure)) > 0.9, structure.name


def test_one_slice_is_carried_over_to_one_slice(tiny_pipeline: Pipeline, case: Reference) -> None:
    flat = Reference(case.volume[:, :, 10:11], replace(case.segmentation, labelmap=case.segmentation.labelmap[:, :, 10:11]))
    result = tiny_pipeline.transfer(flat, flat.volume)
    for structure in flat.segmentation.structures:
        assert dice(result.segmentation.array(structure), flat.segmentation.array(structure)) > 0.9


def test_a_registration_can_say_where_to_look(tiny_pipeline: Pipeline, case: Reference) -> None:
    result = tiny_pipeline.transfer(case, case.volume, localizer="registration")
    assert result.localizer == "registration"
    for structure in case.segmentation.structures:
        assert dice(result.segmentation.array(structure), case.segmentation.array(structure)) > 0.8, structure.name


def test_structures_that_overlap_survive_in_their_layers(tiny_pipeline: Pipeline, case: Reference) -> None:
    body, left, right = case.segmentation.structures
    labels = sitk.GetArrayFromImage(case.segmentation.labelmap)
    layers = []
    for array in ((labels > 0).astype(np.uint8), np.where(labels > 1, labels, 0)):
        image = sitk.GetImageFromArray(array)
        image.CopyInformation(case.volume)
        layers.append(image)
    structures = (body, replace(left, layer=1), replace(right, layer=1))
    overlapping = Reference(case.volume, Segmentation(layers[0], structures, (layers[1],)))

    result = tiny_pipeline.transfer(overlapping, case.volume)

    assert len(result.segmentation.layers) == 2
    for structure in structures:
        assert dice(result.segmentation.array(structure), overlapping.segmentation.array(structure)) > 0.9


def test_a_dark_structure_inside_the_body_is_found(tiny_pipeline: Pipeline, case: Reference) -> None:
    """As lungs in CT, or ventricles: darker than what counts as air."""
    values = sitk.GetArrayFromImage(case.volume)
    left = case.segmentation.structures[1]
    values[case.segmentation.array(left)] = 0
    volume = sitk.GetImageFromArray(values)
    volume.CopyInformation(case.volume)
    reference = Reference(volume, case.segmentation)
    result = tiny_pipeline.transfer(reference, volume)
    assert dice(result.segmentation.array(left), case.segmentation.array(left)) > 0.8


def renumbered(case: Reference) -> Reference:
    """The same case as another site would label it: other values, other order, and without the last structure."""
    body, left, _ = case.segmentation.structures
    labelmap = sitk.ChangeLabel(case.segmentation.labelmap, {1: 9, 2: 1, 3: 0})
    return Reference(case.volume, Segmentation(labelmap, (replace(left, label=1), replace(body, label=9))))


def test_references_agree_by_name_and_one_may_lack_a_structure(tiny_pipeline: Pipeline, case: Reference) -> None:
    result = tiny_pipeline.transfer([case, renumbered(case)], case.volume)
    for structure in case.segmentation.structures:
        assert dice(result.segmentation.array(structure), case.segmentation.array(structure)) > 0.9, structure.name
        assert result.statuses[structure.name] is Status.FOUND


def test_structures_are_chosen_by_name_and_keep_their_values(tiny_pipeline: Pipeline, case: Reference) -> None:
    result = tiny_pipeline.transfer(case, case.volume, [" Right ORGAN "])
    assert [structure.name for structure in result.segmentation.structures] == ["right organ"]
    assert set(np.unique(sitk.GetArrayFromImage(result.segmentation.labelmap))) == {0, 3}


def test_the_order_in_which_structures_are_listed_changes_nothing(tiny_pipeline: Pipeline, case: Reference) -> None:
    turned = replace(case.segmentation, structures=case.segmentation.structures[::-1])
    first = tiny_pipeline.transfer(case, case.volume)
    second = tiny_pipeline.transfer(Reference(case.volume, turned), case.volume)
    np.testing.assert_array_equal(*(sitk.GetArrayFromImage(r.segmentation.labelmap) for r in (first, second)))
    for name, confidence in first.confidences.items():
        assert second.confidences[name] == pytest.approx(confidence, abs=1e-4)


def cancelled_at(pipeline: Pipeline, case: Reference, stage: str) -> tuple[Transfer, list[ProgressEvent]]:
    cancel, events = CancelToken(), []

    def watch(event: ProgressEvent) -> None:
        events.append(event)
        if event.stage == stage and (stage != "segmentation" or event.structure):
            cancel.cancel()

    return pipeline.transfer(case, case.volume, progress=watch, cancel=cancel), events


@pytest.mark.parametrize("stage", ["matching", "localization"])
def test_a_cancel_before_anything_is_finished_gives_an_empty_result_on_the_grid(
    tiny_pipeline: Pipeline, case: Reference, stage: str
) -> None:
    result, events = cancelled_at(tiny_pipeline, case, stage)
    assert result.cancelled and result.results == ()
    assert same_grid(result.segmentation.labelmap, case.volume)
    assert not sitk.GetArrayViewFromImage(result.segmentation.labelmap).any()
    # Nothing is computed after it only to be thrown away.
    stages = [event.stage for event in events]
    assert "segmentation" not in stages and "matching" not in stages[stages.index(stage) + stages.count(stage) :]


def test_a_cancel_keeps_the_structures_that_are_finished(tiny_pipeline: Pipeline, case: Reference) -> None:
    whole = tiny_pipeline.transfer(case, case.volume)
    result, _ = cancelled_at(tiny_pipeline, case, "segmentation")
    assert result.cancelled
    np.testing.assert_array_equal(*(sitk.GetArrayFromImage(r.segmentation.labelmap) for r in (whole, result)))
    # Without the reverse pass nobody knows how good they are.
    assert set(result.statuses.values()) == {Status.LOW_CONFIDENCE}


def test_a_cancel_while_the_reference_is_matched_back_stops_it_and_keeps_everything(
    tiny_pipeline: Pipeline, case: Reference, monkeypatch: pytest.MonkeyPatch
) -> None:
    cancel, iterations = CancelToken(), []
    match_back, step = Matcher.reversed_field, demons._steps

    def cancelled_first(matcher, match, token):
        token.cancel()
        iterations.clear()
        return match_back(matcher, match, token)

    def counted(*given):
        iterations.append(1)
        return step(*given)

    monkeypatch.setattr(Matcher, "reversed_field", cancelled_first)
    monkeypatch.setattr(demons, "_steps", counted)

    result = tiny_pipeline.transfer(case, case.volume, cancel=cancel)

    assert iterations == []
    assert result.cancelled and set(result.statuses.values()) == {Status.LOW_CONFIDENCE}
    assert all(result.segmentation.array(structure).any() for structure in case.segmentation.structures)


def test_a_cancel_while_structures_are_carried_back_is_answered_at_once_and_keeps_everything(
    tiny_pipeline: Pipeline, case: Reference, monkeypatch: pytest.MonkeyPatch
) -> None:
    cancel, started, release = CancelToken(), threading.Event(), threading.Event()

    def endless(*there):
        started.set()
        cancel.cancel()
        release.wait(600)

    monkeypatch.setattr("RAUSlicerLib.confidence.assessment.round_trip_dice", endless)

    result = tiny_pipeline.transfer(case, case.volume, cancel=cancel)

    assert started.is_set() and not release.is_set()
    release.set()
    assert result.cancelled and set(result.statuses.values()) == {Status.LOW_CONFIDENCE}
    assert all(result.segmentation.array(structure).any() for structure in case.segmentation.structures)


def test_an_economical_run_matches_on_fewer_voxels_and_finds_the_same(
    tiny_pipeline: Pipeline, case: Reference, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiny_pipeline.matcher, "settings", replace(tiny_pipeline.matcher.settings, most_voxels=40_000))
    sizes = []
    for economy in (0, 1):
        result = tiny_pipeline.transfer(case, case.volume, ["left organ"], keep_mb=500, economy=economy)
        sizes.append(tiny_pipeline.state.case.matches[0].target_view.grid.GetNumberOfPixels())
        assert (
            dice(result.segmentation.array(result.segmentation.structures[0]), case.segmentation.array(case.segmentation.structures[1]))
            > 0.7
        )
    tiny_pipeline.forget()
    assert sizes[1] < 0.5 * sizes[0]


def test_an_error_on_the_way_back_is_not_swallowed(tiny_pipeline: Pipeline, case: Reference, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*there):
        raise MemoryError("no more")

    monkeypatch.setattr("RAUSlicerLib.confidence.assessment.round_trip_dice", fails)
    with pytest.raises(MemoryError):
        tiny_pipeline.transfer(case, case.volume)


def test_progress_goes_forward_to_the_end(tiny_pipeline: Pipeline, case: Reference) -> None:
    events: list[ProgressEvent] = []
    tiny_pipeline.transfer(case, case.volume, progress=events.append)
    fractions = [event.fraction for event in events]
    assert fractions == sorted(fractions) and fractions[0] >= 0 and fractions[-1] == 1
    assert {event.structure for event in events} >= {"body", "left organ", "right organ"}


def test_unknown_localizer_and_structure_are_refused(tiny_pipeline: Pipeline, case: Reference) -> None:
    with pytest.raises(InputError, match="'compass'"):
        tiny_pipeline.transfer(case, case.volume, localizer="compass")
    with pytest.raises(InputError, match="'spleen'"):
        tiny_pipeline.transfer(case, case.volume, ["spleen"])


def test_transfer_takes_a_loaded_pipeline_or_opens_the_model_for_the_call(tiny_pipeline: Pipeline, tiny_model, case: Reference) -> None:
    kept = transfer(case, case.volume, ["left organ"], pipeline=tiny_pipeline)
    opened = transfer(case, case.volume, ["left organ"], model=str(tiny_model), device="cpu")
    assert kept.model == opened.model == "tiny"
    np.testing.assert_array_equal(*(sitk.GetArrayFromImage(r.segmentation.labelmap) for r in (kept, opened)))


def test_a_run_leaves_nothing_of_the_patient_behind(tiny_pipeline: Pipeline, case: Reference) -> None:
    tiny_pipeline.transfer(case, case.volume, ["left organ"])
    gc.collect()
    assert tiny_pipeline.state is None and not [one for one in gc.get_objects() if type(one) in (Match, MatchedCase)]


def test_structures_of_one_name_have_their_own_confidence(tiny_pipeline: Pipeline, case: Reference) -> None:
    body, left, right = case.segmentation.structures
    shared = replace(case.segmentation, structures=(body, replace(left, name="organ"), replace(right, name="organ")))
    result = tiny_pipeline.transfer(Reference(case.volume, shared), case.volume)
    assert list(result.confidences) == list(result.statuses) == ["body", "organ (label 2)", "organ (label 3)"]
