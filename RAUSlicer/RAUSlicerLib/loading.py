"""Opens a model: the matching network, the vision-language model, SAM2 and the mask refiner of one model folder."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

import torch

from .confidence.calibration import Calibration
from .matching.network import EmbeddingNet
from .models.checkpoint import load_config
from .models.opening import PRECISION_VARIABLE, Opening, load_part
from .models.store import EMBEDDED, resolve
from .rau.network import SliceReader, StructureHeads
from .rau.sam2 import MemorySegmenter
from .rau.settings import LocalizerSettings
from .refinement.network import RefinerNet
from .support.settings import settings_from


@dataclass(frozen=True)
class RauModel:
    """A model's networks and how its confidences are calibrated. Not every model has a refiner; without one, masks stay as carried.

    ``plan`` says in words where large parts run, ``warnings`` what is not as it was asked for.
    """

    name: str
    matching: EmbeddingNet
    vlm: SliceReader
    segmenter: MemorySegmenter
    refiner: RefinerNet | None
    calibration: Calibration
    localization: LocalizerSettings = field(default_factory=LocalizerSettings)
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
    calibration = Calibration.from_dict(load_config(matched.part("matching")).get("calibration", {}))
    matching = load_part(matched, "matching", EmbeddingNet)
    segmenter = load_part(folder, "sam2", MemorySegmenter)
    vlm = load_part(folder, "vlm", StructureHeads, opening)
    assert isinstance(vlm, SliceReader)
    asking = load_config(folder.part("vlm")).get("settings", {})
    return RauModel(
        folder.name,
        matching,
        vlm,
        segmenter,
        load_part(refined, "refiner", RefinerNet) if "refiner" in refined.parts else None,
        calibration,
        settings_from(LocalizerSettings, asking, "The settings of the model's vision-language model"),
        tuple(one.words for one in opening.places),
        tuple(warning for one in opening.places for warning in one.warnings),
    )
