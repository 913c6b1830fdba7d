"""Opens a model: the matching network, the vision-language model, SAM2 and the mask refiner of one model folder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import nn

from ..errors import ModelError
from ..localization.matching.network import MatchingConfig, MatchingNet
from ..localization.vlm.network import RauVlm, VlmConfig
from ..segmentation.confidence import Calibration
from ..segmentation.refiner_network import RefinerConfig, RefinerNet
from ..segmentation.sam2 import MemorySegmenter, Sam2Config
from .checkpoint import load_config, load_tensors
from .store import ModelFolder, resolve

Network = TypeVar("Network", bound=nn.Module)

_BUILDERS: dict[str, Callable[[dict], nn.Module]] = {
    "rau_matching": lambda config: MatchingNet(MatchingConfig.from_dict(config)),
    "rau_vlm": lambda config: RauVlm(VlmConfig.from_dict(config)),
    "rau_sam2": lambda config: MemorySegmenter(Sam2Config.from_dict(config)),
    "rau_refiner": lambda config: RefinerNet(RefinerConfig.from_dict(config)),
}


@dataclass(frozen=True)
class RauModel:
    """A model's networks and how its confidences are calibrated. Not every model has a refiner; without one, masks stay as carried."""

    name: str
    matching: MatchingNet
    vlm: RauVlm
    segmenter: MemorySegmenter
    refiner: RefinerNet | None
    calibration: Calibration


def load_model(name: str) -> RauModel:
    """Open a model by name or folder, its checksums verified.

    Raises:
        ModelError: there is none of that name, or a part is missing, damaged or doesn't fit its configuration.
    """
    folder = resolve(name)
    calibration = Calibration(**load_config(folder.part("matching")).get("calibration", {}))
    return RauModel(
        folder.name,
        load_part(folder, "matching", MatchingNet),
        load_part(folder, "vlm", RauVlm),
        load_part(folder, "sam2", MemorySegmenter),
        load_part(folder, "refiner", RefinerNet) if "refiner" in folder.parts else None,
        calibration,
    )


def load_part(folder: ModelFolder, part: str, expected: type[Network]) -> Network:
    """Build one network from its configuration and fill it.

    Raises:
        ModelError: the configuration is of another kind than expected, or the tensors don't fit it.
    """
    path = folder.part(part)
    config = load_config(path)
    kind = config.get("model_type")
    tensors = load_tensors(path)
    with torch.random.fork_rng(devices=[]):
        network = _BUILDERS[kind](config) if kind in _BUILDERS else None
    if not isinstance(network, expected):
        raise ModelError(
            f"The checkpoint {str(path)!r} is of the kind {kind!r}, which can't be the part {part!r} of a model.",
            f"Known kinds are {', '.join(_BUILDERS)}.",
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
