"""How far the plan's estimate of a backbone's memory is from what it takes: random ones of several sizes on the CPU, Linux only.

    python Testing/Benchmarks/plan_memory.py [--kind qwen2_5_vl] [--regions 12] [--structures 30] [--picture 448]

Each size runs in a process of its own: opens the backbone as `rauslicer transfer` does and asks about three slices, structures in groups.
It has opened and asked a tiny one before, so what the libraries take by themselves is not counted.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import multiprocessing
import re
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

# Width and layers of the language model, and of the vision tower.
SIZES = {
    "tiny": (32, 2, 32, 2),
    "middle": (512, 12, 32, 2),
    "130m": (1024, 16, 32, 2),
    "170m": (1024, 16, 640, 8),
    "310m": (1280, 24, 32, 2),
}


def memory(field: str) -> int:
    """A field of the process's own status in bytes: VmRSS now, VmHWM at most."""
    return 1024 * int(re.findall(rf"{field}:\s+(\d+)", Path("/proc/self/status").read_text())[0])


def make(folder: Path, name: str, kind: str) -> None:
    """Write a backbone of one size, in bfloat16 as the public ones are."""
    from safetensors.torch import load_file, save_file

    from RAUSlicerLib.training.tiny_backbone import make_tiny_backbone

    torch.set_num_threads(1)
    width, layers, vision_width, vision_layers = SIZES[name]
    made = make_tiny_backbone(folder, kind, width=width, layers=layers, vision_width=vision_width, vision_layers=vision_layers)
    for path in made.glob("*.safetensors"):
        save_file({key: value.bfloat16() for key, value in load_file(path).items()}, path, metadata={"format": "pt"})


def ask(folder: Path, precision: str, options: argparse.Namespace) -> tuple[int, int, float]:
    """Open and ask; bytes above the start at the peak of loading and of asking, and seconds of asking once everything is warm."""
    from RAUSlicerLib.full_size.backbones import open_backbone
    from RAUSlicerLib.full_size.plan import Placement
    from RAUSlicerLib.full_size.slice_reader import FullSizeConfig, FullSizeVlm
    from RAUSlicerLib.rau.network import MatchEvidence, Pictures, SlicePair

    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    before = memory("VmRSS")
    backbone = open_backbone(folder, Placement(torch.device("cpu"), precision, 0, ""))
    loading = memory("VmHWM")
    config = FullSizeConfig("", "", backbone.hidden_size, 16, backbone.first_token, options.picture, options.regions)
    vlm = FullSizeVlm(config, backbone).eval()
    slices, count = np.random.default_rng(0).random((3, 192, 192), np.float32), options.structures
    box = torch.tensor([[0.1, 0.2, 0.3, 0.5]]).repeat(count, 1)
    evidence = MatchEvidence(torch.rand(count, 8, 8), torch.rand(count, 8, 8), box, box)
    mask = np.zeros((192, 192), bool)
    mask[50:90, 60:120] = True
    names = tuple(f"structure {number}" for number in range(count))
    Path("/proc/self/clear_refs").write_text("5")
    seconds = 0.0
    with torch.inference_mode():
        for level in range(3):
            start = time.perf_counter()
            shown = Pictures(slices, slices, level, lambda _number, _level: mask)
            vlm.read(SlicePair(torch.rand(1, 16, 8, 8), torch.rand(1, 16, 8, 8), evidence, names, shown))
            seconds = time.perf_counter() - start
    return loading - before, memory("VmHWM") - before, seconds


def measure(folder: Path, other: Path, name: str, precision: str, options: argparse.Namespace) -> None:
    """Print one line for a size."""
    from RAUSlicerLib.full_size.backbones import describe
    from RAUSlicerLib.full_size.plan import Needs, needed, prompt_bytes

    torch.set_num_threads(1)
    found = describe(folder)
    needs = Needs(name, found.parameters, prompt_bytes(found.config, options.picture, options.regions))
    ask(other, precision, options)
    loading, asking, seconds = ask(folder, precision, options)
    weights = needed(Needs(name, found.parameters, 0), precision)
    print(
        f"{options.kind} {name:8} {precision} {found.parameters / 1e6:7.1f} M | weights {weights / 1e6:7.1f} MB, loading took"
        f" {loading / 1e6:7.1f} MB | planned in all {needed(needs, precision) / 1e6:7.1f} MB, asking took {asking / 1e6:7.1f} MB"
        f" | {seconds:.1f} s a slice",
        flush=True,
    )


def main() -> None:
    """Measure all sizes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", choices=("qwen2_5_vl", "qwen3_vl"), default="qwen2_5_vl")
    parser.add_argument("--regions", type=int, default=12)
    parser.add_argument("--structures", type=int, default=30)
    parser.add_argument("--picture", type=int, default=448)
    parser.add_argument("--sizes", default=",".join(SIZES))
    parser.add_argument("--precisions", default="bf16", help="of bf16 and fp32, separated by commas")
    options = parser.parse_args()
    spawning = multiprocessing.get_context("spawn")

    def apart(target: object, *arguments: object) -> None:
        child = spawning.Process(target=target, args=arguments)
        child.start()
        child.join()

    with tempfile.TemporaryDirectory() as scratch:
        other = Path(scratch) / "other"
        apart(make, other, "tiny", options.kind)
        for name in options.sizes.split(","):
            apart(make, Path(scratch) / name, name, options.kind)
            for precision in options.precisions.split(","):
                apart(measure, Path(scratch) / name, other, name, precision, options)


if __name__ == "__main__":
    main()
