import numpy as np
import pytest
import torch

from RAUSlicerLib.training.augment import (
    cut,
    degrade,
    drop_field_of_view,
    patch_transform,
    random_affine,
    random_shift,
    recolor,
    rotation,
    synthesize,
)
from RAUSlicerLib.training.cases import TrainingCase
from RAUSlicerLib.training.datasets import IGNORE


@pytest.fixture
def ramp() -> TrainingCase:
    """Intensities that tell the position: 3 z + 2 y + x; every voxel of a plane has the plane's number as label."""
    z, y, x = np.indices((12, 20, 24))
    image = torch.from_numpy((3 * z + 2 * y + x).astype(np.uint8))
    labels = torch.from_numpy(z.astype(np.uint8))
    return TrainingCase("heart_mr", "ramp", "ramp", image, labels, (5.0, 2.0, 1.5), 2.5, {})


def test_a_patch_shows_what_its_map_says(ramp: TrainingCase, rng) -> None:
    to_source = patch_transform(ramp, (6, 7, 8), np.array([5.0, 10.0, 12.0]), random_affine(rng), ramp.working)
    patch = cut(ramp, (6, 7, 8), to_source)
    for index in ((0, 0, 0), (3, 2, 5), (5, 6, 7)):
        source = to_source[:, :3] @ index + to_source[:, 3]
        assert float(patch.image[index]) * 255 == pytest.approx(source @ (3, 2, 1), abs=1e-2)
        assert int(patch.labels[index]) == round(source[0])


def test_the_middle_of_a_patch_is_where_it_was_asked_for_and_its_scale_is_the_working_one(ramp: TrainingCase) -> None:
    centre = np.array([5.0, 10.0, 12.0])
    to_source = patch_transform(ramp, (5, 7, 9), centre, np.eye(3), ramp.working)
    np.testing.assert_allclose(to_source[:, :3] @ (2, 3, 4) + to_source[:, 3], centre)
    np.testing.assert_allclose(to_source[:, :3] * np.array(ramp.spacing)[:, None], 2.5 * np.eye(3))


def test_a_bent_patch_shows_what_its_map_and_shift_say(ramp: TrainingCase, rng) -> None:
    to_source = patch_transform(ramp, (6, 7, 8), np.array([5.0, 10.0, 12.0]), random_affine(rng), ramp.working)
    patch = cut(ramp, (6, 7, 8), to_source, random_shift((6, 7, 8), rng))
    index = np.array([(1, 2, 3), (3, 2, 5), (4, 5, 6)])
    source = patch.source_of(index)
    assert np.abs(source - (index @ to_source[:, :3].T + to_source[:, 3])).max() > 0.05
    for voxel, place in zip(index, source, strict=True):
        if (place > 0).all() and (place < np.array(ramp.image.shape) - 1).all():
            assert float(patch.image[tuple(voxel)]) * 255 == pytest.approx(place @ (3, 2, 1), abs=2e-2)
            assert int(patch.labels[tuple(voxel)]) == round(place[0])


def test_random_shifts_are_strong_smooth_and_hardly_ever_fold(rng) -> None:
    folded, reach = [], []
    for _ in range(20):
        shift = random_shift((48, 56, 64), rng)
        steps = [torch.diff(shift[..., axis], dim=axis) for axis in range(3)]
        folded.append(max(float((step < -1).float().mean()) for step in steps))
        reach.append(float(shift.norm(dim=3).max()))
    assert np.mean(folded) < 0.01 and max(reach) > 4


def test_a_worse_scanner_shows_the_same_place(rng) -> None:
    torch.manual_seed(0)
    image = torch.zeros(24, 24, 24)
    image[8:16, 8:16, 8:16] = 1
    changed = [degrade(image, rng) for _ in range(30)]
    assert any(not torch.equal(one, image) for one in changed)
    places = torch.stack(torch.meshgrid(*[torch.arange(24.0)] * 3, indexing="ij"))
    for one in changed:
        middle = (places * one).flatten(1).sum(1) / one.sum()
        torch.testing.assert_close(middle, torch.full((3,), 11.5), atol=0.6, rtol=0)


def test_what_lies_outside_is_black_and_ignored(ramp: TrainingCase) -> None:
    patch = cut(ramp, (4, 4, 4), patch_transform(ramp, (4, 4, 4), np.array([-50.0, 10.0, 12.0]), np.eye(3), ramp.working))
    assert float(patch.image.abs().max()) == 0 and (patch.labels == 255).all()


@pytest.mark.parametrize("axis", range(3))
def test_rotation_turns_about_its_axis_and_never_mirrors(axis: int) -> None:
    angles = np.zeros(3)
    angles[axis] = 0.3
    turn = rotation(angles)
    np.testing.assert_allclose(turn @ np.eye(3)[axis], np.eye(3)[axis], atol=1e-12)
    np.testing.assert_allclose(turn @ turn.T, np.eye(3), atol=1e-12)
    assert np.trace(turn) == pytest.approx(1 + 2 * np.cos(0.3))


def test_left_stays_left_in_all_random_maps(rng) -> None:
    for _ in range(50):
        affine = random_affine(rng)
        assert np.linalg.det(affine) > 0.3 and (affine.diagonal() > 0.5).all()


def test_a_missing_field_of_view_is_black_and_ignored_on_one_side(ramp: TrainingCase, rng) -> None:
    patch = cut(ramp, (8, 8, 8), patch_transform(ramp, (8, 8, 8), np.array([5.0, 10.0, 12.0]), np.eye(3), ramp.working))
    drop_field_of_view(patch, rng)
    gone = patch.labels == 255
    assert 0.2 < gone.float().mean() < 0.7
    assert float(patch.image[gone].abs().max()) == 0


@pytest.mark.parametrize("contrast", [False, True])
def test_recoloring_keeps_air_and_changes_tissue(rng, contrast: bool) -> None:
    torch.manual_seed(0)
    image = torch.rand(6, 7, 8) * 0.8 + 0.1
    image[:2] = 0
    changed = recolor(image, rng, contrast=contrast)
    assert changed.shape == image.shape and torch.equal(changed[:2], image[:2])
    assert (changed[2:] - image[2:]).abs().mean() > 0.01
    assert changed.min() >= 0 and changed.max() <= 1.2


def test_a_made_up_scan_has_one_intensity_a_label_and_both_sides_alike(rng) -> None:
    torch.manual_seed(0)
    labels = torch.zeros(12, 12, 40, dtype=torch.long)
    for number, label in enumerate((60, 59, 58, IGNORE)):
        labels[:, :, 10 * number : 10 * number + 9] = label
    first, second = synthesize(labels, rng), synthesize(labels, rng)
    left, right, other = (first[2:10, 2:10, 10 * n + 2 : 10 * n + 7] for n in range(3))
    assert float(left.mean()) == pytest.approx(float(right.mean()), abs=0.02) and abs(left.mean() - other.mean()) > 0.05
    assert abs(float(second[2:10, 2:10, 2:7].mean()) - float(left.mean())) > 0.02
    assert float(first[:, :, 32:36].abs().max()) == 0
