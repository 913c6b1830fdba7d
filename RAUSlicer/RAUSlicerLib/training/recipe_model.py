"""A model in training by the recipe, large or embedded: what it is made of, what of it is an adapter, and how it is saved."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..device import choose_device
from ..errors import ModelError
from ..full_size.composing import TRAINED, save_model, save_small_model
from ..full_size.slice_reader import FullSizeVlm, add_adapter
from ..models.checkpoint import load_config
from ..models.manifest import replace_folder
from ..models.opening import Opening, load_part
from ..models.store import ModelFolder, resolve
from ..rau.network import RauVlm, StructureHeads
from ..rau.sam2 import MemorySegmenter
from ..support.outputs import unwritable
from ..support.scratch import ScratchFolder
from .recipe_config import RecipeConfig

Say = Callable[[str], None]
# Either of them answers presence, boxes and `<Seg>` queries; only the large one answers in words, too.
Vlm = FullSizeVlm | RauVlm


@dataclass
class Opened:
    """A model in training: its parts, and what its SAM2 is built on."""

    folder: ModelFolder
    vlm: Vlm
    segmenter: MemorySegmenter
    base: dict | None

    @property
    def device(self) -> torch.device:
        return self.vlm.special.device

    @property
    def language(self) -> Any:
        """The language model inside: where the adapter is."""
        return language_of(self.vlm)


def language_of(vlm: Vlm) -> Any:
    """The language model of a large or of the embedded one."""
    return vlm.backbone.model if isinstance(vlm, FullSizeVlm) else vlm.language


def open_for_training(config: RecipeConfig) -> Opened:
    """The model that the recipe starts from, with a fresh adapter if it has none.

    Raises:
        ModelError: its language model can't be trained so, or is damaged.
        ResourceError: it doesn't fit, or a package is missing.
    """
    folder = resolve(config.model)
    opening = Opening(choose_device(config.device), config.precision)
    # An adapter starts at random: a run that goes on must start from the same one, and so must two processes.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        vlm = _with_adapter(load_part(folder, "vlm", StructureHeads, opening), config)
    segmenter = load_part(folder, "sam2", MemorySegmenter)
    base = load_config(folder.part("sam2")).get("base")
    device = vlm.backbone.device if isinstance(vlm, FullSizeVlm) else opening.device
    return Opened(folder, vlm.to(device), segmenter.to(device), base)


def _with_adapter(vlm: nn.Module, config: RecipeConfig) -> Vlm:
    if isinstance(vlm, RauVlm):
        add_adapter(vlm.language, config.lora)
        return vlm
    if not isinstance(vlm, FullSizeVlm):
        raise ModelError(
            f"The language model of {config.model!r} is of the kind {type(vlm).__name__}, which the recipe can't train.",
            "It gives an adapter to a large backbone or to the embedded language model.",
            "Choose 'embedded', or make a model with `rauslicer models compose`.",
        )
    if vlm.config.lora is not None:
        return vlm
    heads = vlm.own_tensors()
    vlm = FullSizeVlm(replace(vlm.config, lora=config.lora), vlm.backbone)
    nn.Module.load_state_dict(vlm, heads)
    return vlm


def save_trained(config: RecipeConfig, opened: Opened, done: str) -> None:
    """Write the folder ``model`` of the output, whole or not at all; ``done`` says which stages it went through."""
    words = TRAINED.format(what=done)
    folder = trained_folder(config)
    try:
        with ScratchFolder(config.output, ".saving-") as scratch:
            made = scratch / folder.name
            if isinstance(opened.vlm, FullSizeVlm):
                sam2 = str(opened.base["model"]) if opened.base else config.model
                save_model(made, config.model, opened.vlm, opened.segmenter, opened.base, sam2, words)
            else:
                save_small_model(made, opened.folder, opened.vlm, merged(opened.vlm), opened.segmenter, words)
            for part in opened.folder.parts:
                if part not in ("vlm", "sam2"):
                    shutil.copytree(opened.folder.part(part), made / part)
            ModelFolder(folder.name, made).verify()
            replace_folder(made, folder)
    except OSError as error:
        raise unwritable(folder, "trained model", error) from error


def trained_folder(config: RecipeConfig) -> Path:
    """Where the trained model is written."""
    return config.output / "model"


def merged(vlm: RauVlm) -> dict[str, torch.Tensor]:
    """The embedded model's tensors with its adapter's effect added to the weights: nobody needs ``peft`` to run it."""
    from peft.tuners.lora import LoraLayer

    out = dict(vlm.state_dict())
    for name, layer in vlm.named_modules():
        if isinstance(layer, LoraLayer):
            added = sum(layer.get_delta_weight(adapter) for adapter in layer.active_adapters)
            weight = layer.get_base_layer().weight.detach()
            out[f"{name}.weight"] = weight + added
            if f"{name}.base_layer.bias" in out:
                out[f"{name}.bias"] = out[f"{name}.base_layer.bias"]
    return {key: value for key, value in out.items() if ".base_layer." not in key and ".lora_" not in key}
