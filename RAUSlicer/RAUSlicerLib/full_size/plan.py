"""Decides where and how precisely a large language model runs, from the memory that is free before anything is loaded."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from ..errors import InputError, ResourceError
from .memory import free_memory

PRECISIONS = ("auto", "bf16", "fp16", "fp32", "4bit")
_TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32, "4bit": torch.bfloat16}
_BYTES = {"bf16": 2.0, "fp16": 2.0, "fp32": 4.0}
# Four bits a weight, their scales, and what 4-bit leaves in half precision (embedding, vision tower): 0.5 + 0.06 + a share of 2.
_FOUR_BIT = 0.75
# What must stay free for the rest of the run: SAM2, matching, the volumes.
_RESERVE = 2 * 1024**3
# What a run took beyond the arithmetic: 33 to 200 MB with 0.1 to 317 million parameters (Testing/Benchmarks/plan_memory.py).
_MORE = 250 * 10**6
_WORDS = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32", "4bit": "4-bit weights"}
_GB = 1e9


@dataclass(frozen=True)
class Needs:
    """What a backbone takes: its number of parameters, and bytes of one prompt's keys, values and activations in half precision."""

    name: str
    parameters: int
    work: int


@dataclass(frozen=True)
class Placement:
    """Where a backbone goes. ``words`` is the plan for the user; ``warnings`` say what is not as it was asked for."""

    device: torch.device
    precision: str
    bytes: int
    words: str
    warnings: tuple[str, ...] = ()

    @property
    def dtype(self) -> torch.dtype:
        return _TYPES[self.precision]

    @property
    def four_bit(self) -> bool:
        return self.precision == "4bit"


def place(
    needs: Needs,
    device: torch.device,
    precision: str = "auto",
    *,
    free: Callable[[torch.device], int | None] = free_memory,
    reserve: int = _RESERVE,
) -> Placement:
    """The first way of running a backbone that fits: on ``device`` in half precision, there in 4 bits, on the CPU, there in 4 bits.

    Args:
        needs: What it takes.
        device: Where the rest of the model runs.
        precision: One of `PRECISIONS`; all but ``auto`` is kept to, on either device.
        free: Measures free bytes; None from it means unknown, and is taken as enough.
        reserve: Bytes to leave free.

    Raises:
        InputError: there is no such precision.
        ResourceError: it fits nowhere, or 4 bits are asked for and can't be had.
    """
    if precision not in PRECISIONS:
        raise InputError(
            f"There is no precision named {precision!r}.",
            "It says in which form weights are kept.",
            f"Choose one of {', '.join(PRECISIONS)}.",
        )
    if precision == "4bit" and not _has_four_bit(device):
        raise ResourceError(
            "4-bit weights can't be used here.",
            "They need the package bitsandbytes, and an NVIDIA GPU or the CPU.",
            "Install it (pip install bitsandbytes), or choose the precision 'auto'.",
        )
    tried: list[str] = []
    for where, how in _ways(device, precision):
        wanted = needed(needs, how)
        there = free(where)
        if there is not None and wanted + reserve > there:
            tried.append(
                f"{_place(where)} in {_WORDS[how]} needs {(wanted + reserve) / _GB:.1f} GB with {reserve / _GB:.1f} GB for the rest of"
                f" the run, and {there / _GB:.1f} GB are free"
            )
            continue
        room = "free memory is unknown" if there is None else f"{there / _GB:.1f} GB are free"
        words = (
            f"{needs.name} ({amount(needs.parameters)} parameters) runs on {_place(where)} in {_WORDS[how]}: {wanted / _GB:.1f} GB, {room}."
        )
        if how == "fp16" and not _has_bfloat16(where):
            words += f" {_place(where)[0].upper()}{_place(where)[1:]} has no bfloat16."
        warnings: tuple[str, ...] = ()
        if tried:
            slow = " This takes many times longer than on a GPU." if where.type == "cpu" and device.type != "cpu" else ""
            warnings = (f"{needs.name} did not fit as planned: {'; '.join(tried)}. {words}{slow}",)
        return Placement(where, how, wanted, words, warnings)
    raise ResourceError(
        f"{needs.name} does not fit this machine.",
        f"Tried: {'; '.join(tried)}.",
        "Close other programs, choose a smaller model, or the embedded one (--model embedded).",
    )


def amount(parameters: int) -> str:
    """A number of parameters in words.

    >>> amount(8_290_000_000), amount(370_000)
    ('8.29 billion', '0.37 million')
    """
    return f"{parameters / 1e9:.2f} billion" if parameters >= 10**8 else f"{parameters / 1e6:.2f} million"


def needed(needs: Needs, precision: str) -> int:
    """Bytes of weights and work."""
    weight = _FOUR_BIT if precision == "4bit" else _BYTES[precision]
    return int(needs.parameters * weight + needs.work * (2 if precision == "fp32" else 1))


def _ways(device: torch.device, precision: str) -> list[tuple[torch.device, str]]:
    cpu = torch.device("cpu")
    if precision != "auto":
        return [(device, precision)] + ([(cpu, precision)] if device.type != "cpu" and precision != "4bit" else [])
    # A CPU without bfloat16 computes faster in float32, if there is room for it.
    on_cpu = ["bf16"] if torch.cpu._is_avx512_bf16_supported() else ["fp32", "bf16"]
    if _has_four_bit(cpu):
        on_cpu.append("4bit")
    ways = [(cpu, how) for how in on_cpu]
    if device.type == "cpu":
        return ways
    first = [(device, "bf16" if _has_bfloat16(device) else "fp16")]
    if _has_four_bit(device):
        first.append((device, "4bit"))
    return first + ways


def _has_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    # Apple's GPUs compute in it from macOS 14 on.
    return device.type != "mps" or torch.backends.mps.is_macos_or_newer(14, 0)


def _has_four_bit(device: torch.device) -> bool:
    return device.type in ("cuda", "cpu") and importlib.util.find_spec("bitsandbytes") is not None


def _place(device: torch.device) -> str:
    if device.type == "cuda":
        return f"the GPU {torch.cuda.get_device_name(device)}" if torch.cuda.is_available() else "the GPU"
    return "the Apple GPU" if device.type == "mps" else "the CPU"


def prompt_bytes(config: Any, picture: int, regions: int, groups: int = 4) -> int:
    """Bytes in half precision of a prompt's keys, values and activations, for ``groups`` of structures kept at once.

    Args:
        config: The backbone's configuration.
        picture: Side of a picture in pixels; three of them are shown.
        regions: Structures a group.
        groups: How many groups' references are kept.
    """
    text, vision = config.get_text_config(), getattr(config, "vision_config", None)
    patch = int(getattr(vision, "patch_size", 14) or 14) * int(getattr(vision, "spatial_merge_size", 1) or 1)
    tokens = 3 * (picture // patch) ** 2 + 32 * regions + 128
    heads = int(text.num_attention_heads)
    width = int(getattr(text, "head_dim", None) or text.hidden_size // heads) * int(getattr(text, "num_key_value_heads", None) or heads)
    kept = 2 * 2 * int(text.num_hidden_layers) * width * tokens * groups
    # One layer at a time is computed: its states and the widest of its products.
    working = 2 * tokens * (6 * int(text.hidden_size) + 3 * int(text.intermediate_size))
    pixels = 2 * 4 * 12 * (picture // patch) ** 2 * 4 * int(getattr(vision, "hidden_size", 1280) or 1280)
    return kept + working + pixels + _MORE
