"""Training of the region model: what is true of which region, no flips, losses that fall, and stages that resume."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from RAUSlicerLib.anatomy.graph import AnatomyGraph, Node
from RAUSlicerLib.interpretation.region.model import RegionModel
from RAUSlicerLib.interpretation.region.network import RegionConfig, RegionNet
from RAUSlicerLib.interpretation.region.phrases import load_knowledge
from RAUSlicerLib.training import region_scores, regions, regions_losses
from RAUSlicerLib.training.config import TrainConfig
from RAUSlicerLib.training.datasets import Datasets
from RAUSlicerLib.training.regions_batches import (
    FALSE,
    TRUE,
    UNKNOWN,
    Bank,
    Vocabulary,
    assemble,
    image_truths,
    region_truths,
    sampling_grid,
)
from RAUSlicerLib.training.regions_cases import RegionCase, is_held_out, load_radiographs, model_nodes, thirds
from RAUSlicerLib.training.settings import RegionStage, RegionTraining

SIDE = 48
NODES = (
    ("chest_xray/chest", ""),
    ("chest_xray/lungs", "chest_xray/chest"),
    ("chest_xray/right_lung", "chest_xray/lungs"),
    ("chest_xray/left_lung", "chest_xray/lungs"),
    ("abdomen/liver", ""),
)


def _case(number: int) -> RegionCase:
    """A picture with two lungs, of which one is hazy: the right one in cases of odd numbers."""
    rng = np.random.default_rng(number)
    image = torch.full((SIDE, SIDE), 0.6)
    planes = torch.zeros(2, SIDE, SIDE, dtype=torch.bool)
    shift = int(rng.integers(-3, 4))
    planes[0, 10 + shift : 36 + shift, 6:18] = True
    planes[1, 10 + shift : 36 + shift, 30:42] = True
    image[planes[0]], image[planes[1]] = (0.45, 0.1) if number % 2 else (0.1, 0.45)
    image += torch.from_numpy(rng.normal(0, 0.02, image.shape)).float()
    names = ("chest_xray/right_lung", "chest_xray/left_lung")
    facts = {(name, "opacity"): bool(number % 2) != bool(side) for side, name in enumerate(names)}
    return RegionCase(f"case{number}", str(number), "chest_xray", image, names, planes, facts, {"device": bool(number % 3)})


@pytest.fixture(scope="module")
def cases() -> list[RegionCase]:
    return [_case(number) for number in range(6)]


@pytest.fixture(scope="module")
def vocabulary(cases: list[RegionCase]) -> Vocabulary:
    return regions.make_vocabulary(NODES, cases)


def test_a_mirrored_picture_has_mirrored_boxes_under_unchanged_names(cases: list[RegionCase], vocabulary: Vocabulary) -> None:
    case = cases[0]
    mirrored = RegionCase("m", "0", case.graph, case.image.flip(1), case.regions, case.planes.flip(2), case.facts, {})
    plain, other = (assemble([one], vocabulary, 32, None).boxes[0] for one in (case, mirrored))
    right, left = (vocabulary.number[f"chest_xray/{side}_lung"] for side in ("right", "left"))
    assert plain[right, 0] < 0.5 < plain[left, 0]
    torch.testing.assert_close(other[:, 0][[right, left]], 1 - plain[:, 0][[right, left]])
    torch.testing.assert_close(other[:, 1:][[right, left]], plain[:, 1:][[right, left]])


def test_augmentation_never_mirrors(cases: list[RegionCase], vocabulary: Vocabulary) -> None:
    rng = np.random.default_rng(0)
    right, left = (vocabulary.number[f"chest_xray/{side}_lung"] for side in ("right", "left"))
    for _ in range(60):
        grid = sampling_grid(16, rng, reach=0.3)
        across, down = grid[0, 0, -1] - grid[0, 0, 0], grid[0, -1, 0] - grid[0, 0, 0]
        assert across[0] > 0 and down[1] > 0
        batch = assemble(cases[:1], vocabulary, 32, rng)
        if (batch.visible[0, [right, left]] == TRUE).all():
            assert batch.boxes[0, right, 0] < batch.boxes[0, left, 0]


def test_a_bank_says_what_is_true_of_which_region(cases: list[RegionCase], vocabulary: Vocabulary) -> None:
    batch = assemble(cases[:1], vocabulary, 32, None)
    bank = vocabulary.bank(np.random.default_rng(0))
    truths = region_truths(batch, bank, vocabulary)[0]
    right, left, liver = (vocabulary.number[name] for name in ("chest_xray/right_lung", "chest_xray/left_lung", "abdomen/liver"))
    opacity = vocabulary.finding_number["chest_xray", "opacity"]

    def of(node: int, negated: bool) -> int:
        chosen = (bank.findings == opacity) & (bank.nodes == node) & (bank.negated == negated)
        return int(chosen.nonzero()[0, 0])

    # TrainingCase 0 is hazy on the left.
    assert truths[left, of(-1, False)] == truths[right, of(-1, True)] == TRUE
    assert truths[left, of(-1, True)] == truths[right, of(-1, False)] == FALSE
    assert truths[left, of(left, False)] == TRUE and truths[right, of(left, False)] == truths[right, of(left, True)] == FALSE
    name = int(((bank.findings < 0) & (bank.nodes == left)).nonzero()[0, 0])
    assert truths[left, name] == TRUE and truths[right, name] == FALSE
    assert (truths[liver] == UNKNOWN).all()
    assert "left" in bank.phrases[of(left, False)] and "left" not in bank.phrases[of(-1, False)]


def test_negations_of_unknown_facts_stay_unknown(cases: list[RegionCase], vocabulary: Vocabulary) -> None:
    batch, bank = assemble(cases[:1], vocabulary, 32, None), vocabulary.bank(np.random.default_rng(0))
    consolidation = vocabulary.finding_number["chest_xray", "consolidation"]
    columns = (bank.findings == consolidation) & (bank.nodes < 0)
    assert (region_truths(batch, bank, vocabulary)[0][:, columns] == UNKNOWN).all()
    device = (bank.findings == vocabulary.finding_number["chest_xray", "device"]).nonzero()[:, 0]
    assert image_truths(batch, bank)[0, device].tolist() == [FALSE, TRUE]


def test_a_fifth_of_the_positives_is_a_denial() -> None:
    bank = Bank(
        ("a", "no b"),
        torch.zeros(2, 3),
        torch.tensor([0, 1]),
        torch.tensor([-1, -1]),
        torch.zeros(2),
        torch.tensor([False, True]),
        torch.tensor([0, 1]),
    )
    chosen = regions_losses.choose_positives(torch.full((4000, 2), TRUE), bank, torch.Generator().manual_seed(0))
    assert 0.17 < (chosen == 1).float().mean() < 0.23
    only = regions_losses.choose_positives(torch.tensor([[FALSE, TRUE], [FALSE, FALSE]]), bank)
    assert only.tolist() == [1, -1]


def test_contrast_is_low_when_the_true_phrase_is_nearest_and_blind_to_the_unknown() -> None:
    truths = torch.tensor([[TRUE, FALSE, UNKNOWN], [FALSE, TRUE, UNKNOWN]])
    right = torch.tensor([[1.0, 0.0, 9.0], [0.0, 1.0, -9.0]])
    chosen, scale = torch.tensor([0, 1]), torch.tensor(12.0)
    assert regions_losses.contrast(right, truths, chosen, scale) < 1e-3
    assert regions_losses.contrast(1 - right, truths, chosen, scale) > 10
    assert regions_losses.contrast(right, truths, torch.tensor([-1, -1]), scale) == 0


def test_regional_contrast_wants_the_same_region_alike_across_pictures() -> None:
    content = torch.eye(3)[None].repeat(2, 1, 1)
    allowed, related = torch.ones(2, 3, dtype=torch.bool), torch.eye(3, dtype=torch.bool)
    alike = regions_losses.regional_contrast(content, content, related, allowed)
    mixed = regions_losses.regional_contrast(content, content.flip(1), related, allowed)
    assert alike < 1e-2 < 1 < mixed
    # Nodes that hold one another are no negatives: with all related there is nothing to tell apart.
    assert regions_losses.regional_contrast(content, content, torch.ones(3, 3, dtype=torch.bool), allowed) < alike + 1e-6


def test_hierarchy_wants_children_to_tell_the_parent() -> None:
    parents = regions.child_shares((("a", ""), ("b", "a"), ("c", "a")))
    assert parents.tolist() == [[0, 0.5, 0.5], [0, 0, 0], [0, 0, 0]]
    content = torch.tensor([[[1.0, 1.0], [2.0, 0.0], [0.0, 2.0]]])
    is_parent, allowed = parents.sum(1) > 0, torch.ones(1, 3, dtype=torch.bool)
    same = torch.nn.Identity()
    assert regions_losses.hierarchy(content, is_parent, parents, same, allowed) < 1e-6
    content[0, 0] = torch.tensor([1.0, -1.0])
    assert regions_losses.hierarchy(content, is_parent, parents, same, allowed) > 0.9


def test_hidden_patches_are_blank_and_only_they_are_reconstructed() -> None:
    images = torch.ones(2, 1, 32, 32)
    masked, hidden = regions_losses.hide(images, 8, torch.Generator().manual_seed(0))
    assert 0 < hidden.float().mean() < 1
    blank = torch.nn.functional.unfold(masked, 8, stride=8).transpose(1, 2).sum(-1) == 0
    assert torch.equal(blank, hidden)
    made = torch.zeros(2, 16, 64)
    made[hidden] = 1
    assert regions_losses.reconstruction(made, images, hidden, 8) == 0


def test_names_of_the_synthetic_graphs_reach_the_phrases() -> None:
    nodes = {"whole": Node("whole", "Whole"), "part": Node("part", "Small part", "whole")}
    graph = AnatomyGraph("chest_xray", "", nodes)
    made = Vocabulary(
        (("chest_xray/whole", ""), ("chest_xray/part", "chest_xray/whole")),
        {"chest_xray": graph},
        {"chest_xray": load_knowledge("chest_xray")},
        {"chest_xray/part"},
    )
    assert "small part" in made.spoken["chest_xray/part"]
    assert made.related.all() and made.located == ["chest_xray/part"]


@pytest.fixture
def config(cases: list[RegionCase], heart_sets: Datasets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TrainConfig:
    """Two steps a stage, of a small network on made-up pictures."""
    monkeypatch.setattr(regions, "load_all", lambda data, split, cache: cases[:4] if split == "train" else cases[4:])
    monkeypatch.setattr(regions, "model_nodes", lambda: NODES)
    monkeypatch.setattr(
        regions, "RegionConfig", lambda nodes: RegionConfig(nodes=nodes, image_size=32, dim=16, heads=2, layers=1, embedding=12)
    )
    monkeypatch.setattr(region_scores, "DRAWS", 20)
    stages = {stage: RegionStage(steps=2, rate=2e-3, save_every=1, batches=2) for stage in regions.STAGES}
    where = {"data": tmp_path, "output": tmp_path / "out", "source": Path("mine.yaml"), "device": "cpu", "threads": 1}
    return TrainConfig(**where, datasets=heart_sets, regions=RegionTraining(batch=4, **stages))


def test_stages_follow_each_other_resume_and_leave_a_model_with_figures(config: TrainConfig) -> None:
    first = RegionTraining(batch=4, **{s: replace(getattr(config.regions, s), steps=int(s == "consistency")) for s in regions.STAGES})
    regions.run(replace(config, regions=first))
    regions.run(config)
    states = {stage: torch.load(config.output / "regions" / stage / "state.pt", weights_only=True) for stage in regions.STAGES}
    for state in states.values():
        assert state["step"] == 2 and max(int(entry["step"]) for entry in state["optimizer"]["state"].values()) == 2
        assert all(torch.isfinite(value).all() for value in state["ema"].values())
    # The last stage leaves the encoder as it is, and the rest learns.
    before, after = states["region"]["ema"], states["frozen"]["ema"]
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert {"net.queries", "net.local.weight", "net.text.weight"} <= changed
    assert not any(name.startswith(("net.stem", "net.layers", "net.norm", "net.position")) for name in changed)
    model = RegionModel.load(str(config.output / "regions" / "model"))
    assert set(model.trained) == {"chest_xray/right_lung", "chest_xray/left_lung"}
    card = (config.output / "regions" / "model" / "region" / "README.md").read_text()
    assert "Chest radiographs of 4 people" in card and "2 more are held out" in card and "Not a medical device" in card
    assert "frozen 2 steps" in card and "boxes/chest_xray: iou" in card and "license: cc-by-4.0" in card


def test_figures_stand_beside_what_the_train_cases_say_without_a_model(cases: list[RegionCase], vocabulary: Vocabulary) -> None:
    torch.manual_seed(0)
    net = RegionNet(RegionConfig(nodes=NODES, image_size=32, dim=16, heads=2, layers=1, embedding=12)).eval()
    still = [replace(case, planes=cases[0].planes) for case in cases]
    figures = region_scores.score(net, still[:4], still[4:], vocabulary)
    # These lungs lie at the same place in all cases.
    assert figures["boxes/chest_xray"]["mean_box_iou"]["value"] == pytest.approx(1.0)
    assert figures["maps/chest_xray"]["mean_mask_point"]["value"] == 1.0 and figures["maps/chest_xray"]["point"]["n"] == 4
    assert figures["phrases/chest_xray/opacity"]["score"]["n"] == 4
    trust = region_scores.trust_of(figures | {"phrases/chest_xray/none": {"score": region_scores.figure([], np.zeros((0, 2)), np.sum)}})
    assert trust["chest_xray/opacity"]["patients"] == 2 and "chest_xray/none" not in trust


def test_the_area_under_the_curve() -> None:
    def area(scores: list[float], truths: list[bool]) -> float:
        return region_scores.area(np.array([scores, truths], float).T)

    assert area([0.1, 0.4, 0.35, 0.8], [False, False, True, True]) == pytest.approx(0.75)
    assert area([0.5, 0.5], [False, True]) == pytest.approx(0.5)
    assert np.isnan(area([0.1, 0.2], [True, True]))


def test_an_interval_is_over_people_not_pictures() -> None:
    # Two people with a hundred pictures each: as uncertain as two values.
    made = region_scores.figure(["a"] * 100 + ["b"] * 100, np.repeat([0.0, 1.0], 100), region_scores.mean)
    assert made == {"value": 0.5, "low": 0.0, "high": 1.0, "n": 200, "patients": 2}


def test_pointing() -> None:
    mask = np.zeros((8, 8), bool)
    mask[2:4, 2:6] = True
    heat = np.where(mask, 3.0, -1.0)
    assert region_scores.points_at(heat, mask) and not region_scores.points_at(-heat, mask)


@pytest.mark.parametrize("stage", ["consistency", "region"])
def test_a_few_steps_lower_the_loss(stage: str, cases: list[RegionCase], vocabulary: Vocabulary) -> None:
    torch.manual_seed(0)
    trainee = regions.Trainee(RegionNet(RegionConfig(nodes=NODES, image_size=32, dim=32, heads=2, layers=1, embedding=24)), vocabulary)
    optimizer = torch.optim.AdamW(trainee.parameters(), 2e-3)
    rng = np.random.default_rng(0)
    batch = assemble(cases, vocabulary, 32, rng)
    other = assemble(cases, vocabulary, 32, rng) if stage == "consistency" else None
    bank = vocabulary.bank(rng)
    history = []
    for _ in range(25):
        parts = trainee(stage, batch, other, bank, 0)
        loss = torch.stack([regions.WEIGHTS[stage][key] * value for key, value in parts.items()]).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history.append(loss.item())
    assert history[-1] < 0.8 * history[0]


def test_consistency_uses_no_box_mask_or_phrase(cases: list[RegionCase], vocabulary: Vocabulary) -> None:
    torch.manual_seed(0)
    trainee = regions.Trainee(RegionNet(RegionConfig(nodes=NODES, image_size=32, dim=16, heads=2, layers=1, embedding=12)), vocabulary)
    batch, other = (assemble(cases, vocabulary, 32, np.random.default_rng(seed)) for seed in (0, 1))
    losses = trainee("consistency", batch, other, None, 0)
    for part in (batch, other):
        for known in (part.boxes, part.visible, part.facts, part.image_facts):
            known.fill_(0)
    again = trainee("consistency", batch, other, None, 0)
    assert {key: value.item() for key, value in losses.items()} == {key: value.item() for key, value in again.items()}


def test_zones_are_thirds_of_a_lungs_height() -> None:
    lung = np.zeros((20, 6), bool)
    lung[4:16, 1:4] = True
    upper, mid, lower = thirds(lung)
    assert [int(zone.sum()) for zone in (upper, mid, lower)] == [12, 12, 12]
    assert upper[4:8].any() and mid[8:12].any() and lower[12:16].any() and not (upper & mid).any()


def test_a_third_of_the_patients_is_held_out() -> None:
    patients = ["20", "3", "100", "7", "7", "55", "8"]
    assert {p for p in patients if is_held_out(p, patients)} == {"7", "55"}


@pytest.mark.data
def test_radiographs_of_both_splits_share_no_patient_and_sides_are_right(data_folder: Path) -> None:
    train, held = (load_radiographs(data_folder, split) for split in ("train", "val"))
    assert len(train) > len(held) >= 7
    assert not {case.patient for case in train} & {case.patient for case in held}
    # Several entries share a file name; each picture is used once.
    assert len({case.name for case in train + held}) == len(train + held)
    for case in train + held:
        columns = [
            case.planes[case.regions.index(f"chest_xray/{side}_lung")].nonzero()[:, 1].float().mean()
            for side in ("right", "left")
            if f"chest_xray/{side}_lung" in case.regions
        ]
        assert len(columns) == 1 or columns[0] < columns[1]


def test_the_models_nodes_have_parents_before_children_and_all_labelled_organs() -> None:
    nodes = model_nodes()
    names = [name for name, _ in nodes]
    assert all(not parent or parent in names[:i] for i, (_, parent) in enumerate(nodes))
    assert sum(name.startswith("chest_xray/") for name in names) == 32
    assert {"abdomen/liver", "abdomen/spleen", "abdomen/right_kidney", "abdomen/left_adrenal_gland"} <= set(names)


def test_coverage_says_how_much_of_a_patch_lies_in_a_box() -> None:
    covered = regions_losses.coverage(torch.tensor([[0.25, 0.5, 0.5, 1.0], [0.5, 0.5, 0.5, 0.5]]), 2).view(2, 2, 2)
    torch.testing.assert_close(covered, torch.tensor([[[1.0, 0.0], [1.0, 0.0]], [[0.25, 0.25], [0.25, 0.25]]]))
