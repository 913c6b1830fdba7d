"""The YAML file of `rauslicer train recipe`: what it may say, with defaults from the paper."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from ..full_size.slice_reader import Lora
from .datasets import SHIPPED, Datasets, load
from .forms import Count, filled, mapping, read_yaml, require_known, unusable


class Stage(StrEnum):
    """The recipe's stages, in their order."""

    SFT = "sft"
    SEGMENTATION = "segmentation"
    GRPO = "grpo"


@dataclass(frozen=True)
class StageSettings:
    """One stage: ``steps`` of ``batch`` pairs of slices at the highest learning rate ``rate``; 0 steps leave it out.

    In GRPO ``group`` answers in words are drawn a question, of at most ``tokens`` tokens at ``temperature``, and ``draws`` boxes a
    structure, ``noise`` of a box's sides around the one that is answered.
    """

    steps: Count
    rate: float
    batch: int = 1
    group: int = 4
    tokens: int = 256
    temperature: float = 1.0
    draws: int = 8
    noise: float = 0.08


_DEFAULTS = {
    Stage.SFT: StageSettings(2000, 2e-4),
    Stage.SEGMENTATION: StageSettings(1000, 1e-4),
    Stage.GRPO: StageSettings(300, 2e-5),
}


@dataclass(frozen=True)
class RecipeConfig:
    """What is trained on what, and where it goes.

    ``model`` is an installed model, ``embedded`` or one with a large backbone (`rauslicer models compose`), ``data`` the folder of the data
    sets, ``domains`` their shares of the steps, ``output`` the folder of states, logs and the trained model. ``datasets`` is a file that
    describes them, as for `rauslicer train`; without, they are the embedded model's, or folders with images, segmentations and
    ``labels.json``. With ``questions`` so many are drawn once and kept in memory (a few MB each with the embedded model, tens with SAM2.1);
    0 draws each step's anew.
    """

    model: str
    data: Path
    output: Path
    domains: dict[str, float]
    datasets: Path = SHIPPED
    lora: Lora = field(default_factory=Lora)
    stages: dict[Stage, StageSettings] = field(default_factory=lambda: dict(_DEFAULTS))
    device: str = "auto"
    precision: str = "auto"
    checkpointing: bool = True
    tensorboard: bool = True
    threads: int = 2
    seed: int = 0
    save_every: int = 100
    val_pairs: int = 50
    questions: int = 0

    def read_datasets(self) -> Datasets:
        """The data sets as they lie in the folder.

        Raises:
            InputError: they can't be used.
        """
        return load(self.datasets, self.data, self.domains)


def read_recipe(path: Path) -> RecipeConfig:
    """The configuration in a YAML file; paths in it are relative to the current folder.

    Raises:
        InputError: it can't be read, lacks something, or says something unknown.
        ResourceError: the package PyYAML is missing.
    """
    return recipe_of(read_yaml(path), path)


def recipe_of(document: dict[str, Any], path: Path) -> RecipeConfig:
    """The same of what the file says.

    Raises:
        InputError: see `read_recipe`.
    """
    values = dict(document)
    lora = mapping(values.pop("lora", None), path, "lora.")
    require_known(lora, Lora.__dataclass_fields__, path, "lora.")
    given = mapping(values.pop("stages", None), path, "stages.")
    require_known(given, set(Stage), path, "stages.")
    stages = {
        stage: filled(StageSettings, given.get(stage), path, f"stages.{stage}.", steps=default.steps, rate=default.rate)
        for stage, default in _DEFAULTS.items()
    }
    for key in ("group", "draws"):
        if getattr(stages[Stage.GRPO], key) < 2:
            raise unusable(path, f"'stages.grpo.{key}' must be 2 or more: answers are judged against each other.")
    if not values.get("domains", {"": 1}):
        raise unusable(path, "'domains' is empty; it maps folders of the data to their shares, for example {heart_mr: 1.0}.")
    return filled(RecipeConfig, values, path, lora=Lora.from_dict(lora), stages=stages)
