"""How far the plan's estimate of a backbone's memory is from what it takes: random Qwen3-VL of several sizes on the CPU, Linux only.

    python Testing/Benchmarks/plan_memory.py [--regions 12] [--structures 30] [--picture 448]

Each size runs in a process of its own: opens the backbone as `rauslicer transfer` does and asks about three slices, structures in groups.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import multiprocessing
import re
import tempfile
from pathlib import Path

import numpy as np
import torch

SIZES = {"tiny": (32, 2), "middle": (512, 12), "larger": (1024, 16)}


def memory(field: str) -> int:
    """A field of the process's own status in bytes: VmRSS now, VmHWM at most."""
    return 1024 * int(re.findall(rf"{field}:\s+(\d+)", Path("/proc/self/status").read_text())[0])


def measure(name: str, precision: str, options: argparse.Namespace) -> None:
    """Print one line for a size."""
    from RAUSlicerLib.localization.vlm.full_size import FullSizeConfig, FullSizeVlm
    from RAUSlicerLib.localization.vlm.network import Evidence, Pictures, SlicePair
    from RAUSlicerLib.models.backbones import describe, open_backbone
    from RAUSlicerLib.models.plan import Needs, Placement, needed, prompt_bytes
    from RAUSlicerLib.training.tiny_backbone import make_tiny_backbone

    torch.set_num_threads(1)
    width, layers = SIZES[name]
    with tempfile.TemporaryDirectory() as scratch:
        folder = make_tiny_backbone(Path(scratch) / name, "qwen3_vl", width=width, layers=layers)
        found = describe(folder)
        needs = Needs(name, found.parameters, prompt_bytes(found.config, options.picture, options.regions))
        # Whatever the libraries themselves take is loaded before, and what they free is not there to be used again.
        other = make_tiny_backbone(Path(scratch) / "other", "qwen3_vl")
        kept = open_backbone(other, Placement(torch.device("cpu"), precision, 0, ""))
        gc.collect()
        ctypes.CDLL("libc.so.6").malloc_trim(0)
        before = memory("VmRSS")
        backbone = open_backbone(folder, Placement(torch.device("cpu"), precision, 0, ""))
        loaded = memory("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")
        config = FullSizeConfig("", "", backbone.hidden_size, 16, backbone.first_token, options.picture, options.regions)
        vlm = FullSizeVlm(config, backbone).eval()
        slices, count = np.random.default_rng(0).random((3, 192, 192), np.float32), options.structures
        box = torch.tensor([[0.1, 0.2, 0.3, 0.5]]).repeat(count, 1)
        evidence = Evidence(torch.rand(count, 8, 8), torch.rand(count, 8, 8), box, box)
        mask = np.zeros((192, 192), bool)
        mask[50:90, 60:120] = True
        with torch.inference_mode():
            for level in range(3):
                shown = Pictures(slices, slices, level, lambda _number, _level: mask)
                names = tuple(f"structure {number}" for number in range(count))
                vlm.read(SlicePair(torch.rand(1, 16, 8, 8), torch.rand(1, 16, 8, 8), evidence, names, shown))
        peak = memory("VmHWM")
        del kept
    weights = needed(Needs(name, found.parameters, 0), precision)
    work = needed(needs, precision) - weights
    print(
        f"{name:8} {precision} {found.parameters / 1e6:7.1f} M | weights: planned {weights / 1e6:7.1f} MB, measured"
        f" {(loaded - before) / 1e6:7.1f} MB | work: planned {work / 1e6:6.1f} MB, measured {(peak - loaded) / 1e6:6.1f} MB",
        flush=True,
    )


def main() -> None:
    """Measure all sizes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--regions", type=int, default=12)
    parser.add_argument("--structures", type=int, default=30)
    parser.add_argument("--picture", type=int, default=448)
    parser.add_argument("--sizes", default=",".join(SIZES))
    parser.add_argument("--precisions", default="fp32,bf16")
    options = parser.parse_args()
    spawning = multiprocessing.get_context("spawn")
    for name in options.sizes.split(","):
        for precision in options.precisions.split(","):
            child = spawning.Process(target=measure, args=(name, precision, options))
            child.start()
            child.join()


if __name__ == "__main__":
    main()
