"""Makes a model of an installed backbone and a SAM2: heads that nobody has trained yet, and which change nothing of what matching found.

Boxes are the matched ones, structures are present where matching sees them, and the `<Seg>` query is not listened to. Such a model runs
from the first day, and the training by RAU's recipe starts from it.
"""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from ..errors import ModelError, OutputError
from ..models.checkpoint import load_config, save_checkpoint
from ..models.manifest import read_manifest
from ..models.opening import load_part
from ..models.store import EMBEDDED, ModelFolder, check_name, resolve, user_folder
from ..rau.network import RauVlm
from ..rau.sam2 import MemorySegmenter
from ..support.scratch import ScratchFolder
from .backbones import PART, fingerprint, open_backbone
from .imports import SAM2_BASE
from .opening import base_tensors
from .plan import Placement
from .sam2_checkpoints import SIZES
from .slice_reader import FullSizeConfig, FullSizeVlm, Lora

# An untrained model believes what matching sees: this presence leaves the matched probability nearly as it is.
_PRESENT = 3.0
_CARD = """# {name}: {part}

Made by RAUSlicer from the backbone {backbone!r} (fingerprint `{revision}`, licence {licence}) and the SAM2 {sam2!r}.
Only adapter, tokens and heads of the language model are in this folder. Research use only, not a medical device.

{trained}
"""
_SMALL_CARD = """# {name}: {part}

The model {name!r} (licence {licence}), trained on by `rauslicer train`. Research use only, not a medical device.

{trained}
"""
UNTRAINED = "Nobody has trained it yet: boxes and presence are what matching finds, and SAM2 has the reference in its memory."
TRAINED = "Trained by `rauslicer train`: {what}. How well it does, is what the benchmark of the site that trained it says."


def compose(
    name: str,
    backbone: str,
    sam2: str = EMBEDDED,
    *,
    picture: int = 448,
    regions: int = 12,
    pixels: int | None = None,
    lora: Lora | None = None,
) -> ModelFolder:
    """Write an untrained model into the user's folder.

    Args:
        name: What it will be called.
        backbone: An installed image-text-to-text model.
        sam2: An installed SAM2.1, or a model whose SAM2 is taken (``embedded``).
        picture: Side in pixels of the pictures the backbone is shown.
        regions: How many regions are drawn on one.
        pixels: Side of the pictures that a public SAM2 encodes, instead of 1024: 512 takes a quarter of the time and sees less.
        lora: Gives it an adapter to be trained; its weights start at zero effect.

    Raises:
        InputError: the name is no plain file name.
        ModelError: the name is taken, or a part is missing or damaged.
        OutputError: it can't be written.
    """
    check_name(name)
    folder = resolve(backbone).part(PART)
    manifest = read_manifest(folder)
    # On the CPU in its own precision: only the tokenizer and a few sizes are of interest, but whether it opens is worth knowing now.
    opened = open_backbone(folder, Placement(torch.device("cpu"), "bf16", 0, ""))
    eyes, base = _segmenter(sam2, opened.hidden_size, pixels)
    config = FullSizeConfig(
        backbone, fingerprint(manifest), opened.hidden_size, eyes.config.d_model, opened.first_token, picture, regions, lora=lora
    )
    vlm = FullSizeVlm(config, opened)
    with torch.no_grad():
        last = vlm.presence_head[-1]
        assert isinstance(last, nn.Linear)
        last.weight.zero_()
        last.bias.fill_(_PRESENT)
    home = user_folder()
    try:
        home.mkdir(parents=True, exist_ok=True)
        with ScratchFolder(home, ".composing-") as scratch:
            made = scratch / name
            save_model(made, name, vlm, eyes, base, sam2, UNTRAINED)
            # Somebody else may have taken the name in the meantime.
            os.rename(made, home / check_name(name))
    except OSError as error:
        raise OutputError(
            f"The model can't be written to {str(home / name)!r}.", f"The system says: {error.strerror or error}.", "Free space there."
        ) from error
    return ModelFolder(name, home / name)


def save_model(folder: Path, name: str, vlm: FullSizeVlm, segmenter: MemorySegmenter, base: dict | None, sam2: str, trained: str) -> None:
    """Write the parts ``vlm`` and ``sam2``; of a SAM2 with a ``base`` only what differs from it. Each has its origin's licence."""
    licence = read_manifest(resolve(vlm.config.backbone).part(PART)).licence
    origin = resolve(str(base["model"])).part(SAM2_BASE) if base is not None else resolve(sam2).part("sam2")
    words = {"name": name, "backbone": vlm.config.backbone, "revision": vlm.config.revision, "licence": licence, "sam2": sam2}
    card = {part: _CARD.format(part=part, trained=trained, **words) for part in ("vlm", "sam2")}
    config = vlm.config.to_dict()
    save_checkpoint(
        folder / "vlm",
        json.loads(json.dumps(config)),
        vlm.own_tensors(),
        card["vlm"],
        name=name,
        kind=config["model_type"],
        licence=licence,
        dtype=torch.float32,
    )
    tensors = segmenter.state_dict()
    eyes = segmenter.config.to_dict()
    if base is not None:
        eyes["base"] = base
        before = base_tensors(base)
        tensors = {key: value for key, value in tensors.items() if key not in before or not torch.equal(value.cpu(), before[key])}
    save_checkpoint(
        folder / "sam2",
        eyes,
        tensors,
        card["sam2"],
        name=name,
        kind=eyes["model_type"],
        licence=read_manifest(origin).licence,
        dtype=torch.float32,
    )


def save_small_model(
    folder: Path, origin: ModelFolder, vlm: RauVlm, tensors: dict[str, Tensor], segmenter: MemorySegmenter, trained: str
) -> None:
    """Write the parts ``vlm`` (its ``tensors``, an adapter merged in) and ``sam2`` of a model that was trained on from ``origin``."""
    for part, config, values in (("vlm", vlm.config.to_dict(), tensors), ("sam2", segmenter.config.to_dict(), segmenter.state_dict())):
        licence = read_manifest(origin.part(part)).licence
        card = _SMALL_CARD.format(name=origin.name, part=part, licence=licence, trained=trained)
        save_checkpoint(folder / part, config, values, card, name=origin.name, kind=config["model_type"], licence=licence)


def _segmenter(name: str, width: int, pixels: int | None) -> tuple[MemorySegmenter, dict | None]:
    """A segmenter that takes queries of this width, and what it is built on where that stays a folder of its own."""
    found = resolve(name)
    if SAM2_BASE in found.parts:
        path = found.part(SAM2_BASE)
        size = str(load_config(path).get("size"))
        if size not in SIZES:
            raise ModelError(f"The SAM2 {name!r} is of the unknown size {size!r}.", f"Known are {', '.join(SIZES)}.", "Add it again.")
        base = {"model": name, "revision": fingerprint(read_manifest(path))}
        config = SIZES[size]
        made = MemorySegmenter(replace(config, query_dim=width, encoder_size=pixels or config.encoder_size))
        made.load_state_dict({**made.state_dict(), **base_tensors(base)})
        return made.eval(), base
    model = load_part(found, "sam2", MemorySegmenter)
    made = MemorySegmenter(replace(model.config, query_dim=width, use_query=False))
    kept = {key: value for key, value in model.state_dict().items() if not key.startswith("query_")}
    made.load_state_dict({**made.state_dict(), **kept})
    return made.eval(), None
