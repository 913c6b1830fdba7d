"""A CUDA device for machines without one: tensors say ``cuda:0``, hold their numbers in main memory and refuse what CUDA refuses.

    with pretended_cuda() as device:
        Pipeline("embedded", "cuda").transfer(...)
    device.calls  # which of the library's functions computed on it

Autocast is torch's own for CUDA, so types come out as they do on a GPU. Results are the processor's, up to what autocast changes. Refused
as by CUDA: tensors of two devices in one operation, NumPy arrays of its tensors, a processor's random generator, and products of integers.
"""

from __future__ import annotations

import collections
import contextlib
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import CodeType, FrameType
from typing import Any
from unittest import mock

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._mode_utils import no_dispatch
from torch.utils._python_dispatch import TorchDispatchMode

DEVICE = torch.device("cuda", 0)
NAME = "Pretended GPU"
MEMORY = 24 * 2**30
_LIBRARY = "RAUSlicerLib"
# So many calls up an operation is counted.
_NEAR = 14

# What may have tensors of both devices: copies, and indexing by what lies on the processor.
_COPIES = {"aten::_to_copy", "aten::copy_", "aten::copy", "aten::_copy_from"}
_INDEXING = {"aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_", "aten::_unsafe_index"}
# CUDA has no kernels for these on integers, the processor has.
_FLOAT_ONLY = {
    *("aten::mm", "aten::mv", "aten::bmm", "aten::addmm", "aten::addmv", "aten::baddbmm", "aten::dot", "aten::vdot"),
    *("aten::avg_pool2d", "aten::avg_pool3d", "aten::addr", "aten::addbmm"),
}
# A GPU sums them up in single precision, whatever their type; many a processor takes a hundred times as long with short ones.
_SUMMED = {"aten::convolution", "aten::mm", "aten::bmm", "aten::addmm", "aten::baddbmm", "aten::mv", "aten::addmv"}
_SHORT = (torch.bfloat16, torch.float16)


@dataclass
class Pretended:
    """What was seen of the device.

    ``calls`` counts its operations by the function of the library that asked for them, itself or by what it called, as
    ``correspondence.py:fuse_labels``; ``largest`` is the most numbers that each function has brought from it to the processor at a time.
    """

    calls: collections.Counter[str] = field(default_factory=collections.Counter)
    largest: collections.Counter[str] = field(default_factory=collections.Counter)


class CudaTensor(torch.Tensor):
    """A tensor that says it is on the device. ``held`` has its numbers."""

    held: torch.Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, held: torch.Tensor) -> CudaTensor:
        made = torch.Tensor._make_wrapper_subclass(
            cls,
            held.size(),
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            layout=held.layout,
            device=DEVICE,
            requires_grad=False,
        )
        made.held = held
        return made

    def tolist(self) -> Any:
        return self.held.tolist()

    def __repr__(self, *, tensor_contents: object = None) -> str:
        return f"{self.held!r} on {DEVICE}"

    @classmethod
    def __torch_dispatch__(cls, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(operation, args, kwargs or {})


class _Mode(TorchDispatchMode):
    """Catches what has no tensor of the device yet: new ones, and copies to it."""

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        asked = kwargs.get("device")
        if (asked is not None and torch.device(asked).type == "cuda") or any(isinstance(one, CudaTensor) for one in _flat(args, kwargs)):
            return _run(operation, args, kwargs)
        return operation(*args, **kwargs)


def _flat(args: Any, kwargs: dict[str, Any]) -> Iterator[Any]:
    """All arguments, those in lists too. torch's own way takes most of the time of a small operation."""
    for one in (*args, *kwargs.values()):
        if isinstance(one, list | tuple):
            yield from one
        else:
            yield one


def _each(change: Callable[[Any], Any], one: Any) -> Any:
    """A value, or a list of values, changed."""
    return type(one)([_each(change, part) for part in one]) if type(one) in (list, tuple) else change(one)


def _held(one: Any) -> Any:
    return one.held if isinstance(one, CudaTensor) else one


_seen = Pretended()


def _run(operation: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """One operation on the device, done by the processor."""
    name = operation._schema.name
    flat = list(_flat(args, kwargs))
    own = [one for one in flat if isinstance(one, CudaTensor)]
    _check(name, args, flat, own)
    asking = _asking()
    for function in asking:
        _seen.calls[function] += 1
    given, keywords = _each(_held, args), {key: _each(_held, one) for key, one in kwargs.items()}
    lands_here = isinstance(args[0], CudaTensor) if name in ("aten::copy_", "aten::copy") else bool(own)
    if keywords.get("device") is not None:
        lands_here = torch.device(keywords["device"]).type == "cuda"
        if own and not lands_here and name in _COPIES:
            for function in asking:
                _seen.largest[function] = max(_seen.largest[function], own[0].numel())
        keywords = {**keywords, "device": torch.device("cpu")}
    keywords.pop("pin_memory", None)
    short = next((one.dtype for one in own if one.dtype in _SHORT), None) if name in _SUMMED and "out" not in keywords else None
    if short is not None:
        given = _each(lambda one: one.float() if isinstance(one, torch.Tensor) and one.dtype == short else one, given)
    out = operation(*given, **keywords)
    if short is not None:
        out = out.to(short)
    if torch.Tag.inplace_view in operation.tags:
        with no_dispatch():
            # The shape that a tensor says it has.
            operation(*args, **keywords)
    # What was written in place, or into ``out``, is still the caller's own tensor.
    before = {id(one.held): one for one in own}

    def wrapped(one: Any) -> Any:
        if not isinstance(one, torch.Tensor) or not lands_here:
            return one
        mine = before.get(id(one))
        if mine is None:
            return CudaTensor(one)
        return mine

    return _each(wrapped, out)


def _check(name: str, args: Any, flat: list[Any], own: list[CudaTensor]) -> None:
    """Refuse what CUDA refuses."""
    others = [one for one in flat if isinstance(one, torch.Tensor) and not isinstance(one, CudaTensor)]
    if own and name in _INDEXING:
        others = [one for one in (args[0], *args[2:3]) if isinstance(one, torch.Tensor) and not isinstance(one, CudaTensor)]
    # A number of the processor's may stand beside any tensor; a number of the device's only beside the device's.
    if own and name not in _COPIES and any(one.dim() > 0 for one in others):
        raise RuntimeError(f"Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu! (in {name})")
    if any(isinstance(one, torch.Generator) and one.device.type == "cpu" for one in flat):
        raise RuntimeError(f"Expected a 'cuda' device type for generator but found 'cpu' (in {name})")
    if own and name in _FLOAT_ONLY and not (own[0].dtype.is_floating_point or own[0].dtype.is_complex):
        raise RuntimeError(f'"{name}_cuda" not implemented for {str(own[0].dtype)!r}')


def _asking() -> set[str]:
    """The functions of the library that are near on the stack."""
    frame: FrameType | None = sys._getframe(2)
    found: set[str | None] = set()
    for _ in range(_NEAR):
        if frame is None:
            break
        found.add(_function(frame.f_code))
        frame = frame.f_back
    return {function for function in found if function is not None}


@cache
def _function(code: CodeType) -> str | None:
    """A function of the library as ``file:function``; None for any other."""
    path = Path(code.co_filename)
    return f"{path.name}:{code.co_name}" if _LIBRARY in path.parts else None


_make = torch.tensor


def _tensor(data: Any, *, device: Any = None, **more: Any) -> torch.Tensor:
    """As ``torch.tensor``, which asks a real device where single numbers of one are put together."""
    made = _make(_each(_held, data), **more)
    return made if device is None else made.to(device)


@contextlib.contextmanager
def pretended_cuda() -> Iterator[Pretended]:
    """Within it torch has a CUDA device, in every thread.

    It must not be entered where there is a real one.
    """
    global _seen
    _seen = Pretended()
    torch._C._ensureCUDADeviceGuardSet()
    overwrite = torch.__future__.get_overwrite_module_params_on_conversion()
    lifted = torch._C._only_lift_cpu_tensors()
    run = threading.Thread.run

    def run_with_device(thread: threading.Thread) -> None:
        # What follows belongs to a thread; a device to all of them.
        torch._C._set_only_lift_cpu_tensors(True)
        with _Mode():
            run(thread)

    answers: dict[str, Any] = {
        "is_available": lambda: True,
        "is_initialized": lambda: True,
        "is_bf16_supported": lambda including_emulation=True: True,
        "_lazy_init": lambda: None,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "get_device_name": lambda device=None: NAME,
        "mem_get_info": lambda device=None: (MEMORY, MEMORY),
        "empty_cache": lambda: None,
        "synchronize": lambda device=None: None,
        "max_memory_allocated": lambda device=None: 0,
        "reset_peak_memory_stats": lambda device=None: None,
    }
    with contextlib.ExitStack() as stack:
        for name, answer in answers.items():
            stack.enter_context(mock.patch.object(torch.cuda, name, answer))
        stack.enter_context(mock.patch.object(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False))
        # Indexing in inference mode counts versions of tensors, which those that only say where they are have not.
        stack.enter_context(mock.patch.object(torch, "inference_mode", lambda mode=True: torch.no_grad()))
        stack.enter_context(mock.patch.object(torch, "tensor", _tensor))
        stack.enter_context(mock.patch.object(threading.Thread, "run", run_with_device))
        stack.callback(torch.__future__.set_overwrite_module_params_on_conversion, overwrite)
        stack.callback(torch._C._set_only_lift_cpu_tensors, lifted)
        torch.__future__.set_overwrite_module_params_on_conversion(True)
        torch._C._set_only_lift_cpu_tensors(True)
        # The fused kernels ask a real device what it can.
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        stack.enter_context(_Mode())
        yield _seen
