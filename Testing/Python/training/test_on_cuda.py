"""Losses of every training stage on a pretended CUDA device, which knows no way back: what would stop a GPU's forward pass stops here."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from RAUSlicerLib.full_size import adding, composing, sam2_checkpoints
from RAUSlicerLib.full_size.composing import compose
from RAUSlicerLib.interpretation.region.network import RegionConfig, RegionNet
from RAUSlicerLib.models.folders import FOLDER_VARIABLE
from RAUSlicerLib.rau.sam2 import Sam2Config, build_sam2
from RAUSlicerLib.refinement.network import RefinerConfig
from RAUSlicerLib.training import matching, rau, recipe, refiner, regions
from RAUSlicerLib.training.cases import load_cases
from RAUSlicerLib.training.datasets import Datasets
from RAUSlicerLib.training.planes import PairSampler
from RAUSlicerLib.training.recipe_config import RecipeConfig, Stage, StageSettings
from RAUSlicerLib.training.recipe_samples import make_sample
from RAUSlicerLib.training.recipe_stages import WEIGHTS, Trainee
from RAUSlicerLib.training.regions_batches import assemble
from RAUSlicerLib.training.regions_cases import RegionCase
from RAUSlicerLib.training.settings import MatchingTraining
from RAUSlicerLib.training.tiny_backbone import make_tiny_backbone

DEVICE = torch.device("cuda")
CHEST = (("chest_xray/chest", ""), ("chest_xray/lungs", "chest_xray/chest"), ("chest_xray/left_lung", "chest_xray/lungs"))


def summed(parts: Mapping[str, torch.Tensor], weights: Mapping[str, float]) -> float:
    """The loss as `loop.train` adds it up."""
    loss = torch.stack([weights[key] * value for key, value in parts.items() if key in weights]).sum()
    assert loss.device.type == "cuda" and all(np.isfinite(value.item()) for value in parts.values())
    return loss.item()


@pytest.mark.parametrize("same", [False, True])
def test_matching(cuda: Any, heart_sets: Datasets, rng: np.random.Generator, same: bool) -> None:
    settings = MatchingTraining()
    cases = load_cases(heart_sets, ("heart_mr",))
    while (drawn := matching.sample_pair(cases, heart_sets, settings, rng))[3] is not same:
        pass
    config = matching.MatchingConfig(widths=(8, 8, 16, 16), labels=tuple(heart_sets.label_sets.values()))
    torch.manual_seed(0)
    trainee = matching.Trainee(config, heart_sets, settings)
    there = summed(trainee.to(DEVICE)(*drawn, np.random.default_rng(1)), settings.weights)
    torch.manual_seed(0)
    here = matching.Trainee(config, heart_sets, settings)
    parts = here(*drawn, np.random.default_rng(1))
    assert there == pytest.approx(sum(settings.weights[key] * value.item() for key, value in parts.items()), rel=0.1)


def test_language_model_and_sam2_together(cuda: Any, heart_sets: Datasets, rng: np.random.Generator) -> None:
    trainee = rau.Trainee(heart_sets).to(DEVICE)
    sampler = PairSampler(load_cases(heart_sets, ("heart_mr",)), {"heart_mr": 1.0}, trainee.segmenter.config.image_size)
    pairs, objects = rau.draw_pairs(sampler, 1, rng)
    for seed in range(3):
        summed(rau.step_losses(trainee, pairs, objects, np.random.default_rng(seed)), rau.WEIGHTS)


def test_refiner(cuda: Any) -> None:
    trainee = refiner.Trainee(RefinerConfig(widths=(8, 8, 16))).to(DEVICE)
    truth = (torch.rand(2, 24, 24, 24) > 0.5).float()
    summed(trainee(torch.rand(2, 6, 24, 24, 24), torch.rand(2, 12, 12, 12), truth, torch.tensor([16])), refiner.WEIGHTS)


@pytest.mark.parametrize("stage", regions.STAGES)
def test_regions(cuda: Any, stage: str, rng: np.random.Generator) -> None:
    planes = torch.zeros(1, 48, 48, dtype=torch.bool)
    planes[:, 10:30, 30:42] = True
    name = "chest_xray/left_lung"
    cases = [
        RegionCase(
            f"case{n}", str(n), "chest_xray", torch.rand(48, 48), (name,), planes, {(name, "opacity"): bool(n % 2)}, {"device": True}
        )
        for n in range(4)
    ]
    vocabulary = regions.make_vocabulary(CHEST, cases)
    config = RegionConfig(nodes=CHEST, image_size=32, dim=16, heads=2, layers=1, embedding=12)
    trainee = regions.Trainee(RegionNet(config), vocabulary).to(DEVICE)
    batch, other = assemble(cases, vocabulary, 32, rng), assemble(cases, vocabulary, 32, rng) if stage == "consistency" else None
    bank = vocabulary.bank(rng) if stage in ("image", "region", "frozen") else None
    summed(trainee(stage, batch, other, bank, 0), regions.WEIGHTS[stage])


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, hearts: Path, tiny_sam2: Sam2Config, tiny_model: Path):
    """Configurations of the recipe for a tiny large model and for a tiny one of the embedded kind."""
    root = tmp_path_factory.mktemp("recipe")
    sizes = {"sam2.1-hiera-tiny": tiny_sam2}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(FOLDER_VARIABLE, str(root / "models"))
        patch.setattr(sam2_checkpoints, "SIZES", sizes)
        patch.setattr(composing, "SIZES", sizes)
        adding.add(make_tiny_backbone(root / "backbone", "qwen2_5_vl"))
        torch.save({"model": build_sam2(tiny_sam2).state_dict()}, root / "sam2.pt")
        adding.add(root / "sam2.pt", "eyes")
        compose("start", "backbone", "eyes", picture=112)
        large = RecipeConfig("start", hearts, root / "work", {"heart_mr": 1.0}, device="cuda", precision="bf16", threads=1)
        yield {"large": large, "embedded": replace(large, model=str(tiny_model))}


@pytest.mark.parametrize("stage", Stage)
@pytest.mark.parametrize("kind", ["large", "embedded"])
def test_recipe(cuda: Any, world: dict[str, RecipeConfig], kind: str, stage: Stage) -> None:
    opened = recipe.open_for_training(world[kind])
    assert opened.device.type == "cuda"
    sampler = PairSampler(load_cases(world[kind].read_datasets(), ("heart_mr",)), {"heart_mr": 1.0}, 64)
    sample = make_sample(opened.segmenter, sampler.draw(1, np.random.default_rng(3)), [1, 2, 3], {"heart_mr": {1: "body"}}, DEVICE)
    trainee = Trainee(opened.vlm, opened.segmenter, stage, StageSettings(1, 1e-3, group=2, tokens=8, draws=2))
    try:
        summed(trainee([sample], np.random.default_rng(0)), WEIGHTS[stage])
    finally:
        trainee.leave()
