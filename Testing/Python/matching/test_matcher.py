from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from RAUSlicerLib.device import autocast
from RAUSlicerLib.imaging.frame import canonical, normalized, working_spacing
from RAUSlicerLib.imaging.grids import same_grid
from RAUSlicerLib.imaging.segmentation import Reference, Segmentation, Structure
from RAUSlicerLib.matching import demons
from RAUSlicerLib.matching.matcher import Matcher, affordable_spacing, body, correspond
from RAUSlicerLib.matching.network import MatchingConfig, MatchingNet
from RAUSlicerLib.progress import CancelToken, ignore

pytestmark = pytest.mark.usefixtures("coarse")


@pytest.fixture(scope="module")
def net() -> MatchingNet:
    torch.manual_seed(0)
    return MatchingNet(MatchingConfig(widths=(8, 8, 16), fine_dim=16, coarse_dim=16)).eval()


@pytest.fixture(scope="module")
def matcher(net: MatchingNet) -> Matcher:
    return Matcher(net, torch.device("cpu"))


def test_embeddings_are_unit_vectors_of_the_volumes_size(net: MatchingNet) -> None:
    with torch.no_grad():
        fine, coarse, _ = net(torch.rand(2, 1, 9, 13, 6))
    assert fine.shape == (2, 16, 9, 13, 6) and coarse.shape == (2, 16, 3, 4, 2)
    torch.testing.assert_close(fine.norm(dim=1), torch.ones(2, 9, 13, 6))
    torch.testing.assert_close(coarse.norm(dim=1), torch.ones(2, 3, 4, 2))


def test_embeddings_at_voxels_are_those_of_the_dense_map(net: MatchingNet) -> None:
    with torch.no_grad():
        image = torch.rand(2, 1, 9, 13, 6)
        features = net.features(image)
        fine, coarse, _ = net(image)
        voxels, cells = torch.tensor([[0, 8, 12, 5], [1, 3, 0, 2], [1, 4, 7, 3]]), torch.tensor([[0, 2, 3, 1], [1, 0, 1, 0]])
        expected = torch.stack([fine[b, :, z, y, x] for b, z, y, x in voxels.tolist()])
        torch.testing.assert_close(net.embedded(net.read_at(features, image, voxels)), expected)
        torch.testing.assert_close(net.coarse_at(features, cells), torch.stack([coarse[b, :, z, y, x] for b, z, y, x in cells.tolist()]))


@pytest.mark.parametrize("depth", [1, 2, 3, 4])
def test_a_thin_volume_is_embedded_alike_in_half_and_in_full_precision(net: MatchingNet, depth: int) -> None:
    torch.manual_seed(1)
    image = torch.rand(1, 1, depth, 40, 46)
    with torch.no_grad():
        expected = net(image)
        with autocast(torch.device("cpu")):
            given = net(image)
    for ours, theirs in zip(given, expected, strict=True):
        torch.testing.assert_close(ours.float(), theirs, atol=0.05, rtol=0)


@pytest.mark.parametrize("depth", [1, 5, 37])
def test_what_the_classifier_reads_is_the_same_without_the_embeddings(net: MatchingNet, depth: int) -> None:
    image = torch.rand(1, 1, depth, 13, 10)
    with torch.no_grad():
        assert torch.equal(net.read(image), net(image)[2])


def test_configuration_survives_its_json_form() -> None:
    config = MatchingConfig(widths=(4, 8), hidden=6, fine_dim=3)
    values = config.to_dict()
    values["widths"] = list(values["widths"])
    assert MatchingConfig.from_dict(values) == config


@pytest.mark.parametrize("code", ["RAS", "PSL"])
def test_the_affine_map_leads_a_reoriented_copy_back_to_the_same_place(matcher: Matcher, case: Reference, code: str) -> None:
    target = sitk.DICOMOrient(case.volume, code)
    match = matcher.match(case, target, ignore, CancelToken())
    assert match is not None and match.inlier_ratio > 0.9
    for index in ((10, 12, 6), (25, 30, 12)):
        point = case.volume.TransformIndexToPhysicalPoint(index)
        np.testing.assert_allclose(match.affine.TransformPoint(point), point, atol=1.0)


def test_patients_lie_at_different_places_in_the_world(matcher: Matcher, case: Reference) -> None:
    target = sitk.Image(case.volume)
    turn = sitk.Euler3DTransform()
    turn.SetRotation(0.3, -0.2, 0.4)
    target.SetDirection(turn.GetMatrix())
    target.SetOrigin((500.0, -300.0, 1200.0))
    match = matcher.match(case, target, ignore, CancelToken())
    assert match is not None
    for index in ((10, 12, 6), (25, 30, 12)):
        mapped = match.affine.TransformPoint(target.TransformIndexToPhysicalPoint(index))
        np.testing.assert_allclose(mapped, case.volume.TransformIndexToPhysicalPoint(index), atol=1.0)


def renumbered(case: Reference) -> Reference:
    body_, left, _ = case.segmentation.structures
    labelmap = sitk.ChangeLabel(case.segmentation.labelmap, {1: 9, 2: 1, 3: 0})
    return Reference(case.volume, Segmentation(labelmap, (replace(left, label=1), replace(body_, label=9))))


def test_structures_are_carried_by_name_and_missing_ones_left_out(matcher: Matcher, case: Reference) -> None:
    match = matcher.match(renumbered(case), case.volume, ignore, CancelToken())
    assert match is not None
    carried = match.prior(case.segmentation.structures, canonical(case.volume))
    assert [structure.name for structure in carried] == ["body", "left organ"]
    frame = canonical(case.volume)
    for structure, mask in carried.items():
        truth = case.segmentation.array(structure)
        found = mask.spread(frame) > 0.5
        assert 2 * (found & truth).sum() / (found.sum() + truth.sum()) > 0.9 - 0.1 * (structure.label == 1)


def test_what_is_carried_does_not_depend_on_what_else_is_asked(matcher: Matcher, case: Reference) -> None:
    match = matcher.match(case, case.volume, ignore, CancelToken())
    assert match is not None
    left = case.segmentation.structures[1]
    frame = canonical(case.volume)
    alone, among = match.prior([left], frame)[left], match.prior(case.segmentation.structures[::-1], frame)[left]
    assert alone.start == among.start
    np.testing.assert_allclose(alone.values, among.values, atol=1e-6)


def test_a_structure_without_a_voxel_on_the_working_grid_comes_out_empty(matcher: Matcher, case: Reference) -> None:
    ghost = Structure(77, "ghost")
    haunted = Reference(case.volume, replace(case.segmentation, structures=(*case.segmentation.structures, ghost)))
    match = matcher.match(haunted, case.volume, ignore, CancelToken())
    assert match is not None and match.prior([ghost], canonical(case.volume))[ghost].values.max() == 0


@pytest.mark.parametrize("iterations", [0, 3])
def test_a_cancel_within_the_first_look_is_heard_at_the_next_iteration(
    matcher: Matcher, case: Reference, iterations: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    cancel, steps = CancelToken(), []

    def counted(*given: object) -> object:
        steps.append(cancel.cancelled)
        if len(steps) > iterations:
            cancel.cancel()
        return one_step(*given)

    one_step = demons._steps
    monkeypatch.setattr(demons, "_steps", counted)

    assert matcher.match(case, case.volume, ignore, cancel) is None
    assert steps == [False] * (iterations + 1)


@pytest.mark.parametrize("events", [1, 2])
def test_a_cancel_between_the_steps_ends_the_matching(matcher: Matcher, case: Reference, events: int) -> None:
    cancel, seen = CancelToken(), []

    def watch(event) -> None:
        seen.append(event)
        if len(seen) == events:
            cancel.cancel()

    assert matcher.match(case, case.volume, watch, cancel) is None
    assert len(seen) == events


def test_a_reading_is_that_of_the_view(labelling: Matcher, case: Reference) -> None:
    frame = normalized(canonical(case.volume))
    view, reading = labelling.view(frame, 3.0), labelling.read(frame, 3.0)
    assert same_grid(view.grid, reading.grid)
    assert torch.equal(view.embedded.label_rows, reading.rows) and torch.equal(view.embedded.inside.flatten(), reading.inside)


def test_the_body_holds_what_it_encloses() -> None:
    values = np.zeros((3, 20, 20), np.float32)
    values[:, 4:16, 4:16] = 0.5
    values[:, 8:12, 8:12] = 0.0
    expected = np.zeros(values.shape, bool)
    expected[:, 4:16, 4:16] = True
    np.testing.assert_array_equal(body(values), expected)


@pytest.fixture(scope="module")
def labelling() -> Matcher:
    torch.manual_seed(0)
    return Matcher(MatchingNet(MatchingConfig(widths=(8, 8, 16), fine_dim=16, coarse_dim=16, labels=(3,))), torch.device("cpu"))


def test_labels_are_read_at_two_scales_and_nothing_else_is(labelling: Matcher, case: Reference) -> None:
    frame = normalized(canonical(case.volume))
    once, twice = (labelling.view(frame, 6.0, surely=surely).embedded for surely in (False, True))
    for name in ("fine", "coarse", "texture", "inside"):
        assert torch.equal(getattr(once, name), getattr(twice, name))
    assert once.read is not None and twice.read is not None and once.read.shape == twice.read.shape
    # Half of it is what was read at the voxels themselves: the rest is smoother than that.
    rest = 2 * twice.read.float() - once.read.float()
    rough, smooth = ((torch.diff(read.float(), dim=3) ** 2).mean() for read in (once.read, rest))
    assert 0 < smooth < rough


def test_a_match_reads_labels_at_two_scales(labelling: Matcher, case: Reference) -> None:
    match = labelling.match(case, case.volume, ignore, CancelToken())
    assert match is not None
    frame = normalized(canonical(case.volume))
    expected = labelling.view(frame, match.target_view.grid.GetSpacing()[0], surely=True).embedded.read
    assert expected is not None
    for view in (match.reference_view, match.target_view):
        assert view.embedded.read is not None
        torch.testing.assert_close(view.embedded.read, expected)


def test_labels_of_a_single_slice_are_read_at_two_scales(labelling: Matcher, case: Reference) -> None:
    frame = normalized(canonical(case.volume))
    plane = frame[:, :, 8:9]
    read = labelling.view(plane, 6.0, surely=True).embedded.read
    assert read is not None and read.shape[1] == 1 and bool(read.isfinite().all())


def test_one_look_sees_voxels_a_tenth_smaller_where_the_volumes_have_as_small_ones(
    matcher: Matcher, case: Reference, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(matcher, "_nearer_spacing", lambda *_: None)
    frame = normalized(canonical(case.volume))
    working = working_spacing(frame, sitk.GetArrayViewFromImage(frame))
    assert working <= min(frame.GetSpacing())
    fine = Reference(_finer(case.volume), Segmentation(_finer(case.segmentation.labelmap, nearest=True), case.segmentation.structures))
    frame = normalized(canonical(fine.volume))
    sharper = 0.9 * working_spacing(frame, sitk.GetArrayViewFromImage(frame))
    assert min(frame.GetSpacing()) < sharper
    # One of both volumes with small voxels is enough, and the reference fixes the scale.
    for reference, target, expected in ((fine, fine, sharper), (fine, case, sharper), (case, case, working)):
        match = matcher.match(reference, target.volume, ignore, CancelToken())
        assert match is not None
        for view in (match.reference_view, match.target_view):
            assert view.grid.GetSpacing() == pytest.approx((expected,) * 3)


def test_a_small_reference_does_not_make_a_large_target_unaffordable(
    matcher: Matcher, case: Reference, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(matcher, "most_voxels", 8000)
    match = matcher.match(case, case.volume, ignore, CancelToken())
    assert match is not None
    for view in (match.target_view, match.reference_view):
        assert np.prod(view.grid.GetSize()) <= 8000
    assert affordable_spacing(case.volume, 8000) > match.target_view.grid.GetSpacing()[0] - 1e-9


def test_a_small_annotated_part_is_looked_at_from_nearer_and_comes_back_at_its_place(
    matcher: Matcher, case: Reference, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = case.segmentation.structures[1]
    small = Reference(case.volume, Segmentation(sitk.ChangeLabel(case.segmentation.labelmap, {1: 0, 3: 0}), (left,)))
    # The target lies elsewhere in the world and lacks some rows: the second look must find its own part of it.
    target = sitk.RegionOfInterest(case.volume, [36, 40, 18], [4, 3, 1])
    target.SetOrigin((200.0, -50.0, 30.0))
    truth = sitk.GetArrayFromImage(sitk.RegionOfInterest(small.segmentation.labelmap, [36, 40, 18], [4, 3, 1])) == left.label
    # Finer voxels, so that there is something to be seen from nearer.
    small = Reference(_finer(small.volume), Segmentation(_finer(small.segmentation.labelmap, nearest=True), (left,)))
    frame = normalized(canonical(small.volume))

    match = matcher.match(small, _finer(target), ignore, CancelToken())

    assert match is not None
    assert match.target_view.grid.GetSpacing()[0] < 0.8 * working_spacing(frame, sitk.GetArrayViewFromImage(frame))
    found = match.prior([left], canonical(target))[left].spread(canonical(target)) > 0.5
    assert 2 * (found & truth).sum() / (found.sum() + truth.sum()) > 0.85


def test_where_no_second_look_can_be_taken_the_first_one_is_as_sharp_as_alone(
    matcher: Matcher, case: Reference, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = case.segmentation.structures[1]
    labels = sitk.ChangeLabel(case.segmentation.labelmap, {1: 0, 3: 0})
    small = Reference(_finer(case.volume), Segmentation(_finer(labels, nearest=True), (left,)))
    monkeypatch.setattr(matcher, "_nearer", lambda *_: None)

    match = matcher.match(small, case.volume, ignore, CancelToken())

    assert match is not None
    torch.testing.assert_close(match.field, correspond(match.target_view, match.reference_view)[1])
    assert not torch.allclose(match.field, correspond(match.target_view, match.reference_view, matcher.settings.levels[:-1])[1])


def _finer(image: sitk.Image, *, nearest: bool = False) -> sitk.Image:
    """The same with voxels of half the size in the plane."""
    grid = sitk.Image([2 * image.GetSize()[0], 2 * image.GetSize()[1], image.GetSize()[2]], sitk.sitkUInt8)
    spacing = image.GetSpacing()
    grid.SetSpacing((spacing[0] / 2, spacing[1] / 2, spacing[2]))
    grid.SetDirection(image.GetDirection())
    grid.SetOrigin(image.GetOrigin())
    return sitk.Resample(image, grid, sitk.Transform(), sitk.sitkNearestNeighbor if nearest else sitk.sitkLinear, 0.0)
