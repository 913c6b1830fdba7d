"""RAU's recipe on a large backbone: supervised fine-tuning, segmentation, GRPO, each judged on val before the next begins.

    rauslicer train --config recipe.yaml --dry-run
    rauslicer train --config recipe.yaml

On several GPUs: ``accelerate launch -m RAUSlicerLib.training.recipe --config recipe.yaml``. A run that is started again goes on where it
stopped. docs/full-size-models.md explains the configuration.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from argparse import Namespace
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ..errors import InputError, ModelError, ResourceError
from ..localization.vlm.full_size import FullSizeVlm
from ..models.checkpoint import load_config
from ..models.composing import TRAINED, save_model
from ..models.device import choose_device
from ..models.manifest import replace_folder
from ..models.rau import Opening, load_part
from ..models.store import ModelFolder, resolve
from ..segmentation.sam2 import MemorySegmenter
from .cases import load_cases
from .joint import box_iou, choose_objects, dice
from .planes import PairSampler, PlanePair
from .recipe_config import RecipeConfig, Stage, read_config
from .recipe_samples import Names, make_sample, read_names
from .recipe_stages import WEIGHTS, Trainee, masks_of

Say = Callable[[str], None]


@dataclass
class Opened:
    """A model in training: its parts, and what its SAM2 is built on."""

    folder: ModelFolder
    vlm: FullSizeVlm
    segmenter: MemorySegmenter
    base: dict | None


def open_for_training(config: RecipeConfig) -> Opened:
    """The model that the recipe starts from, with a fresh adapter if it has none.

    Raises:
        ModelError: it has no large backbone, or is damaged.
        ResourceError: it doesn't fit, or a package is missing.
    """
    folder = resolve(config.model)
    opening = Opening(choose_device(config.device), config.precision)
    vlm: nn.Module = load_part(folder, "vlm", nn.Module, opening)
    if not isinstance(vlm, FullSizeVlm):
        raise ModelError(
            f"The model {config.model!r} has no large language model.",
            "RAU's recipe trains an adapter for one; the embedded model is trained as docs/training.md says.",
            "Make one with `rauslicer models compose`.",
        )
    if vlm.config.lora is None:
        heads = vlm.own_tensors()
        vlm = FullSizeVlm(replace(vlm.config, lora=config.lora), vlm.backbone)
        nn.Module.load_state_dict(vlm, heads)
    segmenter = load_part(folder, "sam2", MemorySegmenter)
    base = load_config(folder.part("sam2")).get("base")
    device = vlm.backbone.device
    return Opened(folder, vlm.to(device), segmenter.to(device), base)


def run_recipe(config: RecipeConfig, *, dry_run: bool = False, say: Say = print) -> Path | None:
    """Train all stages; return the folder of the trained model, None after a dry run.

    Raises:
        InputError: the data can't be used.
        ModelError: see `open_for_training`.
        ResourceError: see `open_for_training`.
    """
    opened = open_for_training(config)
    if dry_run:
        from .recipe_estimate import estimate

        for sentence in estimate(config, opened.vlm, opened.segmenter, opened.vlm.backbone.device):
            say(sentence)
        return None
    names = read_names(config.data, list(config.domains))
    samplers = {split: _sampler(config, opened, split) for split in ("train", "val")}
    if samplers["train"] is None:
        raise InputError(
            f"There is nothing to train on in {str(config.data)!r}.",
            f"splits.json lists no train case of {', '.join(config.domains)}.",
            "Check 'data' and 'domains' of the configuration.",
        )
    judged = judge(opened, samplers["val"], names, config)
    _note(config, "start", judged, say)
    if config.checkpointing:
        _checkpoint(opened.vlm.backbone.model)
    done: list[str] = []
    for stage, settings in config.stages.items():
        if not settings.steps:
            continue
        _train(config, opened, stage, samplers["train"], names)
        judged = judge(opened, samplers["val"], names, config)
        _note(config, stage, judged, say)
        done.append(f"{stage} {settings.steps} steps")
        _save(config, opened, "; ".join(done))
    return config.output / "model"


def _checkpoint(model: Any) -> None:
    # transformers is about to give it another name.
    enable = getattr(model, "activation_checkpointing_enable", None)
    if enable is not None:
        enable()
    else:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})


def _sampler(config: RecipeConfig, opened: Opened, split: str) -> PairSampler | None:
    try:
        cases = load_cases(config.data, tuple(config.domains), split)
    except (OSError, KeyError, RuntimeError, ValueError) as error:
        raise InputError(
            f"The data in {str(config.data)!r} can't be used.",
            f"{type(error).__name__}: {str(error)[:200]}",
            "It needs splits.json and a folder for each domain, as docs/training.md says.",
        ) from error
    people: dict[str, set[str]] = {domain: {case.subject for case in cases if case.domain == domain} for domain in config.domains}
    # A pair takes two people.
    kept = {domain: share for domain, share in config.domains.items() if len(people[domain]) > 1}
    if not kept:
        return None
    shares = {domain: share / sum(kept.values()) for domain, share in kept.items()}
    return PairSampler([case for case in cases if case.domain in shares], shares, opened.segmenter.config.image_size)


def _train(config: RecipeConfig, opened: Opened, stage: Stage, sampler: PairSampler, names: Names) -> None:
    try:
        from .loop import load_learned, train
    except ImportError as error:
        raise ResourceError(
            "The package 'accelerate' is missing.", "Training runs on it.", "Install it: pip install 'rauslicer[train]'."
        ) from error
    settings = config.stages[stage]
    if stage is Stage.SEGMENTATION:
        opened.segmenter.config = replace(opened.segmenter.config, use_query=True)
    opened.vlm.backbone.forget()
    trainee = Trainee(opened.vlm, opened.segmenter, stage, settings, names)
    output = config.output / stage
    args = Namespace(
        output=str(output),
        steps=settings.steps,
        rate=settings.rate,
        device="cpu" if opened.vlm.backbone.device.type == "cpu" else "auto",
        threads=config.threads,
        seed=config.seed,
        save_every=config.save_every,
        tensorboard=config.tensorboard,
    )

    def draw(rng: np.random.Generator) -> tuple[str, tuple[Any, ...]]:
        planes: list[PlanePair] = []
        objects: list[list[int]] = []
        while len(planes) < settings.batch:
            plane = sampler.draw(1, rng)
            chosen = choose_objects(plane, rng)
            if chosen:
                planes.append(plane)
                objects.append(chosen)
        return stage.value, (planes, objects, rng)

    trainee.train()
    try:
        train(trainee, draw, WEIGHTS[stage], args, decay=0.0)
        load_learned(trainee, torch.load(output / "state.pt", weights_only=True, map_location=opened.vlm.backbone.device)["ema"])
    finally:
        trainee.leave()
        trainee.eval()
        opened.vlm.backbone.forget()


@torch.no_grad()
def judge(opened: Opened, sampler: PairSampler | None, names: Names, config: RecipeConfig) -> dict[str, float]:
    """How well a model answers on val: the same pairs each time. Empty without val people.

    ``named`` is the share of regions that are called by their name, of all that are asked about, also where the answer can't be read.
    """
    if sampler is None:
        return {}
    vlm, segmenter = opened.vlm.eval(), opened.segmenter.eval()
    figures: dict[str, list[float]] = {}
    for number in range(config.val_pairs):
        rng = np.random.default_rng([config.seed, 1, number])
        plane = sampler.draw(1, rng)
        labels = choose_objects(plane, rng)
        if not labels:
            continue
        sample = make_sample(segmenter, plane, labels, names, vlm.special.device)
        answers = vlm.read(sample.pair)
        present, counted = sample.present, sample.counted
        found = {"presence": float(((answers.presence > 0) == present)[counted].float().mean()) if counted.any() else None}
        there = present.nonzero()[:, 0].tolist()
        if there:
            found["box_iou"] = float(box_iou(answers.boxes[present], sample.wanted[present]).mean())
            found["box_iou_matched"] = float(box_iou(sample.pair.evidence.matched_box[present], sample.wanted[present]).mean())
            for with_prior, key in ((True, "dice"), (False, "dice_memory")):
                logits, _ = masks_of(segmenter, sample, answers.queries, answers.boxes, with_prior=with_prior)
                found[key] = float(dice((logits > 0)[present], sample.truth[present]).mean())
            asked = there[int(rng.integers(len(there)))]
            said = vlm.ask_name(sample.pair.pictures, sample.pair.names, sample.truth[asked].cpu().numpy())
            found["named"], found["readable"] = float(said == sample.pair.names[asked]), float(said is not None)
        for key, value in found.items():
            if value is not None:
                figures.setdefault(key, []).append(value)
        vlm.forget()
    return {key: round(float(np.mean(values)), 4) for key, values in sorted(figures.items())}


def _note(config: RecipeConfig, stage: str, judged: dict[str, float], say: Say) -> None:
    path = config.output / "val.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    known = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    known[str(stage)] = judged
    path.write_text(json.dumps(known, indent=2) + "\n", encoding="utf-8")
    figures = ", ".join(f"{key} {value:.3f}" for key, value in judged.items())
    say(f"{stage}: {figures or 'no val people, so nothing is judged'}")


def _save(config: RecipeConfig, opened: Opened, done: str) -> None:
    sam2 = str(opened.base["model"]) if opened.base else config.model
    with tempfile.TemporaryDirectory(prefix=".saving-", dir=config.output) as scratch:
        made = Path(scratch) / "model"
        save_model(made, config.model, opened.vlm, opened.segmenter, opened.base, sam2, TRAINED.format(what=done))
        for part in opened.folder.parts:
            if part not in ("vlm", "sam2"):
                shutil.copytree(opened.folder.part(part), made / part)
        replace_folder(made, config.output / "model")


def main() -> None:
    """Train as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--dry-run", action="store_true")
    options = parser.parse_args()
    run_recipe(read_config(options.config), dry_run=options.dry_run)


if __name__ == "__main__":
    main()
