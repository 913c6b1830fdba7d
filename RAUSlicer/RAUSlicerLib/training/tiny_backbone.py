"""Makes a tiny image-text-to-text backbone with random weights, in the architecture of a large one, to try the recipe without a download.

    python -m RAUSlicerLib.training.tiny_backbone --kind qwen3_vl --output work/tiny-qwen3-vl

The folder has the form of a Hugging Face checkpoint: configuration, safetensors, tokenizer, image processor and chat template. The
tokenizer knows bytes alone, so that every name can be written.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoModelForImageTextToText,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLProcessor,
    Qwen2VLVideoProcessor,
    Qwen3VLConfig,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
)

KINDS = ("qwen2_5_vl", "qwen3_vl")
_SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
# Each turn between markers; images stand where they are in the message.
_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def make_tiny_backbone(
    folder: Path, kind: str, *, width: int = 32, layers: int = 2, vision_width: int = 32, vision_layers: int = 2, seed: int = 0
) -> Path:
    """Write a backbone of ``kind``; language model and vision tower have these widths (multiples of 16) and layers. Returns the folder."""
    tokenizer = _tokenizer()
    ids = {token: tokenizer.convert_tokens_to_ids(token) for token in _SPECIAL}
    text: dict[str, Any] = {
        "vocab_size": len(tokenizer) + 1,
        "hidden_size": width,
        "intermediate_size": 2 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": width // 16,
        "num_key_value_heads": 1,
        "max_position_embeddings": 4096,
        "bos_token_id": None,
        "eos_token_id": ids["<|im_end|>"],
        "pad_token_id": ids["<|endoftext|>"],
    }
    vision: dict[str, Any] = {"depth": vision_layers, "hidden_size": vision_width, "intermediate_size": 2 * vision_width}
    vision |= {"num_heads": vision_width // 16, "out_hidden_size": width}
    shared = {
        "image_token_id": ids["<|image_pad|>"],
        "video_token_id": ids["<|video_pad|>"],
        "vision_start_token_id": ids["<|vision_start|>"],
        "vision_end_token_id": ids["<|vision_end|>"],
    }
    video: Any
    if kind == "qwen2_5_vl":
        rope = {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 1e6}
        vision |= {"patch_size": 14, "fullatt_block_indexes": [1], "window_size": 56}
        config = Qwen2_5_VLConfig(text_config=text | {"rope_parameters": rope}, vision_config=vision, **shared)
        image, video, make = _image_processor(14, 56 * 56), Qwen2VLVideoProcessor(), Qwen2_5_VLProcessor
    elif kind == "qwen3_vl":
        rope = {"rope_type": "default", "mrope_section": [2, 3, 3], "mrope_interleaved": True, "rope_theta": 1e6}
        vision |= {"patch_size": 16, "deepstack_visual_indexes": [0], "num_position_embeddings": 64}
        config = Qwen3VLConfig(text_config=text | {"head_dim": 16, "rope_parameters": rope}, vision_config=vision, **shared)
        image, video, make = _image_processor(16, 64 * 64), Qwen3VLVideoProcessor(), Qwen3VLProcessor
    else:
        raise ValueError(f"no tiny backbone of the kind {kind!r}; known: {', '.join(KINDS)}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForImageTextToText.from_config(config)
    model.save_pretrained(folder)
    processor = make(image_processor=image, tokenizer=tokenizer, video_processor=video, chat_template=_TEMPLATE)
    processor.save_pretrained(folder)
    return folder


def _tokenizer() -> PreTrainedTokenizerFast:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE(vocab={letter: number for number, letter in enumerate(alphabet)}, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens(list(_SPECIAL))
    return PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<|im_end|>", pad_token="<|endoftext|>")


def _image_processor(patch: int, fewest: int) -> Any:
    from transformers import Qwen2VLImageProcessor

    size = {"shortest_edge": fewest, "longest_edge": 1024 * 1024}
    return Qwen2VLImageProcessor(patch_size=patch, merge_size=2, temporal_patch_size=2, size=size)


def main() -> None:
    """Make one as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", choices=KINDS, default=KINDS[0])
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--width", type=int, default=32)
    parser.add_argument("--layers", type=int, default=2)
    options = parser.parse_args()
    make_tiny_backbone(options.output, options.kind, width=options.width, layers=options.layers)


if __name__ == "__main__":
    main()
