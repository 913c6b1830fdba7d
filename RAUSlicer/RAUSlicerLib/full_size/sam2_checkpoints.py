"""Public SAM2.1 checkpoints, tiny to large: their sizes, and their tensors under the names that this library uses (Meta's own).

Two forms are read: Meta's ``.pt`` files, which are opened so that no code in them can run, and Hugging Face folders, whose tensors have
other names for the same things.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ..errors import ModelError
from ..rau.sam2 import Sam2Config, build_sam2

# What all sizes share; slices are kept at 256 pixels, of which the decoder's masks have as many.
_COMMON = Sam2Config(
    image_size=256,
    encoder_size=1024,
    patch_stride=4,
    window_spec=(8, 4, 14, 7),
    window_pos_embed_bkg_spatial_size=(7, 7),
    d_model=256,
    memory_dim=64,
    memory_layers=4,
    feedforward=2048,
    layer_scale=1e-6,
    residual=False,
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
    use_query=False,
    as_published=True,
)
SIZES: Mapping[str, Sam2Config] = {
    "sam2.1-hiera-tiny": replace(_COMMON, embed_dim=96, num_heads=1, stages=(1, 2, 7, 2), global_att_blocks=(5, 7, 9)),
    "sam2.1-hiera-small": replace(_COMMON, embed_dim=96, num_heads=1, stages=(1, 2, 11, 2), global_att_blocks=(7, 10, 13)),
    "sam2.1-hiera-base-plus": replace(
        _COMMON,
        embed_dim=112,
        num_heads=2,
        stages=(2, 3, 16, 3),
        global_att_blocks=(12, 16, 20),
        window_pos_embed_bkg_spatial_size=(14, 14),
    ),
    "sam2.1-hiera-large": replace(
        _COMMON, embed_dim=144, num_heads=2, stages=(2, 6, 36, 4), global_att_blocks=(23, 33, 43), window_spec=(8, 4, 16, 8)
    ),
}

_PATCH = "image_encoder.trunk.patch_embed.proj.weight"
_BLOCK = re.compile(r"image_encoder\.trunk\.blocks\.(\d+)\.norm1\.weight")
# Only 2.1 has these: without them it can't be the same network.
_NEW = ("no_obj_embed_spatial", "obj_ptr_tpos_proj.weight")


def read_checkpoint(source: Path) -> dict[str, Tensor]:
    """Tensors of Meta's ``.pt`` file, a ``.safetensors`` file, or the one such file in a folder, under Meta's names.

    Raises:
        ModelError: there is none, it can't be read without running code, or it is no SAM2.
    """
    path = weights_file(source)
    try:
        if path.suffix == ".pt":
            document = torch.load(path, map_location="cpu", weights_only=True)
            tensors = document.get("model", document) if isinstance(document, dict) else {}
        else:
            tensors = load_file(path)
    except pickle.UnpicklingError as error:
        raise ModelError(
            f"The file {str(path)!r} was not opened.",
            "It holds more than tensors, and what it holds could run code; or it is damaged.",
            "Get the checkpoint from its makers again, or a safetensors version of it.",
        ) from error
    except (RuntimeError, EOFError, OSError, SafetensorError, ValueError) as error:
        raise ModelError(
            f"The file {str(path)!r} can't be read.", f"It is truncated or damaged ({error}).", "Get it from its makers again."
        ) from error
    if not tensors or not all(isinstance(value, Tensor) for value in tensors.values()):
        raise ModelError(f"The file {str(path)!r} holds no tensors.", "It is no SAM2 checkpoint.", "Choose a SAM2.1 checkpoint.")
    return metas_names(tensors) if any(key.startswith("vision_encoder.") for key in tensors) else dict(tensors)


def weights_file(source: Path) -> Path:
    """The file itself, or the one file of weights in a folder.

    Raises:
        ModelError: the folder holds none, or several.
    """
    if source.is_file():
        return source
    found = sorted(source.glob("*.safetensors")) or sorted(source.glob("*.pt"))
    if len(found) != 1:
        raise ModelError(
            f"There is no single SAM2 checkpoint in {str(source)!r}.",
            f"It holds {len(found)} files of weights.",
            "Give the path of the .pt or .safetensors file itself.",
        )
    return found[0]


def size_of(tensors: Mapping[str, Tensor]) -> str:
    """Which of `SIZES` it is, told by its tensors and not by its file's name.

    Raises:
        ModelError: it is none of them, or a SAM2 before 2.1.
    """
    blocks = [int(match[1]) for key in tensors if (match := _BLOCK.fullmatch(key))]
    missing = [key for key in _NEW if key not in tensors]
    if _PATCH not in tensors or not blocks or missing:
        raise ModelError(
            "These weights are no SAM2.1.",
            f"They lack {missing[0] if missing and _PATCH in tensors else _PATCH!r}"
            + (", as SAM2 before 2.1 does." if _PATCH in tensors else "."),
            "Choose one of the checkpoints of SAM2.1: tiny, small, base-plus or large.",
        )
    for name, config in SIZES.items():
        if tensors[_PATCH].shape[0] == config.embed_dim and max(blocks) + 1 == sum(config.stages):
            return name
    raise ModelError(
        "These weights are none of SAM2.1's sizes.",
        f"The encoder has {max(blocks) + 1} blocks and starts with {tensors[_PATCH].shape[0]} channels.",
        f"Known are {', '.join(SIZES)}.",
    )


def fitting(tensors: Mapping[str, Tensor], config: Sam2Config) -> dict[str, Tensor]:
    """The tensors, checked one by one against the network of ``config``.

    Raises:
        ModelError: some are missing, unknown or of another shape.
    """
    with torch.random.fork_rng(devices=[]):
        expected = build_sam2(config).state_dict()
    wrong = sorted(set(expected) ^ set(tensors)) or [key for key in expected if expected[key].shape != tensors[key].shape]
    if wrong:
        raise ModelError(
            f"{len(wrong)} tensors of these weights don't fit SAM2.1, for example {wrong[0]!r}.",
            "They are missing, unknown or of another shape.",
            "Get the checkpoint from its makers again.",
        )
    return dict(tensors)


# Hugging Face's names, as patterns, and Meta's; the first that matches counts.
_RENAMED: tuple[tuple[str, str], ...] = (
    (r"no_memory_embedding", "no_mem_embed"),
    (r"no_memory_positional_encoding", "no_mem_pos_enc"),
    (r"memory_temporal_positional_encoding", "maskmem_tpos_enc"),
    (r"no_object_pointer", "no_obj_ptr"),
    (r"occlusion_spatial_embedding_parameter", "no_obj_embed_spatial"),
    (r"temporal_positional_encoding_projection_layer\.(.+)", r"obj_ptr_tpos_proj.\1"),
    (r"object_pointer_proj\.(.+)", r"obj_ptr_proj.\1"),
    (r"vision_encoder\.backbone\.patch_embed\.projection\.(.+)", r"image_encoder.trunk.patch_embed.proj.\1"),
    (r"vision_encoder\.backbone\.(.+)", r"image_encoder.trunk.\1"),
    (r"vision_encoder\.neck\.convs\.(\d+)\.(.+)", r"image_encoder.neck.convs.\1.conv.\2"),
    (r"prompt_encoder\.shared_embedding\.positional_embedding", "sam_prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"),
    (r"prompt_encoder\.mask_embed\.conv1\.(.+)", r"sam_prompt_encoder.mask_downscaling.0.\1"),
    (r"prompt_encoder\.mask_embed\.layer_norm1\.(.+)", r"sam_prompt_encoder.mask_downscaling.1.\1"),
    (r"prompt_encoder\.mask_embed\.conv2\.(.+)", r"sam_prompt_encoder.mask_downscaling.3.\1"),
    (r"prompt_encoder\.mask_embed\.layer_norm2\.(.+)", r"sam_prompt_encoder.mask_downscaling.4.\1"),
    (r"prompt_encoder\.mask_embed\.conv3\.(.+)", r"sam_prompt_encoder.mask_downscaling.6.\1"),
    (r"prompt_encoder\.(.+)", r"sam_prompt_encoder.\1"),
    (r"mask_decoder\.upscale_conv1\.(.+)", r"sam_mask_decoder.output_upscaling.0.\1"),
    (r"mask_decoder\.upscale_layer_norm\.(.+)", r"sam_mask_decoder.output_upscaling.1.\1"),
    (r"mask_decoder\.upscale_conv2\.(.+)", r"sam_mask_decoder.output_upscaling.3.\1"),
    (r"mask_decoder\.transformer\.layer_norm_final_attn\.(.+)", r"sam_mask_decoder.transformer.norm_final_attn.\1"),
    (r"mask_decoder\.(.+)", r"sam_mask_decoder.\1"),
    (r"memory_attention\.layer_norm\.(.+)", r"memory_attention.norm.\1"),
    (r"memory_encoder\.mask_downsampler\.final_conv\.(.+)", r"memory_encoder.mask_downsampler.encoder.12.\1"),
    (r"memory_encoder\.feature_projection\.(.+)", r"memory_encoder.pix_feat_proj.\1"),
    (r"memory_encoder\.memory_fuser\.layers\.(\d+)\.scale", r"memory_encoder.fuser.layers.\1.gamma"),
    (r"memory_encoder\.memory_fuser\.layers\.(\d+)\.depthwise_conv\.(.+)", r"memory_encoder.fuser.layers.\1.dwconv.\2"),
    (r"memory_encoder\.memory_fuser\.layers\.(\d+)\.layer_norm\.(.+)", r"memory_encoder.fuser.layers.\1.norm.\2"),
    (r"memory_encoder\.memory_fuser\.layers\.(\d+)\.pointwise_conv(\d)\.(.+)", r"memory_encoder.fuser.layers.\1.pwconv\2.\3"),
    (r"memory_encoder\.projection\.(.+)", r"memory_encoder.out_proj.\1"),
)
_DOWNSAMPLER = re.compile(r"memory_encoder\.mask_downsampler\.layers\.(\d+)\.(conv|layer_norm)\.(.+)")
# Networks of three layers, whose middle one has a name of its own; the others have two.
_THREE = ("output_hypernetworks_mlps", "iou_prediction_head", "pred_obj_score_head", "obj_ptr_proj")


def metas_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of Hugging Face's ``Sam2VideoModel`` under Meta's names."""
    out: dict[str, Tensor] = {}
    for key, value in tensors.items():
        if key == "shared_image_embedding.positional_embedding":
            continue  # the prompt encoder has the same once more
        if key == "prompt_encoder.point_embed.weight":
            out.update({f"sam_prompt_encoder.point_embeddings.{row}.weight": value[row : row + 1].clone() for row in range(len(value))})
            continue
        out[_metas_name(key)] = value
    return out


def _metas_name(key: str) -> str:
    found = _DOWNSAMPLER.fullmatch(key)
    if found:
        return f"memory_encoder.mask_downsampler.encoder.{3 * int(found[1]) + (found[2] == 'layer_norm')}.{found[3]}"
    for pattern, name in _RENAMED:
        changed = re.sub(rf"^{pattern}$", name, key)
        if changed != key:
            key = changed
            break
    last = 2 if any(part in key for part in _THREE) else 1
    if last == 2:
        key = re.sub(r"\.layers\.0\.(weight|bias)$", r".layers.1.\1", key)
    key = key.replace(".proj_in.", ".layers.0.").replace(".proj_out.", f".layers.{last}.")
    if "layer_norm" in key:
        key = re.sub(r"\.layer_norm(\d)\.", r".norm\1.", key)
    return key.replace(".o_proj.", ".out_proj.")
