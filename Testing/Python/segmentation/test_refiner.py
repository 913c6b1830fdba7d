"""The mask refiner: what it sees of a structure, that untrained it changes nothing, and that every voxel comes back to its place."""

from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from RAUSlicerLib.imaging.frame import canonical
from RAUSlicerLib.imaging.segmentation import Reference, Segmentation
from RAUSlicerLib.localization.matching.matcher import Match, Matcher
from RAUSlicerLib.localization.matching.network import MatchingConfig, MatchingNet
from RAUSlicerLib.progress import CancelToken, ignore
from RAUSlicerLib.segmentation.refiner import Refiner, inner, overlay, surroundings
from RAUSlicerLib.segmentation.refiner_network import RefinerConfig, RefinerNet, likeness


@pytest.fixture(scope="module", autouse=True)
def coarse():
    """Volumes are matched on few voxels."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("RAUSlicerLib.imaging.frame.WORKING_EXTENT", 36)
        yield


@pytest.fixture(scope="module")
def case(make_ellipsoids) -> Reference:
    return make_ellipsoids(size=(40, 46, 20), spacing=(2.4, 2.4, 3.6))


@pytest.fixture(scope="module")
def matcher() -> Matcher:
    torch.manual_seed(0)
    return Matcher(MatchingNet(MatchingConfig(widths=(8, 8, 16), fine_dim=16, coarse_dim=16)), torch.device("cpu"))


@pytest.fixture(scope="module")
def match(matcher: Matcher, case: Reference) -> Match:
    found = matcher.match(case, case.volume, ignore, CancelToken())
    assert found is not None
    return found


@pytest.fixture
def refiner() -> Refiner:
    torch.manual_seed(0)
    return Refiner(RefinerNet(RefinerConfig(widths=(8, 8, 16))), torch.device("cpu"))


def test_untrained_it_returns_the_carried_mask() -> None:
    net = RefinerNet(RefinerConfig(widths=(8, 8, 16)))
    x = torch.rand(2, 5, 13, 26, 9)
    with torch.no_grad():
        share = net(x).sigmoid()
    torch.testing.assert_close(share, ((x[:, 2] + x[:, 3]) / 2).clamp(0.02, 0.98))


def test_configuration_survives_its_json_form() -> None:
    config = RefinerConfig(widths=(4, 8), hidden=6)
    values = config.to_dict()
    values["widths"] = list(values["widths"])
    assert RefinerConfig.from_dict(values) == config


def test_likeness_knows_bright_from_dark_at_another_brightness() -> None:
    generator = torch.Generator().manual_seed(0)
    mask = torch.zeros(2, 12, 14, 16)
    mask[:, 3:8, 4:9, 5:10] = 1
    # The second structure is dark in a bright surrounding.
    level = torch.stack([0.3 + 0.4 * mask[0], 0.8 - 0.5 * mask[1]])
    noise = 0.02 * torch.randn(level.shape, generator=generator)
    found = likeness(0.2 + 0.5 * (level + noise), level + noise.flip(1), mask)
    for share, inside in zip(found, mask > 0.5, strict=True):
        assert share[inside].quantile(0.02) > 0.9 and share[~inside].quantile(0.98) < 0.1


def test_likeness_says_nothing_of_air_alone() -> None:
    nothing = torch.zeros(1, 4, 4, 4)
    assert (likeness(nothing, nothing, nothing) == 0.5).all()
    # A structure that the reference lacks is nowhere more likely than elsewhere.
    image = torch.rand(1, 6, 6, 6)
    assert (likeness(image, image, torch.zeros(1, 6, 6, 6)) < 0.5).all()


def test_a_volume_on_itself_shows_the_network_the_same_picture_twice(match: Match, case: Reference) -> None:
    over = overlay(match, case.volume)
    seen = [structure.name for structure, _, _ in over.crops(case.segmentation.structures)]
    assert seen == [structure.name for structure in case.segmentation.structures]
    for _, window, crop in over.crops(case.segmentation.structures):
        assert crop.shape == (5, *(side.stop - side.start for side in window))
        inside = crop[0] > 0.1
        assert np.abs(crop[0] - crop[1])[inside].mean() < 0.05
        assert np.corrcoef(crop[2].ravel(), crop[3].ravel())[0, 1] > 0.8


def test_rivals_are_the_other_structures(match: Match, case: Reference) -> None:
    body, left, _ = case.segmentation.structures
    over = overlay(match, case.volume)
    crops = {structure: crop for structure, _, crop in over.crops((left, body))}
    assert set(crops) == {left, body}
    # In the organ's middle no other claims a voxel; around it the body does.
    middle = crops[left][2] > 0.99
    assert crops[left][4][middle].max() < 0.2 and crops[left][4].max() > 0.8
    organs = crops[body][2] < 0.01
    assert crops[body][4][organs].max() > 0.8
    alone = replace(match, reference=Reference(case.volume, replace(case.segmentation, structures=(left,))))
    (crop,) = (crop for _, _, crop in overlay(alone, case.volume).crops((left,)))
    assert crop[4].max() == 0


def test_surroundings_are_larger_and_within_the_volume() -> None:
    box = (slice(10, 50), slice(0, 20), slice(30, 33))
    z, y, x = surroundings([box, None], (60, 70, 40))  # type: ignore[misc]
    assert (z, y) == (slice(0, 60), slice(0, 28))
    assert x.start <= 22 and x.stop == 40
    assert surroundings([None, (slice(3, 3), slice(0, 1), slice(0, 1))], (60, 70, 40)) is None
    assert inner(box, (z, y, x)) == (slice(10, 50), slice(0, 20), slice(30 - x.start, 33 - x.start))


@pytest.mark.parametrize("code", ["LPS", "RAS", "PSL"])
def test_every_structure_lies_where_it_does_in_a_reoriented_copy(matcher: Matcher, case: Reference, refiner: Refiner, code: str) -> None:
    target = sitk.DICOMOrient(case.volume, code)
    match = matcher.match(case, target, ignore, CancelToken())
    assert match is not None
    frame = canonical(target)
    masks = refiner.refine(match, target, case.segmentation.structures, CancelToken())
    for structure, mask in masks.items():
        truth = sitk.GetArrayFromImage(canonical(case.segmentation.labelmap)) == structure.label
        found = mask.spread(frame) > 0.5
        assert 2 * (found & truth).sum() / (found.sum() + truth.sum()) > 0.88 - 0.1 * (structure.label == 1)


def test_what_becomes_of_a_structure_does_not_depend_on_what_else_is_asked(match: Match, case: Reference, refiner: Refiner) -> None:
    left = case.segmentation.structures[1]
    torch.nn.init.normal_(refiner._net.change.weight)
    alone = refiner.refine(match, case.volume, [left], CancelToken())[left]
    among = refiner.refine(match, case.volume, case.segmentation.structures[::-1], CancelToken())[left]
    assert alone.start == among.start
    np.testing.assert_array_equal(alone.values, among.values)


def test_structures_are_found_by_name_and_missing_ones_left_out(match: Match, case: Reference, refiner: Refiner) -> None:
    body, left, _ = case.segmentation.structures
    fewer = replace(match, reference=Reference(case.volume, Segmentation(case.segmentation.labelmap, (body,))))
    asked = [replace(body, label=9, id="other"), left]
    assert list(refiner.refine(fewer, case.volume, asked, CancelToken())) == asked[:1]


def test_after_a_cancel_the_rest_is_empty(match: Match, case: Reference, refiner: Refiner) -> None:
    cancel = CancelToken()
    cancel.cancel()
    masks = refiner.refine(match, case.volume, case.segmentation.structures, cancel)
    assert [mask.values.max() for mask in masks.values()] == [0, 0, 0]
