"""Reads and writes checkpoint folders: config.json, safetensors, a model card and checksums.json."""

from __future__ import annotations

import errno
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from ..errors import ModelError, OutputError
from ..support.outputs import put
from ..support.scratch import ScratchFolder
from .manifest import CARD, CHECKSUMS, CONFIG, damaged, read_json, read_manifest, replace_folder, verify_file, write_manifest

TENSORS = "model.safetensors"


def load_config(folder: Path) -> dict[str, Any]:
    """The checkpoint's verified ``config.json``. Raises ModelError: it is missing, damaged or changed."""
    verify_file(folder, read_manifest(folder), CONFIG)
    return read_json(folder / CONFIG)


def load_tensors(folder: Path, dtype: torch.dtype | None = torch.float32) -> dict[str, torch.Tensor]:
    """All tensors of a checkpoint on the CPU, verified against their checksums first.

    Args:
        folder: Checkpoint folder; a large checkpoint may be spread over several safetensors files.
        dtype: Floating-point tensors come in this type; None keeps the file's own.

    Raises:
        ModelError: a file is missing, truncated or changed, or there are no tensors.
    """
    manifest = read_manifest(folder)
    names = sorted(name for name in manifest.files if name.endswith(".safetensors"))
    if not names:
        raise damaged(folder / CHECKSUMS, "It lists no safetensors file.")
    tensors: dict[str, torch.Tensor] = {}
    for name in names:
        verify_file(folder, manifest, name)
        try:
            tensors.update(load_file(folder / name))
        except (SafetensorError, OSError) as error:
            raise damaged(folder / name, f"It is not a readable safetensors file ({error}).") from error
    if dtype is None:
        return tensors
    return {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}


def save_checkpoint(
    folder: Path,
    config: Mapping[str, Any],
    tensors: Mapping[str, torch.Tensor],
    card: str,
    *,
    name: str,
    kind: str,
    licence: str,
    dtype: torch.dtype = torch.float16,
) -> None:
    """Write a checkpoint folder whole or not at all, replacing one that is there.

    Args:
        folder: Where to write; its parent is created.
        config: What ``config.json`` says; must be JSON.
        tensors: State of the network; floating-point tensors are stored as ``dtype``.
        card: The model card, Markdown.
        name: The model's name.
        kind: Which network it is, for example ``sam2``.
        licence: Licence of the weights, an SPDX identifier where there is one.
        dtype: float16 halves the size of the shipped weights.

    Raises:
        ModelError: a tensor is not finite in ``dtype``.
        OutputError: the folder can't be written.
    """
    stored = {key: _storable(key, tensor, dtype) for key, tensor in tensors.items()}
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with ScratchFolder(folder.parent, ".saving-") as scratch:
            made = scratch / folder.name
            made.mkdir()
            save_file(stored, made / TENSORS, metadata={"format": "pt"})
            _require_whole(made / TENSORS, stored)
            put(made / CONFIG, (json.dumps(dict(config), indent=2, sort_keys=True, allow_nan=False) + "\n").encode())
            put(made / CARD, card.encode())
            write_manifest(made, name=name, kind=kind, licence=licence)
            replace_folder(made, folder)
    except (OSError, SafetensorError) as error:
        raise OutputError(
            f"The checkpoint {str(folder)!r} can't be written.",
            f"The system says: {getattr(error, 'strerror', None) or error}.",
            "Choose a writable folder with enough space.",
        ) from error


def _require_whole(path: Path, stored: Mapping[str, torch.Tensor]) -> None:
    """Raise unless a file is as long as its header says, and that names all tensors."""
    with safe_open(path, framework="pt") as file:
        shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118 (it is no mapping)
    if shapes != {name: list(tensor.shape) for name, tensor in stored.items()}:
        raise OSError(errno.EIO, "not all tensors have arrived; the disk may be full")


def _storable(key: str, tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    # safetensors refuses views and tensors that share memory.
    stored = tensor.detach().to("cpu", copy=True).contiguous()
    if not stored.is_floating_point():
        return stored
    stored = stored.to(dtype)
    if not torch.isfinite(stored).all():
        raise ModelError(
            f"The tensor {key!r} is not finite as {dtype}.",
            "The training diverged, or its values exceed what the type can hold.",
            "Take an earlier checkpoint, or store this one as float32.",
        )
    return stored
