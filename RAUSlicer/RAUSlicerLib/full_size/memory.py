"""How much memory is free on a device."""

from __future__ import annotations

import torch

from ..support.shortage import free_here


def free_memory(device: torch.device) -> int | None:
    """Bytes that a model could take on a device now; None where the system doesn't tell."""
    if device.type == "cuda":
        free: int = torch.cuda.mem_get_info(device)[0]
        return free
    if device.type == "mps":
        # The GPU of an Apple computer has no memory of its own: what the system recommends may be more than is free.
        mine = torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
        free_on_machine = free_here()
        return mine if free_on_machine is None else min(mine, free_on_machine)
    return free_here()
