"""Opens a model: the matching network, the vision-language model, SAM2 and the mask refiner of one model folder."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from .confidence.calibration import Calibration
from .errors import ModelError
from .full_size.backbone import TOKENS
from .full_size.backbones import PART, describe, fingerprint, open_backbone
from .full_size.imports import SAM2_BASE
from .full_size.plan import Needs, Placement, place, prompt_bytes
from .full_size.slice_reader import KIND, FullSizeConfig, FullSizeVlm
from .interpretation.region.network import RegionConfig, RegionNet
from .matching.network import MatchingConfig, MatchingNet
from .models.checkpoint import load_config, load_tensors
from .models.manifest import read_manifest, verify_file
from .models.store import EMBEDDED, ModelFolder, resolve
from .rau.network import RauVlm, SliceReader, StructureHeads, VlmConfig
from .rau.sam2 import MemorySegmenter, Sam2Config
from .refinement.network import RefinerConfig, RefinerNet

Network = TypeVar("Network", bound=nn.Module)

# In which form a large language model's weights are kept: auto, bf16, fp16, fp32 or 4bit.
PRECISION_VARIABLE = "RAUSLICER_PRECISION"


@dataclass
class Opening:
    """What is known while a model is being opened: the ``device`` of the run and the ``precision`` asked for; ``places`` collects plans."""

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    precision: str = "auto"
    places: list[Placement] = field(default_factory=list)


def _full_size(config: dict, opening: Opening) -> FullSizeVlm:
    wanted = FullSizeConfig.from_dict(config)
    if config.get("tokens") != list(TOKENS):
        raise ModelError(
            f"The model's special tokens are {config.get('tokens')!r}.",
            f"This RAUSlicer knows {', '.join(TOKENS)}.",
            "Update RAUSlicer, or train the model again.",
        )
    folder = find_backbone(wanted.backbone, wanted.revision)
    placement = plan_backbone(folder, wanted, opening)
    opening.places.append(placement)
    backbone = open_backbone(folder, placement)
    found = (backbone.hidden_size, backbone.first_token)
    if found != (wanted.hidden_size, wanted.first_token):
        raise ModelError(
            f"The backbone {wanted.backbone!r} is another one than this model was trained on.",
            f"It is {found[0]} wide and knows {found[1]} tokens; expected were {wanted.hidden_size} and {wanted.first_token}.",
            "Add the backbone in the revision that the model's card names.",
        )
    return FullSizeVlm(wanted, backbone)


_BUILDERS: dict[str, Callable[[dict, Opening], nn.Module]] = {
    "rau_matching": lambda config, _: MatchingNet(MatchingConfig.from_dict(config)),
    "rau_vlm": lambda config, _: RauVlm(VlmConfig.from_dict(config)),
    KIND: _full_size,
    "rau_sam2": lambda config, _: MemorySegmenter(Sam2Config.from_dict(config)),
    "rau_refiner": lambda config, _: RefinerNet(RefinerConfig.from_dict(config)),
    "rau_region": lambda config, _: RegionNet(RegionConfig.from_dict(config)),
}


@dataclass(frozen=True)
class RauModel:
    """A model's networks and how its confidences are calibrated. Not every model has a refiner; without one, masks stay as carried.

    ``plan`` says in words where large parts run, ``warnings`` what is not as it was asked for.
    """

    name: str
    matching: MatchingNet
    vlm: SliceReader
    segmenter: MemorySegmenter
    refiner: RefinerNet | None
    calibration: Calibration
    plan: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def load_model(name: str, device: torch.device | None = None, precision: str | None = None) -> RauModel:
    """Open a model by name or folder, its checksums verified.

    Args:
        name: Of a model, or the path of its folder. One without a matching network of its own takes the embedded one's, with refiner.
        device: Where it is going to run: large parts are opened there, or elsewhere if they don't fit.
        precision: See ``plan.PRECISIONS``; without, the environment variable ``RAUSLICER_PRECISION``, or ``auto``.

    Raises:
        ModelError: there is none of that name, or a part is missing, damaged or doesn't fit its configuration.
        ResourceError: it fits nowhere.
    """
    folder = resolve(name)
    opening = Opening(device or torch.device("cpu"), precision or os.environ.get(PRECISION_VARIABLE) or "auto")
    matched = folder if "matching" in folder.parts or not folder.runs else resolve(EMBEDDED)
    refined = folder if "refiner" in folder.parts else matched
    calibration = Calibration(**load_config(matched.part("matching")).get("calibration", {}))
    matching = load_part(matched, "matching", MatchingNet)
    segmenter = load_part(folder, "sam2", MemorySegmenter)
    vlm = load_part(folder, "vlm", StructureHeads, opening)
    assert isinstance(vlm, SliceReader)
    return RauModel(
        folder.name,
        matching,
        vlm,
        segmenter,
        load_part(refined, "refiner", RefinerNet) if "refiner" in refined.parts else None,
        calibration,
        tuple(one.words for one in opening.places),
        tuple(warning for one in opening.places for warning in one.warnings),
    )


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
        tensors = {**base_tensors(config["base"]), **tensors}
    with torch.random.fork_rng(devices=[]):
        network = _BUILDERS[kind](config, opening or Opening()) if kind in _BUILDERS else None
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


def base_tensors(base: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors of the public SAM2 that a part is built on; the part's own come on top of them."""
    path = _revision(str(base.get("model")), SAM2_BASE, str(base.get("revision")))
    return {f"sam.{key}": value for key, value in load_tensors(path).items()}


def find_backbone(name: str, revision: str) -> Path:
    """The folder of an installed backbone in the revision that is asked for, its files verified.

    Raises:
        ModelError: it is not installed, damaged, or of another revision.
    """
    path = _revision(name, PART, revision)
    manifest = read_manifest(path)
    for file in manifest.files:
        verify_file(path, manifest, file)
    return path


def _revision(name: str, part: str, revision: str) -> Path:
    try:
        path = resolve(name).part(part)
    except ModelError as error:
        raise ModelError(
            f"This model is built on {name!r}, which is not installed.",
            error.explanation,
            f"Add it with `rauslicer models add FOLDER --name {name}`.",
        ) from error
    found = fingerprint(read_manifest(path))
    if found != revision:
        raise ModelError(
            f"The model {name!r} is of another revision than this one was built on.",
            f"Its fingerprint is {found}, expected was {revision}.",
            "Add the revision that the model's card names, or train the model again on this one.",
        )
    return path


def plan_backbone(folder: Path, config: FullSizeConfig, opening: Opening) -> Placement:
    """Where a backbone will run; nothing is loaded.

    Raises:
        ModelError: it can't see images, or is damaged.
        ResourceError: it fits nowhere.
    """
    found = describe(folder)
    needs = Needs(config.backbone, found.parameters, prompt_bytes(found.config, config.picture, config.regions))
    return place(needs, opening.device, opening.precision)


def plan_model(name: str, device: torch.device, precision: str = "auto") -> tuple[str, ...]:
    """In words, where the parts of a model would run; only sizes are read.

    Raises:
        ModelError: it is damaged or lacks what it is built on.
        ResourceError: it fits nowhere.
    """
    folder = resolve(name)
    if not folder.runs:
        raise ModelError(
            f"{name!r} can't be run.",
            f"It holds {', '.join(folder.parts) or 'nothing'}: something that models are built on.",
            "Make a model of it with `rauslicer models compose`.",
        )
    config = load_config(folder.part("vlm"))
    if "backbone" not in config or isinstance(config["backbone"], dict):
        return (f"{folder.name} is {folder.size / 1e6:.0f} MB large and runs on {device}.",)
    wanted = FullSizeConfig.from_dict(config)
    placement = plan_backbone(find_backbone(wanted.backbone, wanted.revision), wanted, Opening(device, precision))
    return (placement.words, *placement.warnings)
