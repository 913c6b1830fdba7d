"""Seconds and memory of a run with the full-size architecture: random weights, one made-up volume with 30 structures.

    python Testing/Benchmarks/full_size.py --size 3b --device cuda
    python Testing/Benchmarks/full_size.py --size tiny --device cpu      # does it run at all

The answers mean nothing, as nothing was trained; the time is that of the architecture. ``--size 3b`` and ``7b`` have the widths and layers
of Qwen2.5-VL-3B and -7B (vocabulary apart) beside SAM2.1 large, and take 6 and 15 GB of disk in bfloat16 while they run.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch

# Language model: width, layers, feed-forward, heads, heads of keys. Vision tower: width, layers, feed-forward. SAM2.1; side of pictures.
SIZES: dict[str, dict[str, Any]] = {
    "tiny": {"text": (128, 2, 256, 8, 1), "vision": (32, 2, 64), "sam2": None, "picture": 112},
    "small": {"text": (1024, 16, 2048, 8, 2), "vision": (640, 8, 1708), "sam2": "sam2.1-hiera-tiny", "picture": 448},
    "3b": {"text": (2048, 36, 11008, 16, 2), "vision": (1280, 32, 3420), "sam2": "sam2.1-hiera-large", "picture": 448},
    "7b": {"text": (3584, 28, 18944, 28, 4), "vision": (1280, 32, 3420), "sam2": "sam2.1-hiera-large", "picture": 448},
}


def make_backbone(folder: Path, size: dict[str, Any]) -> Path:
    """A Qwen2.5-VL of these widths with random weights in bfloat16, in the form of a Hugging Face folder."""
    from transformers import AutoConfig, AutoModelForImageTextToText

    from RAUSlicerLib.training.tiny_backbone import make_tiny_backbone

    make_tiny_backbone(folder, "qwen2_5_vl")
    config = AutoConfig.from_pretrained(folder, local_files_only=True)
    text, vision = config.get_text_config(), config.vision_config
    text.hidden_size, text.num_hidden_layers, text.intermediate_size, text.num_attention_heads, text.num_key_value_heads = size["text"]
    text.layer_types = ["full_attention"] * text.num_hidden_layers
    quarter = text.hidden_size // text.num_attention_heads // 8
    text.rope_parameters = {**text.rope_parameters, "mrope_section": [2 * quarter, quarter, quarter]}
    vision.hidden_size, vision.depth, vision.intermediate_size = size["vision"]
    vision.num_heads, vision.out_hidden_size = max(2, vision.hidden_size // 80), text.hidden_size
    torch.manual_seed(0)
    model = AutoModelForImageTextToText.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(folder, max_shard_size="2GB")
    return folder


def made_up(side: int, structures: int) -> tuple[Any, sitk.Image]:
    """A reference with boxes of different brightness in rows, and a target that is a little shifted."""
    from RAUSlicerLib.imaging.segmentation import Reference, Segmentation, Structure

    across = int(np.ceil(structures ** (1 / 2)))
    step = side // (across + 1)
    labels = np.zeros((side // 2, side, side), np.uint8)
    for number in range(structures):
        row, column = step // 2 + step * (number // across), step // 2 + step * (number % across)
        labels[side // 8 : 3 * side // 8, row : row + 2 * step // 3, column : column + 2 * step // 3] = number + 1
    noise = np.random.default_rng(0).normal(0, 2, labels.shape)
    values = (40 + 5.0 * labels + noise).astype(np.float32)
    volume, target, labelmap = (sitk.GetImageFromArray(array) for array in (values, np.roll(values, 2, 1), labels))
    named = tuple(Structure(number + 1, f"structure {number + 1}") for number in range(structures))
    return Reference(volume, Segmentation(labelmap, named)), target


def main() -> None:
    """Make, compose and run one size; print a JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=tuple(SIZES), default="tiny")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda", "mps"), default="auto")
    parser.add_argument("--structures", type=int, default=30)
    parser.add_argument("--side", type=int, default=160, help="voxels of the volume's longer sides; the third has half")
    parser.add_argument("--folder", type=Path, help="where the weights lie while it runs (default: a temporary folder)")
    options = parser.parse_args()
    size = SIZES[options.size]
    with tempfile.TemporaryDirectory(dir=options.folder) as scratch:
        os.environ["RAUSLICER_MODELS"] = str(Path(scratch) / "models")
        from RAUSlicerLib.full_size import adding
        from RAUSlicerLib.full_size.composing import compose
        from RAUSlicerLib.full_size.sam2_checkpoints import SIZES as SAM2
        from RAUSlicerLib.models import store
        from RAUSlicerLib.pipeline import Pipeline
        from RAUSlicerLib.rau.sam2 import build_sam2

        adding.add(make_backbone(Path(scratch) / "backbone", size))
        if size["sam2"]:
            torch.manual_seed(1)
            torch.save({"model": build_sam2(SAM2[size["sam2"]]).state_dict()}, Path(scratch) / "sam2.pt")
            adding.add(Path(scratch) / "sam2.pt", "eyes")
        compose("measured", "backbone", "eyes" if size["sam2"] else store.EMBEDDED, picture=size["picture"])
        reference, target = made_up(options.side, options.structures)
        start = time.perf_counter()
        pipeline = Pipeline("measured", options.device)
        loaded = time.perf_counter()
        result = pipeline.transfer(reference, target)
        done = time.perf_counter()
    found: dict[str, Any] = {"size": options.size, "structures": len(result.results), "voxels": list(target.GetSize())}
    found |= {"load_seconds": round(loaded - start, 1), "run_seconds": round(done - loaded, 1)}
    found["peak_gb"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9, 2)
    if torch.cuda.is_available():
        found["device"] = torch.cuda.get_device_name()
        found["peak_gpu_gb"] = round(torch.cuda.max_memory_allocated() / 1e9, 2)
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
