"""Chooses the device that models run on."""

from __future__ import annotations

import contextlib
import ctypes
import sys
from collections.abc import Iterator

import torch

from .errors import InputError, ResourceError

DEVICES = ("auto", "cpu", "cuda", "mps")


def choose_device(name: str) -> torch.device:
    """The torch device for ``auto`` (an NVIDIA GPU where there is one), ``cpu``, ``cuda`` or ``mps`` (the GPU of an Apple computer).

    Raises:
        InputError: the name is none of these.
        ResourceError: ``cuda`` or ``mps`` is asked for and torch can't use it here.
    """
    if name not in DEVICES:
        raise InputError(
            f"There is no device named {name!r}.",
            "Models run on a CPU, an NVIDIA GPU or an Apple GPU.",
            f"Choose one of {', '.join(DEVICES)}.",
        )
    if name == "cpu":
        return torch.device("cpu")
    if name == "mps":
        # Never chosen by itself: nobody has tried it yet.
        if torch.backends.mps.is_available():
            return torch.device("mps")
        raise ResourceError("The device 'mps' is not available.", "This torch finds no Apple GPU.", "Choose 'cpu' or 'auto'.")
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise ResourceError(
            "The device 'cuda' is not available.",
            "This torch finds no NVIDIA GPU." if torch.version.cuda else f"This torch ({torch.__version__}) was built without CUDA.",
            "Choose 'cpu' or 'auto', or install the NVIDIA driver and a CUDA build of torch.",
        )
    return torch.device("cuda" if available else "cpu")


@contextlib.contextmanager
def autocast(device: torch.device) -> Iterator[None]:
    """Compute in bfloat16 where the hardware does so fast: on GPUs, and on CPUs with AVX-512 BF16 or AMX. Elsewhere in float32."""
    fast = device.type == "cuda" or (device.type == "cpu" and torch.cpu._is_avx512_bf16_supported())
    with torch.autocast(device.type, torch.bfloat16, enabled=fast):
        yield


def keep_memory() -> None:
    """Tell the C library to keep large blocks that are freed, for the next array of the kind.

    By default glibc maps and unmaps each array above 32 MB, and touching fresh pages took half of the time of matching at full resolution.
    `release_memory` hands back what is not in use. Does nothing where there is no glibc.
    """
    with contextlib.suppress(OSError, AttributeError):
        libc = _glibc()
        libc.mallopt(_M_MMAP_MAX, 0)
        libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


def release_memory() -> None:
    """Hand memory that is not in use back to the system, after a run: the computer's, and a GPU's, on which others draw."""
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    with contextlib.suppress(OSError, AttributeError):
        _glibc().malloc_trim(0)


_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4


def _glibc() -> ctypes.CDLL:
    if sys.platform != "linux":
        raise OSError("glibc is Linux's C library")
    return ctypes.CDLL("libc.so.6")
