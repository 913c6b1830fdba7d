"""Corrections: exactness on every axis and orientation, and what a change does to the rest; the tiny networks answer with their prior."""

from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk

from RAUSlicerLib.correction.edits import Correction, Painted, check_correction, painted
from RAUSlicerLib.correction.interpolation import EditExtent, edit_extent, propagate_edits
from RAUSlicerLib.errors import InputError
from RAUSlicerLib.imaging.frame import canonical, opened_together, stored_like
from RAUSlicerLib.imaging.grids import same_grid
from RAUSlicerLib.imaging.segmentation import Reference
from RAUSlicerLib.pipeline import Pipeline
from RAUSlicerLib.progress import CancelToken
from RAUSlicerLib.results import SoftMask, Status

pytestmark = pytest.mark.usefixtures("coarse")


@pytest.fixture(scope="module")
def kept() -> dict:
    """Runs that were made once for all tests."""
    return {}


@pytest.fixture
def warm(tiny_pipeline: Pipeline, kept: dict):
    """warm(reference, target, key): the pipeline as it is after a transfer that it keeps; a run of the same key is made once."""

    def run(reference: Reference, target: sitk.Image, key: str = "plain") -> Pipeline:
        if key not in kept:
            transfer = tiny_pipeline.transfer(reference, target, keep_mb=500)
            assert tiny_pipeline.state is not None
            kept[key] = (tiny_pipeline.state, transfer)
        state, _ = kept[key]
        # Tests change what was found.
        tiny_pipeline.state = replace(state, found=dict(state.found), masks=dict(state.masks))
        return tiny_pipeline

    yield run
    tiny_pipeline.forget()


def dice(first: np.ndarray, second: np.ndarray) -> float:
    return 2 * np.count_nonzero(first & second) / max(np.count_nonzero(first) + np.count_nonzero(second), 1)


def image_of(values: np.ndarray, grid: sitk.Image) -> sitk.Image:
    image = sitk.GetImageFromArray(values.astype(np.uint8))
    image.CopyInformation(grid)
    return image


def scribbled(size: tuple[int, ...], seed: int = 3) -> np.ndarray:
    """A mask like no anatomy: no smoothing, resampling or speck filter would leave it as it is."""
    return np.random.default_rng(seed).random(size) < 0.4


@pytest.mark.parametrize("axis", range(3))
def test_painted_planes_lie_in_the_frame_that_was_chosen_for_the_target(case: Reference, axis: int) -> None:
    targets = []
    for degrees in (49, 41):
        turn = sitk.Euler3DTransform()
        turn.SetRotation(*(np.radians(degrees) * np.eye(3)[axis]).tolist())
        targets.append(sitk.Image(case.volume))
        targets[-1].SetDirection(turn.GetMatrix())
    target = opened_together(targets)[0]
    mask = scribbled(target.GetSize()[::-1])
    planes = ((0, 3), (1, 20), (2, 7))

    found = painted(check_correction(Correction("body", image_of(mask, target), planes), target), target)

    assert not same_grid(canonical(target), canonical(targets[0]))
    back = stored_like(image_of(found.truth, canonical(target)), target)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(back) > 0, mask)
    for (stored, index), (plane, level) in zip(planes, found.planes, strict=True):
        np.testing.assert_array_equal(np.take(found.truth, level, plane).sum(), np.take(mask, index, 2 - stored).sum())


@pytest.mark.parametrize("code", ["LPS", "RAS", "ASL", "PIR"])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_painted_slices_come_back_voxel_by_voxel_in_every_orientation(warm, case: Reference, code: str, axis: int) -> None:
    target = sitk.DICOMOrient(case.volume, code)
    turn = sitk.Euler3DTransform((0, 0, 0), 0.2, -0.1, 0.15)
    tilted = (np.reshape(turn.GetMatrix(), (3, 3)) @ np.reshape(target.GetDirection(), (3, 3))).ravel().tolist()
    target.SetDirection(tilted)
    painting = scribbled(target.GetSize()[::-1])
    index = target.GetSize()[axis] // 2 + 1

    pipeline = warm(case, target, code)
    result = pipeline.correct(Correction("left organ", image_of(painting, target), ((axis, index), (axis, index - 5))))

    (structure,) = result.segmentation.structures
    assert same_grid(result.segmentation.labelmap, target)
    assert (structure.name, structure.label) == ("left organ", 2)
    for plane in (index, index - 5):
        found = np.take(result.segmentation.array(structure), plane, 2 - axis)
        np.testing.assert_array_equal(found, np.take(painting, plane, 2 - axis))
    # Only the planes are the user's: what lies between them is not the scribble.
    assert dice(np.take(result.segmentation.array(structure), index - 2, 2 - axis), np.take(painting, index - 2, 2 - axis)) < 0.6


def test_planes_along_three_axes_hold_at_once(warm, case: Reference) -> None:
    painting = scribbled(case.volume.GetSize()[::-1])
    slices = ((0, 20), (1, 23), (2, 9), (2, 11))

    result = warm(case, case.volume).correct(Correction("left organ", image_of(painting, case.volume), slices))

    found = result.segmentation.array(result.segmentation.structures[0])
    for axis, index in slices:
        np.testing.assert_array_equal(np.take(found, index, 2 - axis), np.take(painting, index, 2 - axis))


def test_a_change_goes_on_to_the_neighbours_and_fades(warm, kept: dict, case: Reference) -> None:
    left = case.segmentation.structures[1]
    painting = np.roll(case.segmentation.array(left), 3, axis=1)
    level = 10

    pipeline = warm(case, case.volume)
    first = kept["plain"][1].segmentation
    before = first.array(next(structure for structure in first.structures if structure.name == left.name))
    result = pipeline.correct(Correction("left organ", image_of(painting, case.volume), ((2, level),)))

    after = result.segmentation.array(left)
    # The neighbour has gone the user's way, who has moved a slice by 3 rows; a far slice has gone less than half of it.
    assert dice(after[level + 1], painting[level + 1]) > dice(before[level + 1], painting[level + 1]) + 0.05
    far = int(np.flatnonzero(before.any((1, 2)))[0])
    near, away = (np.argwhere(after[z])[:, 0].mean() - np.argwhere(before[z])[:, 0].mean() for z in (level + 1, far))
    assert 1 < near < 3.5 and abs(away) < min(near, 1.5)


def test_a_slice_painted_as_it_was_changes_nothing(warm, kept: dict, case: Reference) -> None:
    pipeline = warm(case, case.volume)
    first = kept["plain"][-1]
    left = first.segmentation.structures[1]
    before = first.segmentation.array(left)

    result = pipeline.correct(Correction("left organ", image_of(before, case.volume), ((2, 9),)))

    assert dice(result.segmentation.array(left), before) > 0.97


def test_an_empty_slice_takes_the_structure_away_there(warm, case: Reference) -> None:
    before = case.segmentation.array(case.segmentation.structures[1])
    painting = before.copy()
    painting[9] = False

    result = warm(case, case.volume).correct(Correction("left organ", image_of(painting, case.volume), ((2, 9),)))

    assert not result.segmentation.array(case.segmentation.structures[1])[9].any()


def test_a_small_island_that_the_user_has_painted_is_no_speck(warm, case: Reference) -> None:
    left = case.segmentation.structures[1]
    painting = case.segmentation.array(left).copy()
    painting[9, 3:6, 3:6] = True

    result = warm(case, case.volume).correct(Correction("left organ", image_of(painting, case.volume), ((2, 9),)))

    assert result.segmentation.array(left)[9, 3:6, 3:6].all()


def test_a_structure_that_was_not_found_is_painted_into_being(warm, case: Reference, monkeypatch) -> None:
    pipeline = warm(case, case.volume)
    left = case.segmentation.structures[1]
    pipeline.state.found[left] = replace(pipeline.state.found[left], presence=0.0, box_mm=None, prior=None, prompts={})
    del pipeline.state.masks[left]
    painting = case.segmentation.array(left)

    result = pipeline.correct(Correction("left organ", image_of(painting, case.volume), ((2, 8), (2, 11))))

    assert result.results[0].status is not Status.NOT_FOUND
    # Two slices are enough to have it between them.
    assert dice(result.segmentation.array(left)[9:11], painting[9:11]) > 0.8


def test_a_moved_box_takes_the_structure_along(warm, kept: dict, case: Reference) -> None:
    pipeline = warm(case, case.volume)
    left = case.segmentation.structures[1]
    first = kept["plain"][-1]
    low, high = first.results[1].localization.box_mm
    # Where the body competes for the voxels, the structure must win by being more likely: it is moved out of the body's reach here.
    del pipeline.state.masks[case.segmentation.structures[0]]
    step = 2 * 2.4
    moved = tuple(tuple(value + (step if axis == 1 else 0.0) for axis, value in enumerate(corner)) for corner in (low, high))

    result = pipeline.correct(Correction("left organ", box_mm=moved))

    expected = np.roll(first.segmentation.array(left), 2, axis=1)
    assert dice(result.segmentation.array(left), expected) > dice(first.segmentation.array(left), expected) + 0.05
    assert result.results[0].localization.box_mm == moved


def test_a_smaller_box_cuts(warm, case: Reference) -> None:
    pipeline = warm(case, case.volume)
    left = case.segmentation.structures[1]
    (x0, y0, z0), (x1, y1, z1) = pipeline.state.found[left].box_mm
    middle = (z0 + z1) / 2

    result = pipeline.correct(Correction("left organ", box_mm=((x0, y0, z0), (x1, y1, middle))))

    levels = np.flatnonzero(result.segmentation.array(left).any((1, 2)))
    heights = [case.volume.TransformIndexToPhysicalPoint((0, 0, int(level)))[2] for level in levels]
    assert len(levels) and max(heights) <= middle


def test_a_box_brings_back_a_structure_that_was_not_found(warm, case: Reference) -> None:
    pipeline = warm(case, case.volume)
    left = case.segmentation.structures[1]
    box = pipeline.state.found[left].box_mm
    pipeline.state.found[left] = replace(pipeline.state.found[left], presence=0.0, box_mm=None, prior=None, prompts={})
    del pipeline.state.masks[left]
    pipeline.state.masks.clear()

    result = pipeline.correct(Correction("left organ", box_mm=box))

    assert dice(result.segmentation.array(left), case.segmentation.array(left)) > 0.6


def test_without_a_kept_run_it_matches_again(tiny_pipeline: Pipeline, case: Reference) -> None:
    tiny_pipeline.forget()
    painting = np.roll(case.segmentation.array(case.segmentation.structures[1]), 2, axis=1)
    correction = Correction("left organ", image_of(painting, case.volume), ((2, 9),))
    with pytest.raises(InputError, match="no run"):
        tiny_pipeline.correct(correction)

    result = tiny_pipeline.correct(correction, case, case.volume, keep_mb=0)

    np.testing.assert_array_equal(result.segmentation.array(result.segmentation.structures[0])[9], painting[9])
    assert "first pass" in result.timings
    assert tiny_pipeline.state is None


def test_a_run_that_takes_too_much_memory_is_not_kept(tiny_pipeline: Pipeline, case: Reference) -> None:
    tiny_pipeline.transfer(case, case.volume, keep_mb=0.01)
    assert tiny_pipeline.state is None


def test_a_structure_that_was_judged_lost_claims_no_voxels_from_its_neighbours(
    tiny_pipeline: Pipeline, case: Reference, monkeypatch
) -> None:
    surer = replace(tiny_pipeline.model.calibration, absent=1.1)
    monkeypatch.setattr(tiny_pipeline, "model", replace(tiny_pipeline.model, calibration=surer))
    transfer = tiny_pipeline.transfer(case, case.volume, keep_mb=500)
    assert set(transfer.statuses.values()) == {Status.NOT_FOUND}
    assert tiny_pipeline.state.masks == {} and len(tiny_pipeline.state.found) == 3
    tiny_pipeline.forget()


def test_a_cancelled_correction_changes_nothing(warm, case: Reference) -> None:
    pipeline = warm(case, case.volume)
    cancel = CancelToken()
    cancel.cancel()
    painting = scribbled(case.volume.GetSize()[::-1])
    masks = dict(pipeline.state.masks)

    result = pipeline.correct(Correction("left organ", image_of(painting, case.volume), ((2, 9),)), cancel=cancel)

    assert result.cancelled and result.results == ()
    assert same_grid(result.segmentation.labelmap, case.volume)
    assert all(pipeline.state.masks[structure] is mask for structure, mask in masks.items())


def test_painting_raises_the_confidence_and_the_evidence_is_shown(warm, case: Reference) -> None:
    pipeline = warm(case, case.volume)
    truth = case.segmentation.array(case.segmentation.structures[1])
    levels = np.flatnonzero(truth.any((1, 2)))
    few, many = (
        pipeline.correct(Correction("left organ", image_of(truth, case.volume), tuple((2, int(level)) for level in chosen))).results[0]
        for chosen in (levels[4:5], levels)
    )
    assert few.confidence < many.confidence
    assert many.confidence == pytest.approx(1.0)
    assert many.evidence["round_trip_dice"] > 0.5


@pytest.mark.parametrize(
    ("correction", "problem"),
    [
        (Correction("left organ"), "Nothing of 'left organ' was changed"),
        (Correction("left organ", None, ((2, 3),)), "not on the target's grid"),
        (Correction("left organ", sitk.Image(4, 4, 4, sitk.sitkUInt8), ((2, 3),)), "not on the target's grid"),
        (Correction("left organ", box_mm=((0, 0, float("nan")), (1, 1, 1))), "holds nothing"),
        (Correction("left organ", box_mm=((0, 0, 5), (1, 1, 5))), "holds nothing"),
    ],
)
def test_what_is_no_correction_is_refused(case: Reference, correction: Correction, problem: str) -> None:
    with pytest.raises(InputError, match=problem):
        check_correction(correction, case.volume)


@pytest.mark.parametrize("plane", [(3, 0), (2, 20), (0, -1)])
def test_a_slice_that_does_not_exist_is_refused(case: Reference, plane: tuple[int, int]) -> None:
    with pytest.raises(InputError, match="no slice"):
        check_correction(Correction("left organ", case.segmentation.labelmap, (plane,)), case.volume)


def test_the_structure_is_named_by_id_where_names_are_shared(warm, case: Reference) -> None:
    body, left, right = case.segmentation.structures
    twins = replace(case.segmentation, structures=(body, replace(left, name="organ", id="a"), replace(right, name="organ", id="b")))
    pipeline = warm(Reference(case.volume, twins), case.volume, "twins")
    mask = image_of(case.segmentation.array(right), case.volume)
    with pytest.raises(InputError, match="Several structures"):
        pipeline.correct(Correction("organ", mask, ((2, 9),)))
    with pytest.raises(InputError, match="'spleen'"):
        pipeline.correct(Correction("spleen", mask, ((2, 9),)))

    result = pipeline.correct(Correction("b", mask, ((2, 9),)))

    assert result.segmentation.structures[0].label == right.label


@pytest.mark.parametrize("code", ["LPS", "RAS", "ASL", "PIR"])
def test_planes_are_found_in_the_canonical_frame(case: Reference, code: str) -> None:
    target = sitk.DICOMOrient(case.volume, code)
    mask = image_of(scribbled(target.GetSize()[::-1]), target)
    for axis in range(3):
        plane = painted(Correction("x", mask, ((axis, 4),)), target)
        own = np.take(sitk.GetArrayFromImage(mask), 4, 2 - axis)
        (axis_there, index), truth = plane.planes[0], sitk.GetArrayFromImage(canonical(mask)) > 0
        assert np.take(truth, index, axis_there).sum() == own.sum()
        marked = np.zeros(target.GetSize()[::-1], np.uint8)
        np.moveaxis(marked, 2 - axis, 0)[4] = 1
        there = sitk.GetArrayFromImage(canonical(image_of(marked, target)))
        assert np.take(there, index, axis_there).all() and there.sum() == marked.sum()


def ball(size: int, radius: float, shift: float = 0.0) -> np.ndarray:
    z, y, x = np.mgrid[:size, :size, :size] - (size - 1) / 2
    return z**2 + (y - shift) ** 2 + x**2 < radius**2


def test_several_planes_are_all_met() -> None:
    grid = sitk.Image(40, 40, 40, sitk.sitkUInt8)
    before, truth = ball(40, 11), ball(40, 11, 4)
    mask = SoftMask(before.astype(np.float32), (0, 0, 0), grid)
    planes = ((0, 17), (0, 20), (0, 24))

    after = propagate_edits(mask, Painted(truth, planes), grid, EditExtent(10.0, 8.0)).spread(grid) > 0.5

    for axis, index in planes:
        assert dice(np.take(after, index, axis), np.take(truth, index, axis)) > 0.95
    assert dice(after, truth) > dice(before, truth) + 0.15


def test_a_change_reaches_as_far_as_the_outlines_were_moved() -> None:
    grid = sitk.Image(40, 40, 40, sitk.sitkUInt8)
    mask = SoftMask(ball(40, 11).astype(np.float32), (0, 0, 0), grid)

    unmoved, little, much = (edit_extent(mask, Painted(ball(40, 11, shift), ((0, 20),)), grid).decay for shift in (0, 1, 6))
    from_nothing = edit_extent(SoftMask(np.zeros((1, 1, 1), np.float32), (0, 0, 0), grid), Painted(ball(40, 11), ((0, 20),)), grid).decay

    assert unmoved == little < much <= from_nothing
    # One slice that was a little wrong says next to nothing of the second one beside it.
    assert little < 2.0 and much > 5.0


def test_one_slice_that_was_wrong_by_little_says_nothing_of_slices_further_on() -> None:
    """Where the first result is right but for one slice, an update must not carry that slice's noise on."""
    grid = sitk.Image(40, 40, 40, sitk.sitkUInt8)
    truth = ball(40, 11)
    before = truth.copy()
    before[20] = ball(40, 12.6)[20]
    mask, edits = SoftMask(before.astype(np.float32), (0, 0, 0), grid), Painted(truth, ((0, 20),))

    after, far = (
        propagate_edits(mask, edits, grid, reach).spread(grid) > 0.5 for reach in (edit_extent(mask, edits, grid), EditExtent(10.0, 6.0))
    )

    np.testing.assert_array_equal(after[:18], truth[:18])
    np.testing.assert_array_equal(after[23:], truth[23:])
    assert dice(after, truth) > 0.98 > dice(far, truth)


def test_a_region_that_lay_far_off_follows_one_painted_slice() -> None:
    grid = sitk.Image(40, 40, 40, sitk.sitkUInt8)
    before, truth = ball(40, 11, -3), ball(40, 11, 3)
    mask, edits = SoftMask(before.astype(np.float32), (0, 0, 0), grid), Painted(truth, ((0, 20),))

    after = propagate_edits(mask, edits, grid, edit_extent(mask, edits, grid)).spread(grid) > 0.5

    painting_alone = before.copy()
    painting_alone[20] = truth[20]
    assert dice(after, truth) > dice(painting_alone, truth) + 0.1


def test_a_large_structure_is_worked_on_in_coarser_steps_with_the_same_outcome(monkeypatch: pytest.MonkeyPatch) -> None:
    grid = sitk.Image(60, 60, 60, sitk.sitkUInt8)
    before, truth = ball(60, 18), ball(60, 18, 5)
    mask, edits = SoftMask(before.astype(np.float32), (0, 0, 0), grid), Painted(truth, ((1, 30), (2, 25)))
    fine = propagate_edits(mask, edits, grid, EditExtent(12.0, 8.0)).spread(grid) > 0.5
    monkeypatch.setattr("RAUSlicerLib.correction.interpolation._MOST_VOXELS", 20_000)
    coarse = propagate_edits(mask, edits, grid, EditExtent(12.0, 8.0)).spread(grid) > 0.5
    assert dice(coarse, fine) > 0.95


def test_the_first_pass_of_a_correction_finishes_nothing_and_is_not_done(tiny_pipeline: Pipeline, case: Reference) -> None:
    mask = sitk.Image(case.segmentation.labelmap) == 2
    events: list = []

    tiny_pipeline.correct(Correction("left organ", mask, slices=((2, 9),)), case, case.volume, progress=events.append)
    tiny_pipeline.forget()

    assert [event.stage for event in events].count("done") == 1 and events[-1].stage == "done"
    assert all(event.structure is None for event in events if event.stage != "segmentation" or event.fraction < 0.85)


def test_a_cancelled_first_pass_is_kept_only_as_far_as_asked(tiny_pipeline: Pipeline, case: Reference) -> None:
    cancel = CancelToken()
    mask = sitk.Image(case.segmentation.labelmap) == 2

    def stop(event) -> None:
        if event.fraction > 0.8:
            cancel.cancel()

    tiny_pipeline.correct(Correction("left organ", mask, slices=((2, 9),)), case, case.volume, keep_mb=0, progress=stop, cancel=cancel)

    assert tiny_pipeline.state is None
