import numpy as np
import pytest
import torch

from RAUSlicerLib.training.cases import load_cases
from RAUSlicerLib.training.planes import PairSampler


@pytest.fixture(scope="module")
def sampler(heart_sets) -> PairSampler:
    return PairSampler(load_cases(heart_sets, ("heart_mr",)), {"heart_mr": 2.0}, 48)


@pytest.mark.parametrize("slots", [1, 2, 3])
def test_a_pair_has_one_target_and_its_reference_slices(sampler: PairSampler, slots: int) -> None:
    pair = sampler.draw(slots, np.random.default_rng(0))
    assert pair.target.shape == pair.target_labels.shape == (48, 48)
    assert pair.reference.shape == pair.reference_labels.shape == (slots, 48, 48)
    assert pair.prior_labels.shape == (8, 48, 48)
    assert set(pair.target_labels.unique().tolist()) <= {0, 1, 2, 3}


def test_the_prior_lies_on_the_structures_and_the_left_one_on_the_left(sampler: PairSampler) -> None:
    rng = np.random.default_rng(0)
    scores, sides = [], []
    for _ in range(30):
        pair = sampler.draw(1, rng)
        truth, prior = pair.target_labels == 1, (pair.prior_labels == 1).float().mean(0) > 0.5
        if truth.sum() > 100:
            scores.append(float(2 * (truth & prior).sum() / (truth.sum() + prior.sum())))
        for labels in (pair.target_labels, pair.reference_labels[0]):
            left, right = (labels == 2).nonzero(), (labels == 3).nonzero()
            if len(left) > 20 and len(right) > 20:
                sides.append(float(left[:, 1].float().mean() - right[:, 1].float().mean()))
    assert len(scores) > 10 and np.mean(scores) > 0.7
    assert len(sides) > 5 and min(sides) > 0


def test_the_same_seed_draws_the_same_pair(heart_sets) -> None:
    cases = load_cases(heart_sets, ("heart_mr",))
    pairs = []
    for _ in range(2):
        pairs.append(PairSampler(cases, {"heart_mr": 1.0}, 32).draw(2, np.random.default_rng(3)))
    assert torch.equal(pairs[0].target, pairs[1].target) and torch.equal(pairs[0].prior_labels, pairs[1].prior_labels)
