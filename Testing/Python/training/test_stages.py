"""Two steps of each training stage on tiny data: they save, resume where they stopped, and what they leave can be exported and opened."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from RAUSlicerLib.confidence.calibration import StructureEvidence as Proof
from RAUSlicerLib.errors import InputError, ModelError
from RAUSlicerLib.loading import RauModel, load_model
from RAUSlicerLib.training import export, matching, rau, refiner
from RAUSlicerLib.training.augment import Patch
from RAUSlicerLib.training.config import TrainConfig
from RAUSlicerLib.training.datasets import IGNORE, Datasets
from RAUSlicerLib.training.settings import MatchingTraining, RauTraining, RefinerTraining

STAGES = ("matching", "rau", "refiner")
REFINER = RefinerTraining()


@pytest.fixture(scope="module")
def config(heart_sets: Datasets, tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    """Two steps of each stage from random weights."""
    short = {"steps": 2, "rate": 1e-3, "save_every": 1}
    return TrainConfig(
        data=Path("."),
        output=tmp_path_factory.mktemp("trained"),
        datasets=heart_sets,
        source=Path("hearts.yaml"),
        device="cpu",
        threads=1,
        scores="Dice .5 on one heart.",
        matching=MatchingTraining(**short),
        rau=RauTraining(**short, batch=1),
        refiner=RefinerTraining(**short, references=1, far=48, sizes=((24, 2),)),
    )


@pytest.fixture(scope="module")
def trained(config: TrainConfig) -> Path:
    """States of all stages after one step and a resumed second one; the refiner's pairs are matched by the network of two steps."""
    for stage in (matching, rau, refiner):
        name = stage.__name__.split(".")[-1]
        for steps in (1, 2):
            stage.run(replace(config, **{name: replace(getattr(config, name), steps=steps)}))
            (config.output / f"{name}-{steps}.pt").write_bytes((config.output / name / "state.pt").read_bytes())
    return config.output


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_resumes_at_the_step_it_stopped_at_and_learns(trained: Path, stage: str) -> None:
    first, second = (torch.load(trained / f"{stage}-{steps}.pt", weights_only=True) for steps in (1, 2))
    assert (first["step"], second["step"]) == (1, 2)
    counts = {int(entry["step"]) for entry in second["optimizer"]["state"].values()}
    # Parameters of domains that were not drawn are never stepped; nothing was stepped more than twice.
    assert max(counts) == 2
    changed = [name for name, value in second["model"].items() if not torch.equal(value, first["model"][name])]
    assert len(changed) > 20
    assert all(torch.isfinite(value).all() for value in second["ema"].values() if value.is_floating_point())


def test_a_finished_stage_is_left_as_it_is(trained: Path, config: TrainConfig) -> None:
    before = (trained / "matching" / "state.pt").read_bytes()
    matching.run(config)
    assert (trained / "matching" / "state.pt").read_bytes() == before


def test_pairs_for_the_refiner_are_made_once_for_each_matching_network(trained: Path, config: TrainConfig) -> None:
    files = list((trained / "priors").rglob("*"))
    assert [path.name for path in files if path.is_dir()] == ["matching-2"] and len(files) == 5
    times = [path.stat().st_mtime_ns for path in files]
    refiner.make_priors(config)
    assert [path.stat().st_mtime_ns for path in files] == times
    with pytest.raises(InputError, match="no matching network"):
        refiner.make_priors(replace(config, output=trained / "none"))


def test_a_state_of_other_label_sets_is_refused_before_a_step(trained: Path, config: TrainConfig) -> None:
    other = replace(config, datasets=replace(config.datasets, label_sets={"brain": 228, "heart": 9}))
    with pytest.raises(InputError, match=r"state\.pt"):
        matching.run(other)
    with pytest.raises(ModelError, match="does not fit"):
        export.run(other)


@pytest.fixture(scope="module")
def exported(trained: Path, config: TrainConfig) -> RauModel:
    (trained / "calibration.json").write_text(json.dumps({"intercept": -1.5, "weights": {"round_trip_dice": 2.5}}))
    return load_model(str(export.run(config)))


def test_an_exported_model_gives_the_outputs_of_the_trained_one(trained: Path, config: TrainConfig, exported: RauModel) -> None:
    torch.manual_seed(0)
    first, second = (torch.load(trained / stage / "state.pt", weights_only=True)["ema"] for stage in ("matching", "rau"))
    original, whole = matching.trainee_of(config), rau.trainee_of(config)
    original.load_state_dict(first)
    whole.load_state_dict(second)
    image, plane = torch.rand(1, 1, 9, 10, 11), torch.rand(1, 1, 192, 192)
    with torch.no_grad():
        for ours, theirs in zip(exported.matching(image), original.net.eval()(image), strict=True):
            torch.testing.assert_close(ours, theirs, atol=5e-3, rtol=0)
        head = exported.matching.label_head
        assert head is not None
        rows = original.net(image)[2][0].permute(1, 2, 3, 0).reshape(-1, 32)
        every = original.net.labels(rows).split(tuple(config.datasets.label_sets.values()), dim=1)
        for which, logits in enumerate(every):
            torch.testing.assert_close(head.posterior(rows, which), logits.softmax(1), atol=5e-3, rtol=0)
        ours, theirs = exported.segmenter.encode(plane).low, whole.segmenter.eval().encode(plane).low
        assert (ours - theirs).abs().mean() < 0.01 * theirs.abs().mean() + 1e-3
        evidence = rau.MatchEvidence(torch.rand(2, 24, 24), torch.rand(2, 24, 24), torch.rand(2, 4), torch.rand(2, 4))
        answers = [vlm.eval()(theirs, theirs, evidence) for vlm in (exported.vlm, whole.vlm)]
    torch.testing.assert_close(answers[0].presence, answers[1].presence, atol=2e-2, rtol=0)
    torch.testing.assert_close(answers[0].boxes, answers[1].boxes, atol=2e-3, rtol=0)


def test_an_exported_model_carries_calibration_card_and_licence(config: TrainConfig, exported: RauModel) -> None:
    assert exported.calibration.confidence(Proof(0.6, 0, 0, 0, 0, 0)) == pytest.approx(0.5)
    for part, stage in (("matching", "matching"), ("vlm", "rau"), ("sam2", "rau"), ("refiner", "refiner")):
        card = (config.model / part / "README.md").read_text()
        assert "Not a medical device" in card and "2 of 2 steps done" in card and "license: cc-by-4.0" in card
        assert "Made-up hearts; CC0-1.0. 4 cases of 3 people" in card and "Dice .5 on one heart." in card
        assert f"train {stage} --config hearts.yaml" in card and "rate: 0.001" in card


def test_label_loss_is_none_when_attention_is_right_and_large_when_wrong() -> None:
    keys, labels = torch.eye(4), torch.tensor([0, 1, 2, 3])
    scale = torch.tensor(40.0)
    assert matching.label_loss(keys, labels, keys, labels, scale).abs() < 2e-4
    assert matching.label_loss(keys, labels.flip(0), keys, labels, scale) > 8
    assert matching.label_loss(keys, labels + 9, keys, labels, scale) == 0


def test_position_loss_forgives_neighbours() -> None:
    keys = torch.nn.functional.normalize(torch.tensor([[1.0, 0, 0], [0.99, 0.1, 0], [0, 0, 1.0]]), dim=1)
    where = torch.tensor([[0.0, 0, 0], [1, 0, 0], [9, 9, 9]])
    distance = torch.cdist(where, where)
    near, strict = (matching.position_loss(keys, keys, distance, torch.tensor(20.0), radius) for radius in (3.0, 0.5))
    assert near < 1e-3 < strict


def test_sampling_is_spread_over_the_labels_and_avoids_ignored_voxels(rng: np.random.Generator) -> None:
    labels = torch.zeros(20, 20, 20, dtype=torch.long)
    labels[0, 0, :5] = 3
    labels[10:] = 255
    drawn = labels.flatten()[matching.stratified(labels, 900, rng)]
    assert (drawn != 255).all() and (drawn == 3).float().mean() > 0.08
    assert len(matching.stratified(torch.full((2, 2, 2), 255), 10, rng)) == 0


def test_corresponding_voxels_show_the_same_point(rng: np.random.Generator) -> None:
    shift = np.hstack([np.eye(3), [[2.0], [-1.0], [0.0]]])
    patches = [Patch(torch.ones(8, 8, 8), torch.zeros(8, 8, 8), m) for m in (np.hstack([np.eye(3), np.zeros((3, 1))]), shift)]
    a, b = matching.corresponding(*patches, (8, 8, 8), rng, 100)
    assert len(a) > 50 and (a - b == torch.tensor([2, -1, 0])).all()


def test_box_and_mask_figures() -> None:
    a = torch.tensor([[0.0, 0, 2, 2], [0, 0, 1, 1]])
    b = torch.tensor([[1.0, 0, 3, 2], [2, 2, 3, 3]])
    torch.testing.assert_close(rau.box_iou(a, b), torch.tensor([1 / 3, 0.0]))
    masks = torch.zeros(2, 4, 4, dtype=torch.bool)
    masks[0, :2], masks[1, 1:3] = True, True
    torch.testing.assert_close(rau.dice(masks, masks.flip(0)), torch.tensor([0.5, 0.5]))


def test_labels_of_which_a_case_says_nothing_do_not_compete() -> None:
    logits = torch.zeros(1, 228)
    logits[0, 60] = logits[0, 209] = 50.0
    empty = torch.zeros(1, 1, 1)
    plain, lacking = (
        matching.known_classes(logits, Patch(empty, empty, np.eye(3, 4), unmarked=unmarked)).softmax(1)[0, 60] for unmarked in ((), (209,))
    )
    assert lacking > 0.999 and float(plain) == pytest.approx(0.5, abs=1e-3)


def test_parcels_have_a_smaller_share_of_the_voxels(rng: np.random.Generator) -> None:
    labels = torch.ones(20, 20, 20, dtype=torch.long)
    labels[:10] = 2
    drawn = labels.flatten()[matching.stratified(labels, 9000, rng, (2, 5), 0.4)]
    # Of two thirds it has .4 against 1, of the rest half.
    assert float((drawn == 2).float().mean()) == pytest.approx(2 / 3 * 0.4 / 1.4 + 1 / 6, abs=0.03)


def test_a_part_that_one_of_both_lacks_has_no_correspondence(rng: np.random.Generator) -> None:
    labels = torch.zeros(2, 8, 8, 8)
    labels[0, :4] = 1
    patches = [Patch(torch.ones(8, 8, 8), own, np.eye(3, 4)) for own in labels]
    a, _ = matching.corresponding(*patches, (8, 8, 8), rng, 100)
    assert len(a) > 20 and (a[:, 0] >= 4).all()


def test_a_network_grows_by_label_sets_and_keeps_what_it_knew() -> None:
    small, large = (matching.MatchingNet(matching.MatchingConfig(labels=labels)) for labels in ((3,), (3, 5)))
    large.load_state_dict(matching.grown(small.state_dict(), large))
    assert torch.equal(large.labels.weight[:3], small.labels.weight) and torch.equal(large.fine.weight, small.fine.weight)


def test_voxels_asked_for_are_known_crowd_at_borders_and_stand_for_all(rng: np.random.Generator) -> None:
    labels = torch.zeros(60, 60, 60, dtype=torch.long)
    labels[10:30, 10:30, 10:30] = 2
    labels[40:] = IGNORE
    index, stands_for = matching.asked_for(labels, 5_000, 9_000, rng)
    drawn = labels.flatten()[index]
    assert (drawn != IGNORE).all()
    assert (drawn == 2).float().mean() > 3 * 8000 / 144_000
    for label, size in ((0, 136_000), (2, 8000)):
        assert float(stands_for[drawn == label].sum()) == pytest.approx(size, rel=0.15)


def test_mask_loss_is_one_less_the_mean_dice_of_the_labels_that_are_there() -> None:
    labels, stands_for = torch.tensor([0, 0, 1, 1, 2]), torch.tensor([100.0, 100.0, 1000.0, 1000.0, 500.0])
    right = torch.eye(4)[labels] * 50
    assert float(matching.label_mask_loss(right, labels, stands_for, torch.ones(4))) == pytest.approx(0, abs=1e-4)
    # Label 2 is drawn as label 1, whose Dice is then 2 * 2000 / 4500.
    wrong = torch.eye(4)[torch.tensor([0, 0, 1, 1, 1])] * 50
    assert float(matching.label_mask_loss(wrong, labels, stands_for, torch.tensor([1.0, 1, 0, 1]))) == pytest.approx(
        1 - 4020 / 4520, abs=1e-3
    )
    expected = 1 - ((4000 + 20) / (4500 + 20) + 20 / (500 + 20)) / 2
    assert float(matching.label_mask_loss(wrong, labels, stands_for, torch.ones(4))) == pytest.approx(expected, abs=1e-3)
    assert float(matching.label_mask_loss(right[:2], labels[:2], stands_for[:2], torch.ones(4))) == 0


def test_a_lost_structure_is_carried_smaller_and_near_where_it_was(rng: np.random.Generator) -> None:
    """What the refiner learns from where a reference is unlike the target."""
    where = refiner._positions(48, 1, np.eye(3), np.array([50.0, 40.0, 30.0]))
    corner = torch.tensor([20, 10, 0])
    planes = torch.zeros(1, 60, 60, 60)
    planes[0, 20:40, 20:40, 20:40] = 1
    whole = refiner._at(planes, where - corner)[0] > 0.5
    sizes = []
    for _ in range(5):
        lost = refiner._at(planes, refiner._shrunk(where, planes[0], corner, REFINER, rng) - corner)[0] > 0.5
        sizes.append(int(lost.sum()))
        if lost.any():
            away = lost.nonzero().float().mean(0) - whole.nonzero().float().mean(0)
            assert away.abs().max() <= REFINER.beside + 1
    assert max(sizes) <= 20**3 and min(sizes) < whole.sum() / 4


def test_evidence_that_is_less_sure_says_the_same_in_the_main(rng: np.random.Generator) -> None:
    known = torch.full((40, 48, 64), 0.5)
    known[10:30, 10:30, 10:50] = 1.0
    known[:5] = 0.0
    weaker = refiner._less_sure(known, rng)
    assert weaker.min() >= 0 and weaker.max() <= 1
    assert 0.6 < weaker[10:30, 10:30, 10:50].mean() < 0.99
    assert 0.01 < weaker[:5].mean() < 0.4
    assert torch.equal(weaker[35], known[35])
