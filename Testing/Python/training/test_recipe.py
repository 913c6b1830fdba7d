"""RAU's recipe on a tiny random Qwen-VL and a tiny SAM2.1: its configuration, its three stages, and the model that comes out."""

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from RAUSlicerLib.errors import InputError, ModelError
from RAUSlicerLib.full_size import adding, composing, sam2_checkpoints
from RAUSlicerLib.full_size.answers_text import NamedBox
from RAUSlicerLib.full_size.composing import compose
from RAUSlicerLib.full_size.prompts import boxes_answer
from RAUSlicerLib.full_size.slice_reader import Lora
from RAUSlicerLib.models import store
from RAUSlicerLib.models.folders import FOLDER_VARIABLE
from RAUSlicerLib.models.opening import load_part
from RAUSlicerLib.rau.network import RauVlm
from RAUSlicerLib.rau.sam2 import MemorySegmenter, Sam2Config, build_sam2
from RAUSlicerLib.training import recipe
from RAUSlicerLib.training.cases import load_cases
from RAUSlicerLib.training.metrics import box_iou
from RAUSlicerLib.training.planes import PairSampler
from RAUSlicerLib.training.rau import mask_loss
from RAUSlicerLib.training.recipe_config import RecipeConfig, Stage, StageSettings, read_recipe, recipe_of
from RAUSlicerLib.training.recipe_judging import gains, note
from RAUSlicerLib.training.recipe_samples import Sample, make_sample, question, true_boxes
from RAUSlicerLib.training.recipe_stages import Trainee, reward
from RAUSlicerLib.training.tiny_backbone import make_tiny_backbone


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, hearts: Path, tiny_sam2: Sam2Config):
    """A user's folder with a composed model, and a configuration of a few steps a stage."""
    root = tmp_path_factory.mktemp("recipe")
    sizes = {"sam2.1-hiera-tiny": tiny_sam2}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(FOLDER_VARIABLE, str(root / "models"))
        patch.setattr(sam2_checkpoints, "SIZES", sizes)
        patch.setattr(composing, "SIZES", sizes)
        adding.add(make_tiny_backbone(root / "backbone", "qwen2_5_vl"))
        torch.manual_seed(1)
        torch.save({"model": build_sam2(tiny_sam2).state_dict()}, root / "sam2.pt")
        adding.add(root / "sam2.pt", "eyes")
        compose("start", "backbone", "eyes", picture=112)
        splits = json.loads((hearts / "splits.json").read_text())
        data = root / "data"
        data.mkdir()
        (data / "heart_mr").symlink_to(hearts / "heart_mr")
        splits["heart_mr"]["val"] = splits["heart_mr"]["train"]
        (data / "splits.json").write_text(json.dumps(splits))
        yield RecipeConfig(
            "start",
            data,
            root / "work",
            {"heart_mr": 1.0},
            stages={
                Stage.SFT: StageSettings(3, 1e-3),
                Stage.SEGMENTATION: StageSettings(2, 1e-3),
                Stage.GRPO: StageSettings(2, 1e-3, group=3, tokens=8),
            },
            device="cpu",
            precision="fp32",
            threads=1,
            save_every=1,
            val_pairs=2,
        )


@pytest.fixture
def opened(world: RecipeConfig) -> recipe.Opened:
    return recipe.open_for_training(world)


@pytest.fixture
def sample(world: RecipeConfig, opened: recipe.Opened):
    sampler = PairSampler(load_cases(world.read_datasets(), ("heart_mr",)), {"heart_mr": 1.0}, 64)
    plane = sampler.draw(1, np.random.default_rng(3))
    return make_sample(opened.segmenter, plane, [1, 2, 3], {"heart_mr": {1: "body"}}, torch.device("cpu"))


LEARNED = {
    Stage.SFT: {"language", "vlm"},
    Stage.SEGMENTATION: {"vlm", "segmenter"},
    Stage.GRPO: {"language", "vlm"},
}


@pytest.mark.parametrize("stage", Stage)
def test_a_stage_learns_what_the_recipe_says_and_freezes_the_rest(opened: recipe.Opened, stage: Stage) -> None:
    trainee = Trainee(opened.vlm, opened.segmenter, stage, StageSettings(1, 1e-3))
    names = [name for name, parameter in trainee.named_parameters() if parameter.requires_grad]
    trainee.leave()
    assert {name.split(".")[0] for name in names} == LEARNED[stage]
    assert all("lora_" in name for name in names if name.startswith("language."))
    if stage is Stage.GRPO:
        assert all(name.startswith(("vlm.box_head.", "vlm.presence_head.")) for name in names if name.startswith("vlm."))
    if stage is Stage.SEGMENTATION:
        assert [name for name in names if name.startswith("vlm.")] == ["vlm.special"]
        assert all("query_" in name or "sam_mask_decoder" in name for name in names if name.startswith("segmenter."))


def test_the_segmentation_stage_leaves_the_token_of_boxes_alone(world: RecipeConfig, opened: recipe.Opened) -> None:
    before = opened.vlm.special.detach().clone()
    weight = opened.segmenter.sam.sam_mask_decoder.mask_tokens.weight.detach().clone()
    output = world.output.parent / "seg-only"
    config = replace(world, output=output)
    questions = recipe._questions(config, opened, world.read_datasets(), "train")
    assert questions is not None
    recipe._train(config, opened, Stage.SEGMENTATION, questions)
    assert torch.equal(opened.vlm.special[0], before[0]) and not torch.equal(opened.vlm.special[1], before[1])
    assert not torch.equal(opened.segmenter.sam.sam_mask_decoder.mask_tokens.weight, weight)
    assert opened.segmenter.config.use_query


@pytest.mark.parametrize(("pixels", "drawn"), [(1.0, True), (20.0, False)])
def test_the_segmentation_stage_draws_what_dice_wants_and_not_what_is_likelier_than_not(pixels: float, drawn: bool) -> None:
    # Ten of 28 pixels are in, each as often as the others: all of them overlap by 2 * 10 / 38 on average, none by nothing.
    masks = torch.zeros(28, 8, 8)
    for start, mask in enumerate(masks):
        chosen = (start + torch.arange(10)) % 28
        mask[chosen // 7, chosen % 7] = 1
    logits = torch.zeros(8, 8, requires_grad=True)
    optimizer = torch.optim.Adam([logits], 0.1)
    for _ in range(150):
        optimizer.zero_grad()
        mask_loss(logits.expand(28, 8, 8), masks, pixels).mean().backward()
        optimizer.step()
    assert ((logits[:4, :7] > 0) == drawn).all()
    assert (logits[4:] < 0).all()


def test_fsdp_is_refused_before_anything_is_opened(world: RecipeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setattr(recipe, "open_for_training", lambda _config: pytest.fail("it was opened"))
    with pytest.raises(InputError, match="FSDP"):
        recipe.run_recipe(world)


def test_the_adapter_is_that_of_the_paper_by_default(opened: recipe.Opened) -> None:
    assert opened.vlm.config.lora == Lora(r=8, alpha=16, dropout=0.01)
    adapter = opened.vlm.adapter()
    assert {min(value.shape) for value in adapter.values()} == {8}
    assert all(not value.any() for name, value in adapter.items() if "lora_B" in name)


def test_fine_tuning_on_one_question_learns_its_answer(opened: recipe.Opened, sample) -> None:
    torch.manual_seed(0)
    trainee = Trainee(opened.vlm, opened.segmenter, Stage.SFT, StageSettings(1, 1e-3))
    optimizer = torch.optim.Adam([p for p in trainee.parameters() if p.requires_grad], 5e-3)
    seen = []
    for _ in range(25):
        parts = trainee._fine_tuning(sample, np.random.default_rng(0))
        seen.append({key: parts[key].item() for key in ("text", "presence", "box")})
        optimizer.zero_grad()
        (parts["text"] + parts["presence"] + parts["box"]).backward()
        optimizer.step()
    # The frozen backbone is random and tiny, so the way down is slow.
    assert all(seen[-1][key] < 0.97 * seen[0][key] for key in ("text", "box", "presence")), (seen[0], seen[-1])


def test_questions_have_their_true_answers(opened: recipe.Opened, sample) -> None:
    asked = [question(opened.vlm, sample, np.random.default_rng(seed)) for seed in range(12)]
    kinds = {next(iter(json.loads(answer)), None) if answer.startswith("{") else "boxes" for _, answer in asked}
    assert kinds == {"label", "present", "boxes"}
    boxes = true_boxes(sample)
    assert {one.label for one in boxes} <= {"body", "structure 2", "structure 3"} and boxes
    assert sample.pair.names[0] == "body"


def test_rewards_tell_right_from_wrong_and_from_unreadable(opened: recipe.Opened, sample) -> None:
    right = boxes_answer([NamedBox(one.label, tuple(round(side, 3) for side in one.box)) for one in true_boxes(sample)])
    best = reward(opened.segmenter, sample, right)
    assert best["format"] == 1 and best["box"] > 0.95
    moved = boxes_answer([NamedBox(one.label, (0.0, 0.0, 0.1, 0.1)) for one in true_boxes(sample)])
    wrong = reward(opened.segmenter, sample, moved)
    assert wrong["format"] == 1 and wrong["box"] < 0.2
    assert reward(opened.segmenter, sample, "[]")["box"] < best["box"]
    assert set(reward(opened.segmenter, sample, "no idea").values()) == {0.0}


def test_policy_gradient_makes_the_better_answer_likelier(opened: recipe.Opened, sample, monkeypatch: pytest.MonkeyPatch) -> None:
    good, bad = boxes_answer(true_boxes(sample)), "[]"
    if reward(opened.segmenter, sample, good) == reward(opened.segmenter, sample, bad):
        pytest.skip("no structure is there")
    monkeypatch.setattr(opened.vlm.backbone, "say", lambda *_a, **_k: [good, bad])
    trainee = Trainee(opened.vlm, opened.segmenter, Stage.GRPO, StageSettings(1, 1e-3, group=2))
    from RAUSlicerLib.training.recipe_samples import boxes_question

    def likely(text: str) -> float:
        with torch.no_grad():
            encoded = opened.vlm.backbone.encode(boxes_question(opened.vlm, sample), text, end=True)
            logits, said = opened.vlm.backbone.answer_logits(encoded)
            return float(-torch.nn.functional.cross_entropy(logits, said))

    before = likely(good) - likely(bad)
    optimizer = torch.optim.SGD([p for p in trainee.parameters() if p.requires_grad], 0.5)
    for _ in range(3):
        optimizer.zero_grad()
        trainee._policy(sample)["policy"].backward()
        optimizer.step()
    assert likely(good) - likely(bad) > before


@pytest.fixture(scope="module")
def trained(world: RecipeConfig) -> tuple[RecipeConfig, list[str]]:
    said: list[str] = []
    first = {stage: replace(settings, steps=1 if stage is Stage.SFT else 0) for stage, settings in world.stages.items()}
    recipe.run_recipe(replace(world, stages=first), say=said.append)
    recipe.run_recipe(world, say=said.append)
    return world, said


def test_the_whole_recipe_resumes_logs_judges_and_leaves_a_model(trained: tuple[RecipeConfig, list[str]]) -> None:
    world, said = trained
    for stage, settings in world.stages.items():
        state = torch.load(world.output / stage / "state.pt", weights_only=True)
        assert state["step"] == settings.steps
        assert not any("embed_tokens" in key or "visual" in key or "lm_head" in key for key in state["model"])
        assert list((world.output / stage / "tensorboard").iterdir())
    # The second run went on from the first one's step.
    assert (
        max(int(one["step"]) for one in torch.load(world.output / "sft" / "state.pt", weights_only=True)["optimizer"]["state"].values())
        == 3
    )
    judged = json.loads((world.output / "val.json").read_text())
    assert list(judged) == ["start", "sft", "segmentation", "grpo"]
    assert {"named", "readable", "presence", "box_iou", "box_iou_matched", "dice"} <= set(judged["grpo"])
    assert all(0 <= value <= 1 for value in judged["grpo"].values())
    assert any(line.startswith("segmentation: ") for line in said)
    assert any(line.startswith("grpo against segmentation: better ") for line in said)
    pairs = json.loads((world.output / "val_pairs.json").read_text())
    assert pairs["sft"].keys() == judged["sft"].keys()
    assert judged["sft"]["presence"] == pytest.approx(np.mean(list(pairs["sft"]["presence"].values())), abs=1e-4)


def test_the_trained_model_opens_and_carries_what_was_learned(trained: tuple[RecipeConfig, list[str]]) -> None:
    world, _ = trained
    model = adding.add(world.output / "model", "finished")
    vlm = load_part(model, "vlm", torch.nn.Module)
    state = torch.load(world.output / "grpo" / "state.pt", weights_only=True)["ema"]
    for name, value in vlm.adapter().items():
        torch.testing.assert_close(value, state[f"language.{name}"])
    assert any(value.any() for name, value in vlm.adapter().items() if "lora_B" in name)
    segmenter = load_part(model, "sam2", MemorySegmenter)
    assert segmenter.config.use_query
    card = (world.output / "model" / "vlm" / "README.md").read_text()
    assert "sft 3 steps; segmentation 2 steps; grpo 2 steps" in card
    # Of SAM2 only what was learned is kept.
    assert (world.output / "model" / "sam2" / "model.safetensors").stat().st_size < (store.resolve("eyes").size)


def test_a_dry_run_says_what_it_takes_and_starts_nothing(world: RecipeConfig, tmp_path: Path) -> None:
    said: list[str] = []
    assert recipe.run_recipe(replace(world, output=tmp_path / "none"), dry_run=True, say=said.append) is None
    assert len(said) == 5 and not (tmp_path / "none").exists()
    assert "million parameters" in said[0] and "TFLOP/s" in said[1]
    assert all("GB" in line and ("minutes" in line or "hours" in line) for line in said[2:])


@pytest.fixture(scope="module")
def small(world: RecipeConfig, tiny_model: Path) -> RecipeConfig:
    """The same recipe for a tiny model of the embedded kind."""
    stages = {
        Stage.SFT: StageSettings(3, 1e-3),
        Stage.SEGMENTATION: StageSettings(2, 1e-3),
        Stage.GRPO: StageSettings(2, 1e-3, draws=3),
    }
    return replace(world, model=str(tiny_model), output=world.output.parent / "small", stages=stages, questions=4)


@pytest.fixture(scope="module")
def trained_small(small: RecipeConfig) -> list[str]:
    said: list[str] = []
    assert recipe.run_recipe(small, say=said.append) == small.output / "model"
    return said


def test_the_embedded_kind_goes_through_all_stages(small: RecipeConfig, trained_small: list[str]) -> None:
    judged = json.loads((small.output / "val.json").read_text())
    assert list(judged) == ["start", "sft", "segmentation", "grpo"]
    assert {"named", "named_matched", "presence", "box_iou", "dice", "dice_memory"} <= set(judged["grpo"])
    # A stage changes what it learns, and nothing else.
    assert judged["segmentation"]["box_iou"] == judged["sft"]["box_iou"]
    assert len(trained_small) == 7


def test_what_the_embedded_kind_learned_is_merged_into_its_weights(small: RecipeConfig, trained_small: list[str]) -> None:
    model = adding.add(small.output / "model", "small-trained")
    assert set(store.resolve(small.model).parts) == set(model.parts)
    vlm = load_part(model, "vlm", RauVlm)
    assert not any("lora" in name for name, _ in vlm.named_parameters())
    opened = recipe.open_for_training(small)
    for stage in Stage:
        state = torch.load(small.output / stage / "state.pt", weights_only=True)["ema"]
        opened.vlm.load_state_dict({**opened.vlm.state_dict(), **_part(state, "vlm.")})
        opened.segmenter.load_state_dict({**opened.segmenter.state_dict(), **_part(state, "segmenter.")})
    opened.vlm.eval()
    question = recipe._questions(small, opened, small.read_datasets(), "val")(0).pair
    with torch.no_grad():
        with_adapter, merged, before = (one.read(question) for one in (opened.vlm, vlm, recipe.open_for_training(small).vlm))
    # Weights are stored in half precision.
    torch.testing.assert_close(merged.queries, with_adapter.queries, atol=2e-2, rtol=1e-2)
    assert (merged.queries - before.queries).abs().max() > 3 * (merged.queries - with_adapter.queries).abs().max()


def _part(state: dict, prefix: str) -> dict:
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}


def test_a_dry_run_speaks_of_the_embedded_kind_too(small: RecipeConfig, tmp_path: Path) -> None:
    said: list[str] = []
    recipe.run_recipe(replace(small, output=tmp_path / "none"), dry_run=True, say=said.append)
    assert len(said) == 5 and "million parameters" in said[0] and not (tmp_path / "none").exists()


@pytest.fixture
def drawn(small: RecipeConfig) -> tuple[Trainee, Sample]:
    """A model of the embedded kind before GRPO, and a question on a slice that shows a structure."""
    opened = recipe.open_for_training(small)
    questions = recipe._questions(small, opened, small.read_datasets(), "train")
    assert questions is not None
    number = next(number for number in range(50) if questions(number).present.any())
    trainee = Trainee(opened.vlm, opened.segmenter, Stage.GRPO, StageSettings(1, 1e-3, draws=16, noise=0.1))
    return trainee, questions(number)


def overlap(trainee: Trainee, sample: Sample) -> float:
    return float(box_iou(trainee.vlm.read(sample.pair).boxes, sample.wanted)[sample.present].mean())


def right(trainee: Trainee, sample: Sample) -> float:
    probability = trainee.vlm.read(sample.pair).presence.sigmoid()
    return float(torch.where(sample.present, probability, 1 - probability)[sample.counted].mean())


# Boxes start beside the truth, so that there is something to gain.
@pytest.mark.parametrize(
    ("part", "worth", "moved", "steps", "gain"),
    [("policy_box", overlap, (0.3, 0.3, 0.2, 0.2), 25, 0.05), ("policy_presence", right, (0.0, 0.0, 0.0, 0.0), 15, 0.02)],
)
def test_the_policy_gradient_leads_to_better_answers(
    drawn: tuple[Trainee, Sample], part: str, worth: Callable[[Trainee, Sample], float], moved: tuple, steps: int, gain: float
) -> None:
    trainee, sample = drawn
    torch.manual_seed(0)
    with torch.no_grad():
        trainee.vlm.box_head[-1].bias.add_(torch.tensor(moved))
        before = worth(trainee, sample)
    optimizer = torch.optim.Adam([p for p in trainee.parameters() if p.requires_grad], 3e-3)
    for _ in range(steps):
        optimizer.zero_grad()
        trainee._policy(sample)[part].backward()
        optimizer.step()
    with torch.no_grad():
        assert worth(trainee, sample) > before + gain


def test_a_gain_is_told_from_chance(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    before = {key: dict(enumerate(rng.random(60).tolist())) for key in ("surely", "hardly", "same", "unseen")}
    after = {
        "surely": {number: value + 0.1 + 0.01 * rng.standard_normal() for number, value in before["surely"].items()},
        "hardly": {number: value + 0.3 * rng.standard_normal() for number, value in before["hardly"].items()},
        "same": before["same"],
        # The same for every pair, so there is no chance in it, and nobody would see it.
        "unseen": {number: value - 2e-4 for number, value in before["unseen"].items()},
    }
    said: list[str] = []
    note(tmp_path, "sft", after, ("start", before), said.append)
    assert said[1] == "sft against start: better surely; worse nothing (beyond chance)."
    assert gains(before, after)["surely"][0] == pytest.approx(0.1, abs=0.01) and "same" not in gains(before, after)
    note(tmp_path, "grpo", before, ("sft", after), said.append)
    assert "worse surely" in said[3] and list(json.loads((tmp_path / "val.json").read_text())) == ["sft", "grpo"]


def test_a_question_is_the_same_whenever_it_is_asked(small: RecipeConfig) -> None:
    opened = recipe.open_for_training(small)
    kept, anew = (recipe._questions(replace(small, questions=number), opened, small.read_datasets(), "train") for number in (4, 0))
    assert kept is not None and anew is not None
    assert kept(2) is kept(2) and anew(2) is not anew(2)
    assert torch.equal(kept(2).wanted, anew(2).wanted) and not torch.equal(kept(1).prior, kept(2).prior)


def test_a_language_model_that_the_recipe_does_not_know_is_refused(small: RecipeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("RAUSlicerLib.training.recipe_model.load_part", lambda *_given: torch.nn.Linear(1, 1))
    with pytest.raises(ModelError, match="Linear"):
        recipe.open_for_training(small)


def test_data_without_people_is_refused(world: RecipeConfig, tmp_path: Path) -> None:
    (tmp_path / "splits.json").write_text(json.dumps({"heart_mr": {"train": [], "val": []}}))
    with pytest.raises(InputError, match="nothing to train on"):
        recipe.run_recipe(replace(world, data=tmp_path, output=tmp_path / "work"), say=lambda _line: None)


BASE = {"model": "m", "data": "d", "output": "o", "domains": {"heart_mr": 1, "abdomen_ct": 3}}


def test_a_configuration_has_the_papers_defaults() -> None:
    config = recipe_of(BASE, Path("c.yaml"))
    assert config.lora == Lora(8, 16, 0.01) and config.domains == {"heart_mr": 1, "abdomen_ct": 3}
    assert list(config.stages) == [Stage.SFT, Stage.SEGMENTATION, Stage.GRPO]
    changed = recipe_of(BASE | {"stages": {"sft": {"steps": 5}, "grpo": {"steps": 0}}, "lora": {"r": 4}}, Path("c.yaml"))
    assert changed.stages[Stage.SFT].steps == 5 and changed.stages[Stage.SFT].rate == config.stages[Stage.SFT].rate
    assert changed.stages[Stage.GRPO].steps == 0 and changed.lora.r == 4


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"modle": "x"}, "modle"),
        ({"domains": {}}, "domains"),
        ({"domains": {"a": -1}}, "domains"),
        ({"stages": {"rl": {}}}, "stages.rl"),
        ({"stages": {"sft": {"step": 3}}}, "stages.sft.step"),
        ({"stages": {"sft": {"rate": "fast"}}}, "fast"),
        ({"stages": {"grpo": {"group": 1}}}, "group"),
        ({"stages": {"grpo": {"draws": 1}}}, "draws"),
        ({"lora": {"rank": 8}}, "lora.rank"),
        ({"lora": [8]}, "lora"),
    ],
)
def test_a_configuration_that_says_something_wrong_is_refused(change: dict, said: str) -> None:
    with pytest.raises(InputError) as raised:
        recipe_of(BASE | change, Path("c.yaml"))
    assert said in raised.value.explanation


def test_a_file_that_is_no_yaml_or_not_there_is_refused(tmp_path: Path) -> None:
    for text in ("{", "- 1", "model: m"):
        (tmp_path / "c.yaml").write_text(text)
        with pytest.raises(InputError, match="can't be used"):
            read_recipe(tmp_path / "c.yaml")
    with pytest.raises(InputError):
        read_recipe(tmp_path / "none.yaml")


def test_a_folder_that_no_file_describes_is_a_data_set_with_names_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "toes").mkdir()
    (tmp_path / "toes" / "labels.json").write_text('{"1": "big toe"}')
    config = recipe_of(BASE | {"data": str(tmp_path), "domains": {"toes": 1}}, Path("c.yaml"))
    assert config.read_datasets()["toes"].names == {1: "big toe"}


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes of POSIX")
@pytest.mark.parametrize("name", ["pipe", "/dev/zero", "."])
def test_a_configuration_without_an_end_is_refused(name: str, tmp_path: Path, in_time: None) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="can't be used"):
        read_recipe(tmp_path / name)
