"""The localizer with networks that have learned nothing: its boxes are the matched ones, so where they must lie is known."""

from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from RAUSlicerLib.imaging.frame import canonical
from RAUSlicerLib.imaging.segmentation import Reference, Segmentation, Structure
from RAUSlicerLib.inputs import Inputs
from RAUSlicerLib.pipeline import Pipeline
from RAUSlicerLib.progress import CancelToken, ignore
from RAUSlicerLib.rau.localizer import _jointly
from RAUSlicerLib.rau.queries import Asked, levels_to_ask
from RAUSlicerLib.rau.settings import LocalizerSettings
from RAUSlicerLib.rau.slices import MatchedCase
from RAUSlicerLib.results import Localization, SoftMask

pytestmark = pytest.mark.usefixtures("coarse")


@pytest.fixture
def localizer(tiny_pipeline: Pipeline) -> Pipeline:
    return tiny_pipeline


def locate(localizer: Pipeline, references: list[Reference], target: sitk.Image, structures=None, cancel=None) -> dict[str, Localization]:
    wanted = structures or references[0].segmentation.structures
    found = localizer.locate(Inputs(tuple(references), target, ()), wanted, cancel=cancel)
    return {localization.structure.name: localization for localization in found}


def true_box(image: sitk.Image, mask: np.ndarray) -> np.ndarray:
    indices = np.argwhere(mask)[:, ::-1]
    points = np.array([image.TransformContinuousIndexToPhysicalPoint((i + d).tolist()) for i in indices for d in (-0.5, 0.5)])
    return np.array([points.min(0), points.max(0)])


@pytest.mark.parametrize("code", ["LPS", "RAS", "ASL"])
def test_boxes_lie_around_the_structures_in_patient_space(localizer: Pipeline, case: Reference, code: str) -> None:
    found = locate(localizer, [case], sitk.DICOMOrient(case.volume, code))
    for structure in case.segmentation.structures:
        box = found[structure.name].box_mm
        assert box is not None
        np.testing.assert_allclose(box, true_box(case.volume, case.segmentation.array(structure)), atol=5.0, err_msg=structure.name)


def test_slice_boxes_are_in_slices_and_pixels_of_the_canonical_frame(localizer: Pipeline, case: Reference) -> None:
    left = case.segmentation.structures[1]
    found = locate(localizer, [case], sitk.DICOMOrient(case.volume, "RAI"))["left organ"]
    truth = case.segmentation.array(left)
    assert canonical(case.volume).GetOrigin() == case.volume.GetOrigin()
    middle = int(np.argwhere(truth)[:, 0].mean().round())
    rows, columns = np.nonzero(truth[middle])
    expected = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    np.testing.assert_allclose(found.slice_boxes[middle], expected, atol=1.5)


def test_the_prior_is_the_matched_structure(localizer: Pipeline, case: Reference) -> None:
    for name, localization in locate(localizer, [case], case.volume).items():
        truth = case.segmentation.array(localization.structure)
        assert localization.prior is not None
        found = localization.prior.spread(case.volume) > 0.5
        assert 2 * (found & truth).sum() / (found.sum() + truth.sum()) > 0.85, name


def test_every_prompt_has_a_box_in_the_slice_and_a_query(localizer: Pipeline, case: Reference) -> None:
    for localization in locate(localizer, [case], case.volume).values():
        assert localization.prompts
        for prompt in localization.prompts.values():
            left, top, right, bottom = prompt.box
            assert 0 <= left < right <= 64 and 0 <= top < bottom <= 64
            assert prompt.query.shape == (32,) and prompt.query.dtype == np.float32


def test_presence_and_prior_do_not_depend_on_the_order_of_asking(localizer: Pipeline, case: Reference) -> None:
    forth = locate(localizer, [case], case.volume)
    back = locate(localizer, [case], case.volume, case.segmentation.structures[::-1])
    assert list(back) == list(forth)[::-1]
    for name, localization in forth.items():
        assert back[name].presence == pytest.approx(localization.presence, abs=1e-4)
        np.testing.assert_allclose(back[name].box_mm, localization.box_mm, atol=0.05)


def test_a_reference_that_lacks_a_structure_does_not_speak_against_it(localizer: Pipeline, case: Reference) -> None:
    body, _, right = case.segmentation.structures
    lacking = Reference(case.volume, Segmentation(case.segmentation.labelmap, (body, right)))
    alone, both = locate(localizer, [case], case.volume), locate(localizer, [case, lacking], case.volume)
    assert both["left organ"].presence == pytest.approx(alone["left organ"].presence, abs=1e-4)
    np.testing.assert_allclose(both["left organ"].box_mm, alone["left organ"].box_mm, atol=0.05)


def test_what_the_language_model_denies_has_no_box(localizer: Pipeline, case: Reference, tiny_pipeline: Pipeline) -> None:
    bias = tiny_pipeline.model.vlm.presence_head[-1].bias
    before = bias.detach().clone()
    with torch.no_grad():
        bias.fill_(-20.0)
    try:
        found = locate(localizer, [case], case.volume)
    finally:
        with torch.no_grad():
            bias.copy_(before)
    assert all(localization.box_mm is None and localization.presence < 0.01 for localization in found.values())


def test_a_cancel_leaves_everything_out(localizer: Pipeline, case: Reference) -> None:
    cancel = CancelToken()
    cancel.cancel()
    assert locate(localizer, [case], case.volume, cancel=cancel) == {}


def test_a_structure_that_left_the_field_of_view_is_left_out_of_the_boxes(localizer: Pipeline, case: Reference) -> None:
    # Nothing of the reference is drawn anywhere near: a name without a voxel.
    empty = replace(case.segmentation.structures[2], label=9, name="ghost")
    haunted = Reference(case.volume, replace(case.segmentation, structures=(*case.segmentation.structures, empty)))
    ghost = locate(localizer, [haunted], case.volume)["ghost"]
    assert ghost.box_mm is None and ghost.presence == 0


def test_a_structure_with_a_box_of_its_own_is_not_given_the_larger_one_around_it() -> None:
    grid = sitk.Image(20, 20, 4, sitk.sitkUInt8)
    small, large = Structure(1, "small"), Structure(2, "large")
    inner, outer = np.zeros((4, 20, 20), np.float32), np.zeros((4, 20, 20), np.float32)
    inner[:, 8:12, 8:12], outer[:, 2:18, 2:18] = 1, 1
    outer[:, 8:12, 8:12] = 0
    query = np.zeros(3, np.float32)

    def asked(box: tuple[float, float, float, float]) -> Asked:
        return Asked(dict.fromkeys(range(4), 0.6), {level: np.array(box) for level in range(4)}, dict.fromkeys(range(4), query))

    found = _jointly(
        (small, large),
        {small: asked((8, 8, 12, 12)), large: asked((2, 2, 18, 18))},
        {small: SoftMask(inner, (0, 0, 0), grid), large: SoftMask(outer, (0, 0, 0), grid)},
        grid,
        grid,
        0.35,
    )

    assert [localization.prompts[0].box for localization in found] == [(8, 8, 12, 12), (2, 2, 18, 18)]


def test_close_slices_are_asked_about_every_other_time_unless_a_structure_would_be_missed() -> None:
    wide, thin = (Structure(number, str(number)) for number in (1, 2))
    sought = [[], [wide], [wide], [wide], [wide, thin], [wide], [], [thin], [], [wide], []]
    assert levels_to_ask(sought, apart=2.0) == [2, 4, 7, 9]
    assert levels_to_ask(sought, apart=8.0) == [1, 2, 3, 4, 5, 7, 9]


@pytest.mark.parametrize("close", [0.0, 1000.0])
def test_boxes_of_slices_that_are_not_asked_about_follow_the_structure(
    localizer: Pipeline, case: Reference, monkeypatch: pytest.MonkeyPatch, close: float
) -> None:
    vlm = localizer._localizers["vlm"]
    monkeypatch.setattr(vlm, "_settings", LocalizerSettings(every_second_mm=close))
    asked = []
    read = localizer.model.vlm.read
    monkeypatch.setattr(localizer.model.vlm, "read", lambda pair: (asked.append(pair.pictures.level), read(pair))[1])
    found = locate(localizer, [case], case.volume)
    assert len(set(np.diff(asked))) == 1 and asked[1] - asked[0] == (2 if close else 1)
    for structure in case.segmentation.structures:
        box = found[structure.name].box_mm
        assert box is not None
        np.testing.assert_allclose(box, true_box(case.volume, case.segmentation.array(structure)), atol=5.0, err_msg=structure.name)
        levels = sorted(found[structure.name].prompts)
        assert levels == list(range(levels[0], levels[-1] + 1))


def test_only_slices_that_are_asked_about_are_read(localizer: Pipeline, case: Reference, monkeypatch: pytest.MonkeyPatch) -> None:
    read, encode = [], localizer.propagator.segmenter.encode
    monkeypatch.setattr(localizer.propagator.segmenter, "encode", lambda images: (read.append(len(images)), encode(images))[1])
    references = [case]
    locate(localizer, references, case.volume, case.segmentation.structures[1:2])
    matches = localizer.matcher.match_all(references, case.volume, ignore, CancelToken())
    slices = len(MatchedCase(case.volume, matches, localizer.propagator.segmenter, localizer.device))
    assert 0 < sum(read) < 2 * slices
