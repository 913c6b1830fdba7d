"""RAU's recipe on a large backbone or on the embedded pair: fine-tuning, segmentation, GRPO, each judged on val before the next begins.

On several GPUs: ``accelerate launch -m RAUSlicerLib.cli train recipe --config recipe.yaml``. A run that is started again goes on where it
stopped. docs/how-to/full-size-models.md explains the configuration.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..errors import InputError
from ..full_size.slice_reader import FullSizeVlm
from ..models.store import model_folders
from ..support import strict_json
from ..support.outputs import foreign, make_folder, require_outside, require_writable
from .cases import load_cases
from .datasets import Datasets
from .loop import Settings, load_learned, train
from .planes import PairSampler
from .recipe_config import RecipeConfig, Stage
from .recipe_judging import FIGURES, judge, note
from .recipe_model import Opened, Say, open_for_training, save_trained, trained_folder
from .recipe_samples import Questions
from .recipe_stages import WEIGHTS, Trainee

# Numbers of questions where each is drawn anew.
_ALL = 2**31


def run_recipe(config: RecipeConfig, *, dry_run: bool = False, say: Say = print) -> Path | None:
    """Train all stages; return the folder of the trained model, None after a dry run.

    Raises:
        InputError: the data can't be used, or it was started with FSDP.
        ModelError: see `open_for_training`.
        ResourceError: see `open_for_training`.
    """
    if os.environ.get("ACCELERATE_USE_FSDP", "false").lower() in ("1", "true"):
        # It would train, and each state would hold the shards of one process alone.
        raise InputError(
            "The recipe can't be trained with FSDP.",
            "Its states and models are written by one process, which has only a share of the weights then.",
            "Start it without --use_fsdp: each process holds the whole model then. If that does not fit, choose a smaller backbone.",
        )
    if not dry_run:
        _check_output(config)
    opened = open_for_training(config)
    if dry_run:
        from .recipe_estimate import estimate

        for sentence in estimate(config, opened.vlm, opened.segmenter, opened.device):
            say(sentence)
        return None
    datasets = config.read_datasets()
    asked = {split: _questions(config, opened, datasets, split) for split in ("train", "val")}
    if asked["train"] is None:
        raise InputError(
            f"There is nothing to train on in {str(config.data)!r}.",
            f"A pair takes train cases of two people, and no set of {', '.join(config.domains)} has them.",
            "Check 'data' and 'domains' of the configuration.",
        )
    # With several processes all judge, which takes no longer, and one writes.
    writes = int(os.environ.get("RANK", "0")) == 0
    before = ("start", judge(opened, asked["val"], config.val_pairs))
    if writes:
        note(config.output, *before, None, say)
    if config.checkpointing and isinstance(opened.vlm, FullSizeVlm):
        _checkpoint(opened.language)
    done: list[str] = []
    for stage, settings in config.stages.items():
        if not settings.steps:
            continue
        _train(config, opened, stage, asked["train"])
        after = judge(opened, asked["val"], config.val_pairs)
        done.append(f"{stage} {settings.steps} steps")
        if writes:
            note(config.output, stage, after, before, say)
            save_trained(config, opened, "; ".join(done))
        before = (stage, after)
    return trained_folder(config)


def _check_output(config: RecipeConfig) -> None:
    """Make sure that results can be written, and that those which are there are a recipe's.

    Raises:
        OutputError: the folder can't be written, belongs to a model, or holds what somebody else has put there.
    """
    make_folder(config.output)
    figures = config.output / FIGURES
    require_writable(figures, "output")
    require_outside([("output", figures)], model_folders(config.model))
    known = _read(figures)
    there = [path for path in (figures, trained_folder(config)) if os.path.lexists(path)]
    if there and not (isinstance(known, dict) and "start" in known):
        raise foreign(there[0], "training by the recipe", "as 'output' of the configuration")


def _read(path: Path) -> Any:
    try:
        return strict_json.load(path, any_number=True)
    except (OSError, ValueError):
        return None


def _checkpoint(model: Any) -> None:
    # transformers is about to give it another name.
    enable = getattr(model, "activation_checkpointing_enable", None)
    if enable is not None:
        enable()
    else:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})


def _questions(config: RecipeConfig, opened: Opened, datasets: Datasets, split: str) -> Questions | None:
    """Questions on the pairs of a split; None where it has no two people."""
    cases = load_cases(datasets, config.domains, split)
    people: dict[str, set[str]] = {domain: {case.subject for case in cases if case.domain == domain} for domain in config.domains}
    # A pair takes two people.
    shares = {domain: share for domain, share in config.domains.items() if len(people[domain]) > 1}
    if not shares:
        return None
    sampler = PairSampler([case for case in cases if case.domain in shares], shares, opened.segmenter.config.image_size)
    keep = split == "val" or config.questions > 0
    names = {domain: datasets[domain].names for domain in config.domains}
    return Questions(opened.segmenter, sampler, names, (config.seed, ("train", "val").index(split)), kept=keep)


def _train(config: RecipeConfig, opened: Opened, stage: Stage, questions: Questions) -> None:
    settings = config.stages[stage]
    if stage is Stage.SEGMENTATION:
        opened.segmenter.config = replace(opened.segmenter.config, use_query=True)
    opened.vlm.forget()
    trainee = Trainee(opened.vlm, opened.segmenter, stage, settings)
    output = config.output / stage
    how = Settings(
        output=str(output),
        steps=settings.steps,
        rate=settings.rate,
        decay=0.0,
        device="cpu" if opened.device.type == "cpu" else "auto",
        threads=config.threads,
        seed=config.seed,
        save_every=config.save_every,
        tensorboard=config.tensorboard,
    )

    def draw(rng: np.random.Generator) -> tuple[str, tuple[Any, ...]]:
        numbers = rng.integers(config.questions or _ALL, size=settings.batch)
        return stage.value, ([questions(int(number)) for number in numbers], rng)

    trainee.train()
    try:
        train(trainee, draw, WEIGHTS[stage], how)
        load_learned(trainee, torch.load(output / "state.pt", weights_only=True, map_location=opened.device)["ema"])
    finally:
        trainee.leave()
        trainee.eval()
        opened.vlm.forget()
