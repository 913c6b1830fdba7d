"""Correspondence on embeddings that are known functions of position, so that the true map is known too."""

from collections.abc import Callable
from dataclasses import replace
from math import cos, radians, sin

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from RAUSlicerLib.matching import correspondence, demons
from RAUSlicerLib.matching.correspondence import (
    COARSE_STEP,
    MOST_CELLS,
    Affine,
    Embedded,
    _mean_around,
    _window,
    attention,
    coarse_field,
    fuse_labels,
    global_affine,
    interpolate,
    pool,
    positions,
    self_similarity,
    similarity,
)
from RAUSlicerLib.matching.demons import refine

SPACING = (2.0, 2.0, 2.0)
SIZE = (32, 40, 36)
Map = Callable[[Tensor], Tensor]


def signature(where: Tensor, channels: int, length: float, seed: int) -> Tensor:
    """Unit embeddings (..., channels) that change with position over about ``length`` mm: random Fourier features."""
    generator = torch.Generator().manual_seed(seed)
    frequency = torch.randn(3, channels // 2, generator=generator) / length
    phase = where @ frequency
    return F.normalize(torch.cat([phase.sin(), phase.cos()], dim=-1), dim=-1)


def anatomy(to_reference: Map, size: tuple[int, int, int] = SIZE, spacing: tuple[float, float, float] = SPACING) -> Embedded:
    """A volume whose voxel at x shows what the reference has at ``to_reference(x)``."""
    fine = signature(to_reference(positions(size, spacing)), 32, 7.0, 1).permute(3, 0, 1, 2)
    coarse = signature(to_reference(positions(size, spacing, COARSE_STEP)), 64, 12.0, 2).permute(3, 0, 1, 2)
    image = signature(to_reference(positions(size, spacing)), 2, 9.0, 3)[..., 0]
    return Embedded(fine.contiguous(), coarse.contiguous(), self_similarity(image), torch.ones(size, dtype=torch.bool), spacing)


def identity(where: Tensor) -> Tensor:
    return where


def turned(where: Tensor) -> Tensor:
    """25 degrees about z, 10 % larger, shifted by up to 12 mm."""
    a = radians(25)
    linear = 1.1 * torch.tensor([[1, 0, 0], [0, cos(a), -sin(a)], [0, sin(a), cos(a)]])
    middle = (torch.tensor(SIZE) - 1) * torch.tensor(SPACING) / 2
    return (where - middle) @ linear.t() + middle + torch.tensor([4.0, -12.0, 6.0])


def bent(where: Tensor) -> Tensor:
    """A smooth warp of up to 6 mm along each axis."""
    wave = torch.stack([(where[..., 2] / 28).sin(), (where[..., 0] / 25).cos(), (where[..., 1] / 30).sin()], dim=-1)
    return where + 6 * wave


def inner(size: tuple[int, ...] = SIZE, margin: int = 6) -> tuple[slice, ...]:
    return tuple(slice(margin, n - margin) for n in size)


@pytest.fixture(scope="module")
def reference() -> Embedded:
    return anatomy(identity)


def corrupted(embedded: Embedded, share: float) -> Embedded:
    """The same with a share of its cells showing something that is nowhere in the reference."""
    generator = torch.Generator().manual_seed(7)
    wrong = torch.rand(embedded.coarse.shape[1:], generator=generator) < share
    coarse = torch.where(wrong, F.normalize(torch.randn(embedded.coarse.shape, generator=generator), dim=0), embedded.coarse)
    d, h, w = embedded.size
    voxels = wrong.repeat_interleave(COARSE_STEP, 0).repeat_interleave(COARSE_STEP, 1).repeat_interleave(COARSE_STEP, 2)[:d, :h, :w]
    fine = torch.where(voxels, F.normalize(torch.randn(embedded.fine.shape, generator=generator), dim=0), embedded.fine)
    return Embedded(fine, coarse, embedded.texture, embedded.inside, embedded.spacing)


@pytest.mark.parametrize("half", [False, True], ids=["whole", "half the field of view"])
def test_global_affine_finds_rotation_scale_and_shift_among_half_outliers(reference: Embedded, half: bool) -> None:
    size = (SIZE[0] // 2, *SIZE[1:]) if half else SIZE
    target = corrupted(anatomy(turned, size), 0.5)

    affine = global_affine(target, reference)

    where = positions(size, SPACING)[inner(size)].reshape(-1, 3)
    error = (affine(where) - turned(where)).norm(dim=1)
    # Half a coarse cell on average.
    assert error.mean() < COARSE_STEP * SPACING[0] / 2 and error.max() < COARSE_STEP * SPACING[0]
    assert 0.1 < affine.inlier_ratio < 0.9


def test_global_affine_is_repeatable(reference: Embedded) -> None:
    target = corrupted(anatomy(turned), 0.5)
    first, second = global_affine(target, reference), global_affine(target, reference)
    assert torch.equal(first.linear, second.linear) and torch.equal(first.shift, second.shift)


def test_support_tells_a_matching_volume_from_a_strange_one(reference: Embedded) -> None:
    strange = corrupted(reference, 1.0)
    assert global_affine(reference, reference).inlier_ratio > 0.95
    assert global_affine(strange, reference).inlier_ratio < 0.2


def elsewhere(where: Tensor) -> Tensor:
    return where + 5000


def part(volume: Embedded, slices: int) -> Embedded:
    """The first slices of a volume."""
    given = (volume.fine[:, :slices], volume.coarse[:, : slices // COARSE_STEP], volume.texture[:, :slices], volume.inside[:slices])
    return Embedded(*given, volume.spacing)


def test_a_turned_volume_is_alike_and_one_of_something_else_is_not(reference: Embedded) -> None:
    same, moved, strange = (similarity(anatomy(way), reference) for way in (identity, turned, elsewhere))
    assert same == pytest.approx(1, abs=1e-5)
    assert same > moved > 0.85 > 0.7 > strange


def test_half_of_a_volume_is_as_alike_as_the_whole_whichever_is_the_reference(reference: Embedded) -> None:
    half = part(reference, SIZE[0] // 2)
    assert similarity(half, reference) == similarity(reference, half) == pytest.approx(1, abs=1e-5)


def test_air_is_like_nothing(reference: Embedded) -> None:
    air = replace(reference, inside=torch.zeros_like(reference.inside))
    assert similarity(air, reference) == similarity(reference, air) == similarity(air, air) == 0


def test_a_mirror_image_is_not_followed(reference: Embedded) -> None:
    flip = torch.tensor([1.0, 1.0, -1.0])
    mirrored = anatomy(lambda where: where * flip + torch.tensor([0, 0, (SIZE[2] - 1) * SPACING[2]]))
    assert torch.linalg.det(global_affine(mirrored, reference).linear) > 0.05


def test_volumes_without_foreground_get_the_plain_map() -> None:
    empty = anatomy(identity, (5, 6, 7))
    nothing = Embedded(empty.fine, empty.coarse, empty.texture, torch.zeros(5, 6, 7, dtype=torch.bool), SPACING)
    affine = global_affine(nothing, nothing)
    assert affine.inlier_ratio == 0 and torch.equal(affine.linear, torch.eye(3)) and torch.equal(affine.shift, torch.zeros(3))
    assert torch.equal(coarse_field(nothing, nothing, affine), positions((5, 6, 7), SPACING, COARSE_STEP))


def test_attention_is_a_softmax_without_numbers_that_processors_are_slow_with() -> None:
    logits = torch.linspace(300, -300, 7).repeat(3, 1) + torch.tensor([[0.0], [5.0], [-40.0]])
    logits[:, 1:4] = logits[:, :1] - torch.tensor([0.5, 3.0, 90.0])
    plain = logits.softmax(1)
    smallest = torch.finfo(torch.float32).tiny
    assert ((plain > 0) & (plain < smallest)).any(), "the case would show nothing"
    found = attention(logits.clone())
    torch.testing.assert_close(found, plain, atol=1e-7, rtol=1e-6)
    assert (found >= smallest).all()


def test_coarse_field_recovers_a_smooth_warp(reference: Embedded) -> None:
    field = coarse_field(anatomy(bent), reference, Affine(torch.eye(3), torch.zeros(3), 1.0))
    cells = positions(SIZE, SPACING, COARSE_STEP)
    inside = inner(tuple(cells.shape[:3]), 2)
    before, after = ((x - bent(cells)).norm(dim=-1)[inside].mean() for x in (cells, field))
    assert before > 5 and after < 0.4 * before


def test_refine_brings_a_smooth_warp_to_within_a_voxel(reference: Embedded) -> None:
    target, truth = anatomy(bent), bent(positions(SIZE, SPACING))
    cells = bent(positions(SIZE, SPACING, COARSE_STEP))
    off = cells + torch.tensor([3.0, -3.0, 3.0])

    field = refine(target, reference, off)

    assert field.shape == (*SIZE, 3) and not field.requires_grad
    assert (field - truth).norm(dim=-1)[inner()].mean() < SPACING[0]


def test_refine_does_not_depend_on_how_many_slices_are_compared_at_once(reference: Embedded, monkeypatch: pytest.MonkeyPatch) -> None:
    target = anatomy(lambda x: x + 2.0 * torch.sin(x / 15.0))
    off = positions(SIZE, SPACING, COARSE_STEP)
    monkeypatch.setattr(demons, "_SLAB", 1000)
    whole = refine(target, reference, off)
    monkeypatch.setattr(demons, "_SLAB", 5)
    torch.testing.assert_close(refine(target, reference, off), whole)


def test_refine_leaves_a_perfect_match_alone(reference: Embedded) -> None:
    field = refine(reference, reference, positions(SIZE, SPACING, COARSE_STEP))
    error = (field - positions(SIZE, SPACING)).norm(dim=-1)[inner()]
    assert error.mean() < 0.25 * SPACING[0]


@pytest.mark.parametrize("size", [(1, 40, 36), (2, 40, 36), (3, 33, 30)])
def test_a_slice_or_a_thin_slab_is_matched_in_its_plane(size: tuple[int, int, int]) -> None:
    def move(where: Tensor) -> Tensor:
        return where + torch.tensor([0.0, 6.0, -4.0])

    target, thin = anatomy(move, size), anatomy(identity, size)

    affine = global_affine(target, thin)
    field = refine(target, thin, coarse_field(target, thin, affine))

    assert affine.inlier_ratio > 0.5
    error = (field - move(positions(size, SPACING)))[:, 6:-6, 6:-6].norm(dim=-1)
    assert error.mean() < 0.75 * SPACING[0]


def test_a_slice_finds_its_level_in_a_volume(reference: Embedded) -> None:
    def level(where: Tensor) -> Tensor:
        return where + torch.tensor([30.0, 0.0, 0.0])

    target = anatomy(level, (1, *SIZE[1:]))
    field = refine(target, reference, coarse_field(target, reference, global_affine(target, reference)))
    assert (field - level(positions((1, *SIZE[1:]), SPACING)))[:, 6:-6, 6:-6].norm(dim=-1).mean() < 2.0


@pytest.mark.parametrize("side", [60, 80, 100, 120])
def test_cells_are_thinned_out_evenly(side: int) -> None:
    size = (side, side, side)
    blank = torch.zeros(1, *(-(-n // COARSE_STEP) for n in size))
    embedded = Embedded(torch.zeros(1, 1, 1, 1).expand(1, *size), blank, torch.zeros(1), torch.ones(size, dtype=torch.bool), SPACING)
    inside, _, where = embedded.cells
    assert MOST_CELLS / 2 < len(where) <= 1.05 * MOST_CELLS or (side == 60 and len(where) == 15**3)
    for axis in range(3):
        counts = inside.sum(dim=[a for a in range(3) if a != axis])
        assert (counts[:-1] + counts[1:]).min() > 0


def spheres(size: tuple[int, int, int]) -> Tensor:
    """Two labels, 1 and 2, side by side."""
    where = positions(size, SPACING)
    labels = torch.zeros(size, dtype=torch.long)
    middle = (torch.tensor(size) - 1) * torch.tensor(SPACING) / 2
    labels[(where - middle - torch.tensor([0, 0, 11.0])).norm(dim=-1) < 10] = 1
    labels[(where - middle + torch.tensor([0, 0, 11.0])).norm(dim=-1) < 10] = 2
    return labels


def fused(target: Embedded, reference: Embedded, field: Tensor, labels: Tensor, count: int, **options: float) -> Tensor:
    """Probabilities (D * H * W, count - 1) of the labels from 1 on."""
    out = torch.zeros(labels.numel(), count - 1)
    where, label, probability = fuse_labels(target, reference, field, labels, count, **options)
    assert torch.equal(label, label.sort()[0])
    out[where, label - 1] = probability
    return out


def test_fused_labels_do_not_depend_on_how_many_voxels_are_compared_at_once(reference: Embedded, monkeypatch: pytest.MonkeyPatch) -> None:
    labels, field = spheres(SIZE), positions(SIZE, SPACING) + torch.tensor([0.0, 2.0, -2.0])
    whole = fused(reference, reference, field, labels, 3)
    monkeypatch.setattr(correspondence, "_CHUNK", 7)
    torch.testing.assert_close(fused(reference, reference, field, labels, 3), whole)


def test_interpolation_is_linear_and_holds_the_border() -> None:
    size = (3, 1, 4)
    rows = positions(size, (1.0, 1.0, 1.0)).view(-1, 3)
    at = torch.tensor([[0.25, 0.0, 2.75], [1.0, 0.0, 3.0], [-5.0, 2.0, 1.5], [9.0, -1.0, 8.0]]).t()
    expected = torch.tensor([[0.25, 0.0, 2.75], [1.0, 0.0, 3.0], [0.0, 0.0, 1.5], [2.0, 0.0, 3.0]])
    torch.testing.assert_close(interpolate(rows, size, at), expected)


@pytest.mark.parametrize(("step", "extent"), [(2, 6), (4, 10), (4, 3)])
def test_pooled_cells_at_the_end_are_means_of_what_is_there(step: int, extent: int) -> None:
    values = torch.arange(extent).float().view(1, extent, 1, 1)
    expected = [values.flatten()[first : first + step].mean() for first in range(0, extent, step)]
    torch.testing.assert_close(pool(values, step).flatten(), torch.stack(expected))
    torch.testing.assert_close(pool(values[0], step, first=0).flatten(), torch.stack(expected))


def test_fused_labels_are_the_references_where_the_field_is_right(reference: Embedded) -> None:
    labels = spheres(SIZE)
    shares = fused(reference, reference, positions(SIZE, SPACING), labels, 3)
    assert float(shares.max()) <= 1 + 1e-5 and float(shares.sum(1).max()) <= 1 + 1e-5
    sure = shares.max(1)[0] > 0.5
    assert (torch.where(sure, shares.argmax(1) + 1, 0) == labels.flatten())[labels.flatten() > 0].float().mean() > 0.99


def test_fused_labels_forgive_an_error_of_a_voxel_in_the_field(reference: Embedded) -> None:
    labels = spheres(SIZE)
    wrong = positions(SIZE, SPACING) + torch.tensor([0.0, 2.0, -2.0])
    blind = Embedded(torch.ones_like(reference.fine) / 32**0.5, reference.coarse, reference.texture, reference.inside, SPACING)

    def dice(target: Embedded, source: Embedded) -> float:
        found = fused(target, source, wrong, labels, 3, scale=200.0)[:, 0] > 0.5
        truth = labels.flatten() == 1
        return float(2 * (found & truth).sum() / (found.sum() + truth.sum()))

    assert dice(reference, reference) > dice(blind, blind) + 0.05


def test_no_label_comes_from_beyond_the_reference(reference: Embedded) -> None:
    labels = torch.ones(SIZE, dtype=torch.long)
    outside = positions(SIZE, SPACING) + 500
    where, label, probability = fuse_labels(reference, reference, outside, labels, 2)
    assert len(where) == len(label) == len(probability) == 0


def test_labels_fill_the_foreground_only(reference: Embedded) -> None:
    inside = torch.zeros(SIZE, dtype=torch.bool)
    inside[4:9, 5:11, 6:13] = True
    target = Embedded(reference.fine, reference.coarse, reference.texture, inside, SPACING)
    where, _, _ = fuse_labels(target, reference, positions(SIZE, SPACING), torch.ones(SIZE, dtype=torch.long), 2)
    assert torch.equal(where, inside.flatten().nonzero()[:, 0])


def test_self_similarity_does_not_change_with_contrast() -> None:
    image = signature(positions((12, 14, 16), SPACING), 2, 9.0, 3)[..., 0]
    torch.testing.assert_close(self_similarity(-3 * image + 1), self_similarity(image), atol=1e-3, rtol=0)
    assert self_similarity(image[:1]).shape == (6, 1, 14, 16)


@pytest.mark.parametrize("size", [(7, 6, 5), (2, 5, 6), (1, 1, 8)])
def test_means_around_voxels_are_those_of_pooling_with_the_rim_repeated(size: tuple[int, int, int]) -> None:
    image = torch.randn(size, generator=torch.Generator().manual_seed(0))
    expected = F.avg_pool3d(F.pad(image[None, None], (1,) * 6, mode="replicate"), 3, stride=1)[0, 0]
    torch.testing.assert_close(_mean_around(image), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("size", [(7, 6, 5), (2, 5, 6), (1, 1, 8)])
@pytest.mark.parametrize("reach", [[2, 2, 2], [0, 1, 3]])
def test_a_windows_maximum_is_that_of_pooling(size: tuple[int, int, int], reach: list[int]) -> None:
    image = torch.randn(size, generator=torch.Generator().manual_seed(0))
    expected = F.max_pool3d(image[None, None], [2 * r + 1 for r in reach], stride=1, padding=reach)[0, 0]
    assert torch.equal(_window(image, reach), expected)
