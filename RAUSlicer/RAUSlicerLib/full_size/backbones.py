"""Opens the folder of an image-text-to-text backbone: what it is, whether it is whole, and onto a device."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from ..errors import ModelError
from ..models.manifest import CONFIG, Manifest, read_json
from .backbone import Backbone
from .backbone_config import answering, check_kind, first_line, read_config
from .plan import Placement

PART = "backbone"
# Weights, configuration and tokenizer decide what a backbone answers; its card does not.
_MEANT = (".safetensors", ".json", ".txt", ".jinja")
_NOT_MEANT = ("generation_config.json",)


@dataclass(frozen=True)
class Described:
    """What a backbone's folder says of it, without loading it."""

    model_type: str
    parameters: int
    config: Any


def describe(folder: Path) -> Described:
    """Read configuration and the headers of the weights.

    Raises:
        ModelError: it can't see images, asks for other code than transformers', or its weights are missing or truncated.
    """
    from transformers import AutoModelForImageTextToText

    kind = read_json(folder / CONFIG).get("model_type")
    try:
        config = read_config(folder)
    except (ValueError, OSError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(
            f"The configuration of the backbone {str(folder)!r} can't be read.",
            f"It is of the kind {kind!r}, and says something that this version of transformers does not understand ({first_line(error)}).",
            "Choose another backbone, for example Qwen2.5-VL or Qwen3-VL, or update transformers.",
        ) from error
    if type(config) not in AutoModelForImageTextToText._model_mapping:
        raise ModelError(
            f"The backbone {str(folder)!r} is of the kind {kind!r} and has no image support.",
            "RAU shows slices to it; a model of text alone can't see them.",
            "Choose an image-text-to-text model, for example Qwen2.5-VL or Qwen3-VL.",
        )
    check_kind(folder, str(kind))
    return Described(str(kind), count_parameters(folder), config)


def count_parameters(folder: Path) -> int:
    """Number of parameters in the folder's safetensors files, from their headers.

    Raises:
        ModelError: there is none, or one is truncated.
    """
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise ModelError(
            f"The backbone {str(folder)!r} holds no safetensors.",
            "Only safetensors are opened; pickled weights (.bin, .pt) can run code.",
            "Get the model in safetensors form.",
        )
    total = 0
    for path in files:
        try:
            with safe_open(path, framework="pt") as opened:
                for name in opened.keys():  # noqa: SIM118 (no dictionary)
                    size = 1
                    for extent in opened.get_slice(name).get_shape():
                        size *= extent
                    total += size
        except (SafetensorError, OSError) as error:
            raise ModelError(
                f"The model file {str(path)!r} is truncated or damaged.", first_line(error), "Get the file from the model's makers again."
            ) from error
    return total


def fingerprint(manifest: Manifest) -> str:
    """What tells one revision of a backbone from another: a digest of the checksums of all files that matter."""
    lines = [
        f"{name} {checksum}\n"
        for name, checksum in sorted(manifest.files.items())
        if Path(name).suffix in _MEANT and name not in _NOT_MEANT
    ]
    return hashlib.sha256("".join(lines).encode()).hexdigest()[:16]


def open_backbone(folder: Path, placement: Placement) -> Backbone:
    """Load model and processor; nothing is fetched and no code is run that the folder names.

    Raises:
        ModelError: tensors are missing, the processor is incomplete, or it asks for other code than transformers'.
    """
    from transformers import AutoModelForImageTextToText, AutoProcessor

    config = describe(folder).config

    extra: dict[str, Any] = {}
    if placement.four_bit:
        from transformers import BitsAndBytesConfig

        # Only the language model: the vision tower is a small part of the weights, and its sizes are not always ones that can be packed.
        extra["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_compute_dtype=torch.bfloat16,
            llm_int8_skip_modules=["model.visual", "model.vision_tower", "lm_head"],
        )
        extra["device_map"] = {"": placement.device}
    safe: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    try:
        processor = AutoProcessor.from_pretrained(folder, **safe)
        model, info = AutoModelForImageTextToText.from_pretrained(
            folder, config=config, dtype=placement.dtype, use_safetensors=True, output_loading_info=True, **safe, **extra
        )
    except (OSError, ValueError, KeyError, TypeError, SafetensorError, ImportError) as error:
        raise ModelError(
            f"The backbone {str(folder)!r} can't be opened.",
            f"A file is missing or damaged ({first_line(error)}).",
            "Install it again: `rauslicer models remove` and `rauslicer models add`.",
        ) from error
    lacking = sorted(info["missing_keys"]) + sorted(str(entry) for entry in info.get("mismatched_keys", ()))
    if lacking:
        raise ModelError(
            f"{len(lacking)} tensors of the backbone {str(folder)!r} are missing or don't fit, for example {lacking[0]!r}.",
            "Its weights are incomplete, or of another model than its configuration.",
            "Get the whole folder from the model's makers again.",
        )
    if getattr(processor, "chat_template", None) is None or not hasattr(processor, "image_processor"):
        raise ModelError(
            f"The backbone {str(folder)!r} has no chat template or no image processor.",
            "Without them it is unknown how it is shown pictures.",
            "Choose the variant that was made for chats (Instruct), with all of its files.",
        )
    if getattr(model, "generation_config", None) is not None:
        model.generation_config = answering(model.generation_config)
    if placement.four_bit:
        _keep_unpacked(model)
    return Backbone(model if placement.four_bit else model.to(placement.device), processor)


def _keep_unpacked(model: torch.nn.Module) -> None:
    """Bitsandbytes (0.50) packs 4-bit weights anew for CPUs with AVX-512 BF16, and fails on layers that its blocks do not divide."""
    layer: Any
    for layer in model.modules():
        if getattr(layer, "support_avx512bf16_for_cpu", False) and (layer.out_features % 32 or layer.in_features % 64):
            layer.support_avx512bf16_for_cpu = False
