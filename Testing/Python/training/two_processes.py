"""Trains a small network in the loop that every stage trains in, as `accelerate launch` starts it: two_processes.py OUTPUT CRASH_AT."""

from __future__ import annotations

import os
import sys
from typing import Any

import numpy as np
import torch
from torch import nn

from RAUSlicerLib.training.loop import Settings, train

STEPS = 6


class Net(nn.Module):
    """A frozen layer, as the backbone is, and a learned one."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.frozen, self.learned = nn.Linear(4, 8).requires_grad_(False), nn.Linear(8, 2)

    def forward(self, values: torch.Tensor, wanted: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"loss": ((self.learned(self.frozen(values).tanh()) - wanted) ** 2).mean()}


def main(output: str, crash_at: int) -> None:
    rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))

    def draw(rng: np.random.Generator) -> tuple[str, tuple[Any, ...]]:
        # The loop seeds with seed, step and process: what one process draws for two is what two draw.
        seed = rng.bit_generator.seed_seq.entropy  # type: ignore[attr-defined]
        step = seed[1]
        if step == crash_at:
            raise RuntimeError("crashed as asked for")
        whole = np.random.default_rng(step)
        values, wanted = (torch.from_numpy(whole.standard_normal((4, width)).astype(np.float32)) for width in (4, 2))
        return "net", (values[rank::world], wanted[rank::world])

    settings = Settings(output=output, steps=STEPS, rate=1e-2, device="cpu", threads=1, seed=0, save_every=2)
    train(Net(), draw, {"loss": 1.0}, settings)
    if not os.path.exists(os.path.join(output, "state.pt")):
        raise RuntimeError("a process went on before the state was written")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
