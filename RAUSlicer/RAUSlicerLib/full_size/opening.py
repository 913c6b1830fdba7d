"""Opens the parts of a model that rest on public ones: a language model on an installed backbone, a SAM2 on Meta's."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import ModelError
from ..models.checkpoint import load_config, load_tensors
from ..models.manifest import read_manifest, verify_file
from ..models.opening import Opening
from ..models.store import resolve
from .backbone import TOKENS
from .backbones import PART, describe, fingerprint, open_backbone
from .imports import SAM2_BASE
from .plan import Needs, Placement, place, prompt_bytes
from .slice_reader import FullSizeConfig, FullSizeVlm


def open_full_size(config: dict, opening: Opening) -> FullSizeVlm:
    """The model on its installed backbone, placed as the run's device allows."""
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
