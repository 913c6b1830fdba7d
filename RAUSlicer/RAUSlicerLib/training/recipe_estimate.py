"""What the recipe will take, before anything starts: memory and time of each stage, in words."""

from __future__ import annotations

import time

import numpy as np
import torch

from ..full_size.drawing import picture
from ..full_size.memory import free_memory
from ..full_size.plan import amount
from ..full_size.prompts import boxes_answer, boxes_prompt
from ..full_size.slice_reader import FullSizeVlm
from ..rau.network import TOKENS_PER_STRUCTURE
from ..rau.sam2 import MemorySegmenter
from .rau import OBJECTS
from .recipe_config import RecipeConfig, Stage
from .recipe_model import Vlm, language_of
from .recipe_stages import Trainee

_GB = 1e9
# A learned parameter: itself, gradient, two moments and the running mean, in float32.
_BYTES_LEARNED = 20
# Bytes that a layer keeps of a token's state for the backward pass, as multiples of its width in half precision: inputs of norms, of
# attention and of the feed-forward part; with checkpointing only the layer's input.
_KEPT, _KEPT_CHECKPOINTED = 34, 2


def estimate(config: RecipeConfig, vlm: Vlm, segmenter: MemorySegmenter, device: torch.device) -> list[str]:
    """Sentences about each stage. Time comes from the arithmetic of a step and a matrix product that is measured here."""
    language = language_of(vlm)
    text = language.config.get_text_config()
    tokens = _tokens(vlm)
    speed = _speed(device, language.dtype)
    free = free_memory(device)
    held = sum(p.numel() * p.element_size() for p in {*language.parameters(), *vlm.parameters(), *segmenter.parameters()})
    parameters = sum(p.numel() for p in language.parameters())
    out = [
        f"Model: {config.model}; its language model has {amount(parameters)} parameters, a question has about {tokens} tokens.",
        f"Device: {device}, {speed / 1e12:.2f} TFLOP/s measured on a matrix product"
        + ("." if free is None else f", {free / _GB:.1f} GB free beside the model."),
    ]
    for stage, settings in config.stages.items():
        if not settings.steps:
            out.append(f"Stage {stage}: left out.")
            continue
        trainee = Trainee(vlm, segmenter, stage, settings)
        learned = sum(p.numel() for p in trainee.parameters() if p.requires_grad)
        trainee.leave()
        width, layers = int(text.hidden_size), int(text.num_hidden_layers)
        kept = (_KEPT_CHECKPOINTED if config.checkpointing else _KEPT) * 2 * width * layers + _KEPT * 2 * width
        speaks = isinstance(vlm, FullSizeVlm)
        answers = 1 if stage is Stage.SEGMENTATION or not speaks else 2 if stage is Stage.SFT else 1 + settings.group
        needed = held + learned * _BYTES_LEARNED + kept * tokens * answers * settings.batch
        # Forward and the way back through frozen weights: two operations a parameter and token each; checkpointing computes forward twice.
        passes = 3 if config.checkpointing else 2
        work = 2 * parameters * tokens * passes * answers * settings.batch
        if stage is Stage.GRPO and speaks:
            # Token by token, memory is read rather than computed: a token costs about as much as thirty at once.
            work += 2 * parameters * settings.tokens * 30 * settings.batch
        hours = work * settings.steps / speed / 3600
        fits = "" if free is None or needed - held < free else " THIS DOES NOT FIT."
        out.append(
            f"Stage {stage}: {settings.steps} steps, {amount(learned)} parameters learned, about {needed / _GB:.2f} GB with the"
            f" model, at least {_time(hours)} for the language model.{fits}"
        )
    return out


def _tokens(vlm: Vlm) -> int:
    if not isinstance(vlm, FullSizeVlm):
        return 2 * vlm.config.image_tokens**2 + TOKENS_PER_STRUCTURE * OBJECTS
    shown = picture(np.zeros((8, 8)), vlm.config.picture)
    names = [f"structure {number}" for number in range(5)]
    encoded = vlm.backbone.encode(boxes_prompt(names, shown, shown, shown), boxes_answer([]) * 20)
    return int(encoded.whole()["input_ids"].shape[1])


def _speed(device: torch.device, dtype: torch.dtype) -> float:
    """Floating-point operations a second of a large matrix product."""
    side = 4096 if device.type == "cuda" else 512
    matrix = torch.rand(side, side, device=device, dtype=dtype)
    best = float("inf")
    for _ in range(4):
        start = time.perf_counter()
        (matrix @ matrix)[0, 0].item()
        best = min(best, time.perf_counter() - start)
    return 2 * side**3 / best


def _time(hours: float) -> str:
    return f"{hours:.1f} hours" if hours >= 1 else f"{60 * hours:.1f} minutes"
