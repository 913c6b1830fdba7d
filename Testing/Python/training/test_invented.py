"""Invented cohorts: correspondence is exact, contrasts differ as asked, and what is drawn from one seed stays the same."""

import numpy as np
import pytest
import torch

from RAUSlicerLib.training import invented
from RAUSlicerLib.training.cases import load_cases
from RAUSlicerLib.training.datasets import IGNORE
from RAUSlicerLib.training.matching import corresponding

SIZE = (48, 48, 64)


@pytest.fixture(scope="module")
def pairs(heart_sets) -> list:
    cases = load_cases(heart_sets, ("heart_mr",))
    return [invented.invented_pair(cases, SIZE, np.random.default_rng(seed)) for seed in range(12)]


def test_patches_are_what_the_network_takes(pairs) -> None:
    for pair in pairs:
        for patch in pair:
            assert tuple(patch.image.shape) == tuple(patch.labels.shape) == SIZE
            assert patch.image.dtype == torch.float32 and torch.isfinite(patch.image).all()
            assert float(patch.image.min()) >= 0 and float(patch.image.max()) < 1.21
            assert int(patch.labels.min()) >= 0 and int(patch.labels.max()) <= IGNORE
    structures = [len(pair[1].labels.unique()) for pair in pairs]
    assert np.median(structures) >= 5


def test_corresponding_voxels_carry_the_same_structure_though_subjects_differ_in_shape(pairs) -> None:
    agreed = []
    for target, reference in pairs:
        a, b = corresponding(target, reference, SIZE, np.random.default_rng(0), 400)
        if len(a) > 50:
            assert torch.equal(target.labels[tuple(a.T)], reference.labels[tuple(b.T)])
            agreed.append(float((a - b).float().norm(dim=1).std()))
    assert len(agreed) >= 8 and np.median(agreed) > 1


def test_before_any_part_is_dropped_nearly_all_places_agree(heart_sets, monkeypatch) -> None:
    monkeypatch.setattr(invented, "_LACKING", 0.0)
    monkeypatch.setattr(invented, "drop_field_of_view", lambda patch, rng: None)
    shares = []
    for seed in range(6):
        target, reference = invented.invented_pair(load_cases(heart_sets, ("heart_mr",)), SIZE, np.random.default_rng(seed))
        index = np.random.default_rng(1).integers(4, np.array(SIZE) - 4, (2000, 3))
        inverse = np.linalg.inv(np.vstack([reference.to_source, [0, 0, 0, 1]]))
        other = np.round(target.source_of(index) @ inverse[:3, :3].T + inverse[:3, 3]).astype(int)
        inside = ((other >= 0) & (other < np.array(SIZE))).all(1)
        own, theirs = target.labels[tuple(index[inside].T)], reference.labels[tuple(other[inside].T)]
        known = (own != IGNORE) & (theirs != IGNORE)
        shares.append(float((own == theirs)[known].float().mean()))
    # Rounding to voxels costs some at borders.
    assert np.mean(shares) > 0.8


def test_one_seed_gives_one_pair(heart_sets) -> None:
    cases = load_cases(heart_sets, ("heart_mr",))
    first, second = (invented.invented_pair(cases, SIZE, np.random.default_rng(5)) for _ in range(2))
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a.image, b.image) and torch.equal(a.labels, b.labels)


def test_an_anatomy_needs_no_label_maps(rng) -> None:
    cells = invented.anatomy([], (30, 32, 34), rng)
    assert cells.dtype == torch.uint8 and 2 <= len(cells.unique()) < IGNORE
