"""Training labels as evidence: the reference shows what they are worth, and no name or number of theirs is read."""

import pytest
import torch
from torch.nn import functional as F

from RAUSlicerLib.matching.correspondence import Embedded
from RAUSlicerLib.matching.label_posteriors import LabelEvidence, LabelHead, _Layer, _most_probable, _worth, label_evidence

SIZE = (24, 28, 32)
WHOLE = tuple(slice(0, n) for n in SIZE)
# What training knew: tissue 0 to 3 of one kind of body, and two of another that nothing here looks like.
CENTRES = F.normalize(torch.randn(6, 16, generator=torch.Generator().manual_seed(0)), dim=1)
HEAD = LabelHead((40 * CENTRES[4:], 40 * CENTRES[:4]), (torch.zeros(2), torch.zeros(4)))


def painted(tissue: torch.Tensor, inside: torch.Tensor | None = None) -> Embedded:
    """A volume whose voxels look like the tissues of training, each a little different."""
    noise = 0.05 * torch.randn(16, *SIZE, generator=torch.Generator().manual_seed(1))
    fine = F.normalize(CENTRES[tissue].permute(3, 0, 1, 2) + noise, dim=0)
    seen = torch.ones(SIZE, dtype=torch.bool) if inside is None else inside
    return Embedded(fine, torch.zeros(1, 6, 7, 8), torch.zeros(6, *SIZE), seen, (2.0, 2.0, 2.0), fine)


def organs(shift: int = 0, extent: int = 8) -> torch.Tensor:
    """Two organs of tissue 1 and 2 in tissue 0, each with a rim of tissue 3 on one side."""
    tissue = torch.zeros(SIZE, dtype=torch.long)
    tissue[8 : 8 + extent, 4 : 4 + extent, 4 + shift : 4 + extent + shift] = 1
    tissue[8:16, 16:24, 4:12] = 2
    tissue[8:16, 16:24, 12:14] = 3
    return tissue


def evidence(target: torch.Tensor, reference: torch.Tensor, labels: torch.Tensor, count: int) -> LabelEvidence:
    return label_evidence(painted(target), painted(reference), [labels], [count], HEAD)


def test_an_organ_is_known_elsewhere_and_at_another_size() -> None:
    reference, target = organs(extent=4), organs(shift=16)
    found = evidence(target, reference, reference, 3).of([0], WHOLE)
    assert found.shape == SIZE
    assert found[target == 1].min() > 0.9 and found[target != 1].max() < 0.1


def test_numbers_of_structures_are_not_those_of_training() -> None:
    tissue = organs()
    other = torch.tensor([0, 2, 1, 0])[tissue]
    found = evidence(tissue, tissue, other, 2)
    assert found.of([0], WHOLE)[tissue == 2].min() > 0.9
    assert found.of([1], WHOLE)[tissue == 1].min() > 0.9


def test_a_structure_of_several_tissues_is_described_by_all_of_them() -> None:
    tissue = organs()
    both = ((tissue == 2) | (tissue == 3)).long()
    found = evidence(tissue, tissue, both, 1).of([0], WHOLE)
    assert found[both > 0].min() > 0.9 and found[tissue == 1].max() < 0.1
    # Two structures taken as one are the same.
    apart = evidence(tissue, tissue, torch.tensor([0, 0, 1, 2])[tissue], 2).of([0, 1], WHOLE)
    assert apart[both > 0].min() > 0.9 and apart[both == 0].max() < 0.1


def test_half_of_a_tissue_is_not_told_from_the_other_half() -> None:
    """Where the training labels don't tell a structure from what is beside it, they speak neither for nor against it."""
    tissue = organs()
    half = torch.zeros(SIZE, dtype=torch.long)
    half[8:16, 4:12, 4:8] = 1
    found = evidence(tissue, tissue, half, 1).of([0], WHOLE)
    assert float(found[half > 0].mean()) == pytest.approx(float(found[(tissue == 1) & (half == 0)].mean()), abs=0.02)
    assert found[tissue == 2].max() < 0.1


def test_layers_are_numbered_on() -> None:
    tissue = organs()
    layers = [(tissue == 1).long(), (tissue == 2).long()]
    found = label_evidence(painted(tissue), painted(tissue), layers, [1, 1], HEAD)
    assert found.ratio.shape == (2, 4)
    assert found.of([1], WHOLE)[tissue == 2].min() > 0.9 and found.of([1], WHOLE)[tissue == 1].max() < 0.1


def test_air_says_nothing_and_a_box_is_a_part_of_the_whole() -> None:
    tissue = organs()
    inside = torch.zeros(SIZE, dtype=torch.bool)
    inside[:, :14] = True
    found = label_evidence(painted(tissue, inside), painted(tissue), [tissue], [3], HEAD)
    whole = found.of([1], WHOLE)
    assert (whole[:, 14:] == 0.5).all() and (whole[:, :14] < 0.1).all()
    box = (slice(3, 9), slice(10, 20), slice(0, 5))
    torch.testing.assert_close(found.of([1], box), whole[box])


def test_a_structure_that_is_not_there_has_no_evidence() -> None:
    tissue = organs()
    found = evidence(tissue, tissue, (tissue == 1).long(), 2)
    torch.testing.assert_close(found.of([1], WHOLE), torch.full(SIZE, 0.5), atol=0.01, rtol=0)


def test_worth_is_the_share_inside_beside_that_of_what_is_around() -> None:
    tissue = organs()
    volume, labels = painted(tissue), (tissue == 1).long()
    rows = volume.fine.permute(1, 2, 3, 0)
    inside = HEAD.posterior(rows[labels == 1], 1).mean(0)
    # Eight voxels around a box from (8, 4, 4) to (16, 12, 12), every second one of each axis.
    around = HEAD.posterior(rows[:25:2, :21:2, :21:2][labels[:25:2, :21:2, :21:2] == 0], 1).mean(0)
    worth, _ = _worth(volume.label_rows, _Layer(labels, 1), HEAD, 1, 8)
    torch.testing.assert_close(worth[0], (inside + 1e-5) / (inside + around + 2e-5), atol=1e-5, rtol=0)


@pytest.mark.parametrize("count", [3, 70, 255])
def test_the_most_probable_labels_of_every_voxel_in_their_order(count: int) -> None:
    generator = torch.Generator().manual_seed(2)
    head = LabelHead((30 * torch.randn(count, 16, generator=generator),), (torch.randn(count, generator=generator),))
    volume = painted(organs(), torch.rand(SIZE, generator=generator) > 0.3)
    index, share = _most_probable(volume, head, 0, 4)
    probability = head.posterior(volume.label_rows, 0).view(*SIZE, count)
    expected = (255 * probability.topk(min(4, count), dim=3)[0]).round().permute(3, 0, 1, 2) * volume.inside
    # Of labels that are as probable to a 255th, any will do; and summed in another order, a probability may be rounded the other way.
    assert (share.float() - expected).abs().max() <= 1
    named = (255 * probability.permute(3, 0, 1, 2).gather(0, index.long())).round() * volume.inside
    assert (named - share.float()).abs().max() <= 1 and (index.sort(0)[0].diff(dim=0) != 0)[:, volume.inside].all()
