"""The mask refiner: what it sees of a structure, that untrained it changes nothing, and that every voxel comes back to its place."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from torch.nn import functional as F

from RAUSlicerLib.imaging.frame import canonical
from RAUSlicerLib.imaging.segmentation import Reference, Segmentation, Structure
from RAUSlicerLib.matching.label_posteriors import LabelHead
from RAUSlicerLib.matching.matcher import Match, Matcher
from RAUSlicerLib.matching.network import MatchingConfig, MatchingNet
from RAUSlicerLib.progress import CancelToken, ignore
from RAUSlicerLib.refinement.network import RefinerConfig, RefinerNet, doubled, local_similarity
from RAUSlicerLib.refinement.refiner import Cells, ReferenceVote, Refiner, halved, inner, overlay, reference_votes, surroundings

pytestmark = pytest.mark.usefixtures("coarse")


@pytest.fixture(scope="module")
def matcher() -> Matcher:
    torch.manual_seed(0)
    return Matcher(MatchingNet(MatchingConfig(widths=(8, 8, 16), fine_dim=16, coarse_dim=16, labels=(5, 3))), torch.device("cpu"))


@pytest.fixture(scope="module")
def match(matcher: Matcher, case: Reference, coarse: None) -> Match:
    found = matcher.match(case, case.volume, ignore, CancelToken())
    assert found is not None
    return found


@pytest.fixture
def refiner() -> Refiner:
    torch.manual_seed(0)
    return Refiner(RefinerNet(RefinerConfig(widths=(8, 8, 16))), torch.device("cpu"))


def test_untrained_it_returns_the_carried_mask() -> None:
    net = RefinerNet(RefinerConfig(widths=(8, 8, 16), trust=0.0))
    planes, looks = torch.rand(2, 6, 13, 26, 9), torch.rand(2, 7, 13, 5)
    with torch.no_grad():
        located = doubled(net.locate(planes, looks).sigmoid(), planes.shape[2:])
        share = net.draw(planes, located).sigmoid()
    carried = (planes[:, 2] + planes[:, 3]) / 2
    assert located.shape == carried.shape
    torch.testing.assert_close(share, carried.clamp(0.02, 0.98))
    # The first pass has the mean of every eight voxels; the second one can be told to start from that.
    even = F.avg_pool3d(carried[:, None, :12, :, :8], 2)[:, 0]
    torch.testing.assert_close(net.locate(planes, looks).sigmoid()[:, :6, :, :4], even.clamp(0.02, 0.98))
    trusting = RefinerNet(RefinerConfig(widths=(8, 8, 16), trust=1.0))
    torch.testing.assert_close(trusting.draw(planes, located).sigmoid(), located.clamp(0.02, 0.98))


def test_untrained_it_heeds_what_the_labels_say_as_far_as_configured() -> None:
    net = RefinerNet(RefinerConfig(widths=(8, 8, 16), trust=0.0, heed=0.5))
    planes = torch.rand(1, 6, 12, 24, 8)
    planes[:, 5] = 0.5
    carried = torch.logit(((planes[:, 2] + planes[:, 3]) / 2).clamp(0.02, 0.98))
    located = torch.zeros(1, 12, 24, 8)
    with torch.no_grad():
        torch.testing.assert_close(net.draw(planes, located), carried)
        planes[:, 5] = 0.9
        torch.testing.assert_close(net.draw(planes, located), carried + 0.5 * float(np.log(9)))


def test_a_structure_is_sought_where_the_labels_see_it_too(match: Match, case: Reference) -> None:
    """An organ that lies elsewhere was carried to the wrong place: the largest island of its label says where else to look."""
    over = overlay(match, case.volume)
    known = over.labels
    assert known is not None
    structure = case.segmentation.structures[1]
    number = over.numbers[structure]
    index, share = torch.zeros_like(known.index), torch.full_like(known.share, 255)
    depth, height, width = index.shape[1:]
    index[0, depth - 8 :, height - 10 : height - 2, 4:12] = 2
    index[0, 2:4, 2:4, width - 4 : width - 2] = 2
    ratio = torch.full_like(known.ratio, 0.5)
    elsewhere = replace(over, labels=replace(known, index=index, share=share, ratio=ratio))
    # A label that says nothing of the structure doesn't count, nor does one that is nowhere clear.
    assert elsewhere.box(structure) == over.box(structure)[:2]
    ratio[number - 1, 2] = 0.9
    unclear = replace(elsewhere, labels=replace(known, index=index, share=share // 4, ratio=ratio))
    assert unclear.box(structure) == over.box(structure)[:2]
    (box,) = replace(over, labels=replace(known, index=index, share=share, ratio=ratio)).box(structure)[2:]
    begins, ends = ([getattr(side, end) for side in box] for end in ("start", "stop"))
    first, step = over.working.first, over.working.step
    np.testing.assert_allclose(begins, first + step * (depth - 8, height - 10, 4), atol=2 * float(step.max()))
    np.testing.assert_allclose(ends, first + step * (depth - 1, height - 3, 11) + 1, atol=2 * float(step.max()))


def test_the_last_of_an_odd_number_of_slices_is_wholly_there() -> None:
    planes = torch.full((1, 6, 1, 3, 5), 0.7)
    with torch.no_grad():
        located = RefinerNet(RefinerConfig(widths=(8, 8, 16))).locate(planes, torch.zeros(1, 1, 2, 3)).sigmoid()
    torch.testing.assert_close(located, torch.full((1, 1, 2, 3), 0.7))


def test_what_is_far_off_moves_the_structure(match: Match, case: Reference) -> None:
    """Recognition reaches a place that the carried mask does not."""
    net = RefinerNet(RefinerConfig(widths=(8, 8, 16)))
    net.first.forward = lambda x: torch.logit(x[:, -1].clamp(0.02, 0.98))  # type: ignore[method-assign]
    net.second.forward = lambda x: torch.logit(x[:, -1].clamp(0.02, 0.98))  # type: ignore[method-assign]
    left = case.segmentation.structures[1]
    over = overlay(match, case.volume)
    values, start = over.globally_attended[left]
    # Two cells further along x than the organ is, in both directions of the way there and back.
    moved = replace(over, globally_attended={**over.globally_attended, left: (values, (start[0], start[1], start[2] + 2))})
    found, there = (Refiner(net, torch.device("cpu")).redraw(one, left) for one in (moved, over))
    assert found is not None and there is not None
    middles = [np.average(np.argwhere(m.values > 0.5), axis=0) + m.start for m in (found, there)]
    assert middles[0] - middles[1] == pytest.approx([0, 0, 2 * over.cells.step[2]], abs=1.0)


def test_a_structure_is_followed_beyond_what_was_carried(match: Match, case: Reference) -> None:
    """The reference's own may be far smaller: the first pass looks again with more around it where it meets the rim."""
    net = RefinerNet(RefinerConfig(widths=(8, 8, 16)))
    net.first.forward = lambda x: torch.logit(x[:, -1].clamp(0.02, 0.98))  # type: ignore[method-assign]
    net.second.forward = lambda x: torch.logit(x[:, -1].clamp(0.02, 0.98))  # type: ignore[method-assign]
    left = case.segmentation.structures[1]
    over = overlay(match, case.volume)
    cells = over.globally_attended[left][0].shape
    bar = np.ones((cells[0], cells[1], 200), np.float32)
    first = over.globally_attended[left][1]
    long = replace(over, globally_attended={**over.globally_attended, left: (bar, (first[0], first[1], 0))})
    once = surroundings(over.box(left), over.warped.shape, step=2)[2]
    found = Refiner(net, torch.device("cpu")).redraw(long, left)
    assert found is not None
    inside = np.argwhere(found.values > 0.5)[:, 2] + found.start[2]
    assert inside.min() < once.start or inside.max() >= once.stop


def test_recognized_cells_lie_on_their_structure(match: Match, case: Reference) -> None:
    over = overlay(match, case.volume)
    whole = (slice(0, over.warped.shape[0]), slice(0, over.warped.shape[1]), slice(0, over.warped.shape[2]))
    for structure in case.segmentation.structures:
        looks = over.looks([structure], halved(whole))
        mask = torch.from_numpy((over.warped == over.numbers[structure]).astype(np.float32))
        truth = F.avg_pool3d(F.pad(mask, [v for n in reversed(mask.shape) for v in (0, n % 2)])[None, None], 2)[0, 0]
        middle, known = (torch.stack([(p.nonzero() * p[p > 0][:, None]).sum(0) / p.sum()]) for p in (looks, truth))
        # An untrained network knows little, but not on which side.
        torch.testing.assert_close(middle, known, atol=4.0, rtol=0)


def test_configuration_survives_its_json_form() -> None:
    config = RefinerConfig(widths=(4, 8), hidden=6, heed=0.3)
    values = config.to_dict()
    values["widths"] = list(values["widths"])
    assert RefinerConfig.from_dict(values) == config


def test_local_similarity_knows_bright_from_dark_at_another_brightness() -> None:
    generator = torch.Generator().manual_seed(0)
    mask = torch.zeros(2, 12, 14, 16)
    mask[:, 3:8, 4:9, 5:10] = 1
    # The second structure is dark in a bright surrounding.
    level = torch.stack([0.3 + 0.4 * mask[0], 0.8 - 0.5 * mask[1]])
    noise = 0.02 * torch.randn(level.shape, generator=generator)
    found = local_similarity(0.2 + 0.5 * (level + noise), level + noise.flip(1), mask)
    for share, inside in zip(found, mask > 0.5, strict=True):
        assert share[inside].quantile(0.02) > 0.9 and share[~inside].quantile(0.98) < 0.1


def test_local_similarity_says_nothing_of_air_alone() -> None:
    nothing = torch.zeros(1, 4, 4, 4)
    assert (local_similarity(nothing, nothing, nothing) == 0.5).all()
    # A structure that the reference lacks is nowhere more likely than elsewhere.
    image = torch.rand(1, 6, 6, 6)
    assert (local_similarity(image, image, torch.zeros(1, 6, 6, 6)) < 0.5).all()


def test_a_volume_on_itself_shows_the_network_the_same_picture_twice(match: Match, case: Reference) -> None:
    over = overlay(match, case.volume)
    for structure in case.segmentation.structures:
        window = surroundings(over.box(structure), over.warped.shape)
        planes = over.planes([structure], window)
        assert planes.shape == (6, *(side.stop - side.start for side in window))
        inside = planes[0] > 0.1
        assert np.abs(planes[0] - planes[1])[inside].mean() < 0.05
        assert np.corrcoef(planes[2].ravel(), planes[3].ravel())[0, 1] > 0.8


def test_labels_may_be_of_any_size(matcher: Matcher, case: Reference) -> None:
    body, left, right = case.segmentation.structures
    values = sitk.GetArrayFromImage(case.segmentation.labelmap).astype(np.uint32)
    values[values == right.label] = 4_000_000_000
    labels = sitk.GetImageFromArray(values)
    labels.CopyInformation(case.segmentation.labelmap)
    large = Reference(case.volume, Segmentation(labels, (body, left, replace(right, label=4_000_000_000))))
    found, same = (matcher.match(one, one.volume, ignore, CancelToken()) for one in (large, case))
    assert found is not None and same is not None
    one, other = overlay(found, case.volume), overlay(same, case.volume)
    np.testing.assert_array_equal(one.warped, other.warped)
    for mine, theirs in zip(one.globally_attended.values(), other.globally_attended.values(), strict=True):
        np.testing.assert_allclose(mine[0], theirs[0])


def test_what_labels_say_comes_to_the_voxel_that_it_is_of(match: Match, case: Reference) -> None:
    """On the finer grid it is what it is on that of the match, in a window as in the whole, and nothing where no label is known."""
    over = overlay(match, case.volume)
    known = over.labels
    assert known is not None
    structure = case.segmentation.structures[1]
    size = known.index.shape[1:]
    values = known.of([over.numbers[structure] - 1], [slice(0, n) for n in size])
    # An untrained network knows little.
    assert values.std() > 1e-4
    whole = over.planes([structure], (slice(0, over.warped.shape[0]), slice(0, over.warped.shape[1]), slice(0, over.warped.shape[2])))[5]
    for index in ((3, 4, 5), (10, 12, 8), tuple(n - 2 for n in size)):
        place = over.working.first + over.working.step * index
        low = np.floor(place).astype(int)
        corner = whole[tuple(slice(int(n), int(n) + 2) for n in low)]
        near = values[tuple(slice(n - 1, n + 2) for n in index)]
        assert near.min() - 1e-5 <= corner.min() and corner.max() <= near.max() + 1e-5
    window = (slice(4, 20), slice(7, 30), slice(2, 31))
    np.testing.assert_allclose(over.planes([structure], window)[5], whole[window], atol=1e-5)
    assert (replace(over, labels=None).planes([structure], window)[5] == 0.5).all()


def test_cells_spread_over_a_window_are_those_at_its_voxels() -> None:
    cells = Cells(np.array([0.4, -0.3, 1.1], np.float32), np.array([1.4, 1.0, 2.2], np.float32))
    values = torch.rand(12, 14, 10, generator=torch.Generator().manual_seed(0))
    window = (slice(3, 9), slice(2, 11), slice(4, 15))
    box = cells.covering(window, values.shape)
    where = torch.stack(torch.meshgrid(*(torch.arange(side.start, side.stop).float() for side in window), indexing="ij"), dim=-1)
    torch.testing.assert_close(cells.spread(values[box], box, window), cells.at(values, (0, 0, 0), where), atol=1e-5, rtol=0)
    beyond = (slice(0, 3), slice(0, 3), slice(40, 44))
    at_the_border = cells.spread(values[cells.covering(beyond, values.shape)], cells.covering(beyond, values.shape), beyond)
    assert torch.isfinite(at_the_border).all() and (at_the_border[..., 0] == at_the_border[..., -1]).all()


def test_rivals_are_the_other_structures(match: Match, case: Reference) -> None:
    body, left, _ = case.segmentation.structures
    over = overlay(match, case.volume)
    planes = {structure: over.planes([structure], surroundings(over.box(structure), over.warped.shape)) for structure in (left, body)}
    # In the organ's middle no other claims a voxel; around it the body does.
    middle = planes[left][2] > 0.99
    assert planes[left][4][middle].max() < 0.2 and planes[left][4].max() > 0.8
    organs = planes[body][2] < 0.01
    assert planes[body][4][organs].max() > 0.8
    alone = overlay(replace(match, reference=Reference(case.volume, replace(case.segmentation, structures=(left,)))), case.volume)
    assert alone.planes([left], surroundings(alone.box(left), alone.warped.shape))[4].max() == 0


def test_surroundings_are_larger_and_within_the_volume() -> None:
    box = (slice(10, 50), slice(0, 20), slice(30, 33))
    z, y, x = surroundings([box], (60, 70, 40))
    assert (z, y) == (slice(0, 60), slice(0, 28))
    assert x.start <= 22 and x.stop == 40
    # Seen at half of the resolution there is room for twice as much around it.
    assert surroundings([(slice(40, 44),) * 3], (90, 90, 90), step=2) == (slice(18, 66),) * 3
    assert inner(box, (z, y, x)) == (slice(10, 50), slice(0, 20), slice(30 - x.start, 33 - x.start))


def refined(refiner: Refiner, matches: list[Match], target: sitk.Image, structures: Sequence[Structure], cancel: CancelToken) -> Iterator:
    """The structures' probabilities by one reference after the other, as the pipeline has them."""
    votes = reference_votes(matches, cancel)
    return (refiner.refine(overlay(match, target, votes), structures, cancel) for match in matches)


@pytest.mark.parametrize("code", ["LPS", "RAS", "PSL"])
def test_every_structure_lies_where_it_does_in_a_reoriented_copy(matcher: Matcher, case: Reference, refiner: Refiner, code: str) -> None:
    target = sitk.DICOMOrient(case.volume, code)
    match = matcher.match(case, target, ignore, CancelToken())
    assert match is not None
    frame = canonical(target)
    masks = next(refined(refiner, [match], target, case.segmentation.structures, CancelToken()))
    for structure, mask in masks.items():
        truth = sitk.GetArrayFromImage(canonical(case.segmentation.labelmap)) == structure.label
        found = mask.spread(frame) > 0.5
        assert 2 * (found & truth).sum() / (found.sum() + truth.sum()) > 0.88 - 0.1 * (structure.label == 1)


def test_what_becomes_of_a_structure_does_not_depend_on_what_else_is_asked(match: Match, case: Reference, refiner: Refiner) -> None:
    left = case.segmentation.structures[1]
    for each in (refiner._net.first, refiner._net.second):
        torch.nn.init.normal_(each.change.weight)
    alone = next(refined(refiner, [match], case.volume, [left], CancelToken()))[left]
    among = next(refined(refiner, [match], case.volume, case.segmentation.structures[::-1], CancelToken()))[left]
    assert alone.start == among.start
    np.testing.assert_array_equal(alone.values, among.values)


def test_structures_are_found_by_name_and_missing_ones_left_out(match: Match, case: Reference, refiner: Refiner) -> None:
    body, left, _ = case.segmentation.structures
    fewer = replace(match, reference=Reference(case.volume, Segmentation(case.segmentation.labelmap, (body,))))
    asked = [replace(body, label=9, id="other"), left]
    assert list(next(refined(refiner, [fewer], case.volume, asked, CancelToken()))) == asked[:1]


def test_attention_and_training_labels_are_heard_of_all_references(match: Match, case: Reference) -> None:
    # Another annotation of the same volume: everything lies four voxels further along x.
    moved = sitk.GetImageFromArray(np.roll(sitk.GetArrayFromImage(case.segmentation.labelmap), 4, axis=2))
    moved.CopyInformation(case.segmentation.labelmap)
    # What the network knows of labels is random; sharpened, it says something.
    assert match.head is not None
    head = LabelHead(tuple(100 * weights for weights in match.head.weights), match.head.biases)
    match = replace(match, head=head)
    other = replace(match, reference=Reference(case.volume, replace(case.segmentation, labelmap=moved)))
    votes = [ReferenceVote(one, one.attend(one.reference.segmentation.structures)) for one in (match, other)]
    mine, theirs = overlay(match, case.volume), overlay(other, case.volume)
    together = overlay(match, case.volume, votes)
    left = case.segmentation.structures[1]
    window = tuple(slice(0, size) for size in mine.warped.shape)
    own, given, both = (over.planes([left], window) for over in (mine, theirs, together))
    assert min(np.abs(own[3] - given[3]).max(), np.abs(own[5] - given[5]).max()) > 0.05, "the case would show nothing"
    np.testing.assert_allclose(both[[3, 5]], (own + given)[[3, 5]] / 2, atol=1e-5)
    # Its own picture, and its own structures in it, stay what the networks compare the target with.
    np.testing.assert_array_equal(both[[0, 1, 2]], own[[0, 1, 2]])


def test_a_reference_that_lacks_a_structure_says_nothing_of_it(match: Match, case: Reference, refiner: Refiner) -> None:
    body, left, right = case.segmentation.structures
    lacking = replace(match, reference=Reference(case.volume, replace(case.segmentation, structures=(body, right))))
    alone = next(refined(refiner, [match], case.volume, [left], CancelToken()))[left]
    first, second = refined(refiner, [match, lacking], case.volume, [left], CancelToken())
    assert second == {} and first[left].start == alone.start
    np.testing.assert_allclose(first[left].values, alone.values, atol=1e-6)


def test_after_a_cancel_the_rest_is_empty(match: Match, case: Reference, refiner: Refiner) -> None:
    cancel = CancelToken()
    cancel.cancel()
    masks = next(refined(refiner, [match], case.volume, case.segmentation.structures, cancel))
    assert [mask.values.max() for mask in masks.values()] == [0, 0, 0]


def test_after_a_cancel_no_reference_is_heard_any_more(
    match: Match, case: Reference, refiner: Refiner, monkeypatch: pytest.MonkeyPatch
) -> None:
    cancel, heard = CancelToken(), []
    attend = Match.attend

    def stopped(self: Match, *asked: object, **how: object) -> object:
        heard.append(self)
        cancel.cancel()
        return attend(self, *asked, **how)  # type: ignore[arg-type]

    monkeypatch.setattr(Match, "attend", stopped)
    first, second = refined(refiner, [match, replace(match)], case.volume, case.segmentation.structures, cancel)
    assert len(heard) == 1
    for masks in (first, second):
        assert [mask.values.max() for mask in masks.values()] == [0, 0, 0]
