"""Opens one network of a model folder: its class by its kind, its configuration and its tensors, verified."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import nn

from ..errors import ModelError
from .checkpoint import load_config, load_tensors
from .store import ModelFolder

if TYPE_CHECKING:
    from ..full_size.plan import Placement

Network = TypeVar("Network", bound=nn.Module)

# In which form a large language model's weights are kept: auto, bf16, fp16, fp32 or 4bit.
PRECISION_VARIABLE = "RAUSLICER_PRECISION"

# Where networks of each kind and their configurations are, by name: this room knows no network.
_NETWORKS = {
    "rau_matching": ("matching.network", "MatchingNet", "MatchingConfig"),
    "rau_refiner": ("refinement.network", "RefinerNet", "RefinerConfig"),
    "rau_vlm": ("rau.network", "RauVlm", "VlmConfig"),
    "rau_sam2": ("rau.sam2", "MemorySegmenter", "Sam2Config"),
    "rau_region": ("interpretation.region.network", "RegionNet", "RegionConfig"),
}
# Of full-size models nothing is imported until one is opened.
_FULL_SIZE, _FULL_SIZE_KIND = "full_size.opening", "rau_full_size_vlm"


@dataclass
class Opening:
    """What is known while a model is being opened: the ``device`` of the run and the ``precision`` asked for; ``places`` collects plans."""

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    precision: str = "auto"
    places: list[Placement] = field(default_factory=list)


def _room(name: str) -> ModuleType:
    return importlib.import_module(f"..{name}", __package__)


def _build(config: Mapping[str, Any], opening: Opening) -> nn.Module | None:
    """The network that a configuration describes, untrained; None where its kind is not known."""
    kind = config.get("model_type")
    if kind == _FULL_SIZE_KIND:
        made: nn.Module = _room(_FULL_SIZE).open_full_size(config, opening)
        return made
    if kind not in _NETWORKS:
        return None
    room, network, configuration = _NETWORKS[kind]
    built: nn.Module = getattr(_room(room), network)(getattr(_room(room), configuration).from_dict(config))
    return built


def load_part(folder: ModelFolder, part: str, expected: type[Network], opening: Opening | None = None) -> Network:
    """Build one network from its configuration and fill it.

    Raises:
        ModelError: the configuration is of another kind than expected, or the tensors don't fit it.
    """
    path = folder.part(part)
    config = load_config(path)
    kind = config.get("model_type")
    tensors = load_tensors(path)
    if "base" in config:
        tensors = {**_room(_FULL_SIZE).base_tensors(config["base"]), **tensors}
    with torch.random.fork_rng(devices=[]):
        network = _build(config, opening or Opening())
    if not isinstance(network, expected):
        raise ModelError(
            f"The checkpoint {str(path)!r} is of the kind {kind!r}, which can't be the part {part!r} of a model.",
            f"Known kinds are {', '.join([*_NETWORKS, _FULL_SIZE_KIND])}.",
            "Choose another model, or update RAUSlicer.",
        )
    try:
        network.load_state_dict(tensors)
    except RuntimeError as error:
        raise ModelError(
            f"The tensors of {str(path)!r} don't fit its configuration.",
            f"{str(error).splitlines()[-1].strip()}",
            "Install the model again, or get the checkpoint and its config.json from the same release.",
        ) from error
    return network.eval()
