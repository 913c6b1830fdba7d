"""How many threads of the machine a run may take; how much memory, `shortage.limited_memory` says."""

from __future__ import annotations

import os


def use_threads(count: int | None) -> None:
    """Let networks and image filters use so many threads, but no more than there are processors; None leaves them as they are."""
    if count is None:
        return
    count = min(count, os.cpu_count() or 1)
    import SimpleITK as sitk
    import torch

    torch.set_num_threads(count)
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(count)
