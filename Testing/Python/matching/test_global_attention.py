"""Recognition by looks: an organ is known wherever it lies, and by nothing but its looks where the match is wrong."""

import torch
from torch.nn import functional as F

from RAUSlicerLib.matching import global_attention as module
from RAUSlicerLib.matching.correspondence import COARSE_STEP, Embedded, pool, positions
from RAUSlicerLib.matching.global_attention import global_attention
from RAUSlicerLib.matching.settings import MatchingSettings

SIZE = (24, 28, 32)
SPACING = (2.0, 2.0, 2.0)


def painted(labels: torch.Tensor, inside: torch.Tensor | None = None) -> Embedded:
    """A volume in which every label has looks of its own."""
    generator = torch.Generator().manual_seed(0)
    looks = F.normalize(torch.randn(int(labels.max()) + 1, 16, generator=generator), dim=1)
    fine = looks[labels].permute(3, 0, 1, 2).contiguous()
    cells = looks[labels[1::COARSE_STEP, 1::COARSE_STEP, 1::COARSE_STEP]].permute(3, 0, 1, 2).contiguous()
    seen = torch.ones(SIZE, dtype=torch.bool) if inside is None else inside
    return Embedded(fine, cells, torch.zeros(6, *SIZE), seen, SPACING)


def boxes(shift: int) -> torch.Tensor:
    """Two organs of 8 voxels, in whole cells; the first one moved along x."""
    labels = torch.zeros(SIZE, dtype=torch.long)
    labels[8:16, 4:12, 4 + shift : 12 + shift] = 1
    labels[8:16, 16:24, 4:12] = 2
    return labels


def test_an_organ_is_known_where_the_match_does_not_put_it() -> None:
    moved, reference = boxes(12), boxes(0)
    found = global_attention(painted(moved), painted(reference), positions(SIZE, SPACING), reference, 3)
    assert found.shape == (3, 6, 7, 8)
    truth = F.one_hot(moved[1::4, 1::4, 1::4], 3).permute(3, 0, 1, 2).float()
    torch.testing.assert_close(found, truth, atol=0.02, rtol=0)


def test_of_two_that_look_alike_the_nearer_one_is_meant() -> None:
    labels = boxes(0)
    twins = painted(labels.clamp(max=1))
    found = global_attention(twins, twins, positions(SIZE, SPACING), labels, 3, MatchingSettings(global_width=0.1))
    assert found[1][2:4, 1:3, 1:3].min() > 0.9 and found[2][2:4, 4:6, 1:3].min() > 0.9


def test_air_is_nothing_and_a_volume_of_air_is_no_error() -> None:
    labels = boxes(0)
    inside = torch.zeros(SIZE, dtype=torch.bool)
    inside[:, :14] = True
    found = global_attention(painted(labels, inside), painted(labels), positions(SIZE, SPACING), labels, 3)
    assert found[:, :, 4:].abs().max() == 0 and found[1].max() > 0.9
    nothing = torch.zeros(SIZE, dtype=torch.bool)
    assert global_attention(painted(labels), painted(labels, nothing), positions(SIZE, SPACING), labels, 3).abs().max() == 0


def test_a_thinned_out_reference_gives_the_same_answer() -> None:
    labels = boxes(0)
    volume = painted(labels)
    whole = global_attention(volume, volume, positions(SIZE, SPACING), labels, 3)
    thinned = global_attention(volume, volume, positions(SIZE, SPACING), labels, 3, MatchingSettings(global_keys=(200, 12_000)))
    assert not torch.equal(thinned, whole)
    torch.testing.assert_close(thinned, whole, atol=0.1, rtol=0)


def test_cells_of_several_labels_are_kept_where_there_are_many() -> None:
    shares = torch.eye(3)[torch.arange(60) % 3]
    shares[:40] = 0.5
    for keys, most, expected in ((10, 100, 40), (50, 100, 50), (10, 30, 30)):
        chosen, weight = module._thinned(shares, (keys, most))
        assert len(chosen) == expected and int((chosen < 40).sum()) == min(40, most)
        assert (weight[chosen < 40] == 1).all() and float(weight[chosen >= 40].sum()) == (20 if expected > 40 else 0)


def test_shares_are_means_over_cells_also_at_the_rim() -> None:
    labels = torch.randint(0, 5, (9, 4, 14), generator=torch.Generator().manual_seed(1))
    planes = F.one_hot(labels, 5).permute(3, 0, 1, 2).float()
    torch.testing.assert_close(module._shares(labels, 5), pool(planes, COARSE_STEP).permute(1, 2, 3, 0))


def test_shares_are_those_of_looks_and_distance_written_out() -> None:
    labels, moved = boxes(0), boxes(12)
    target, reference = painted(moved), painted(labels)
    # Far from the origin, where the squares of positions are largest beside their differences.
    field = positions(SIZE, SPACING) + torch.tensor([3.0, -5.0, 40.0])
    found = global_attention(target, reference, field, labels, 3, MatchingSettings(global_sharpness=8.0, global_width=0.4))
    query, keys = (
        (torch.cat([volume.coarse, F.normalize(pool(volume.fine, COARSE_STEP), dim=0)]) / 2**0.5).flatten(1).t()
        for volume in (target, reference)
    )
    where, expected = positions(SIZE, SPACING, COARSE_STEP).view(-1, 3), pool(field.permute(3, 0, 1, 2), COARSE_STEP).flatten(1).t()
    reach = 0.4 * (where.max(0)[0] - where.min(0)[0]).norm() / 3**0.5
    shares = module._shares(labels, 3).view(-1, 3)
    plain = (8.0 * query @ keys.t() - 0.5 * torch.cdist(expected, where) ** 2 / reach**2).softmax(1) @ shares
    torch.testing.assert_close(found.flatten(1).t(), plain, atol=1e-4, rtol=0)
