"""The pretended CUDA device does what CUDA does: it refuses what CUDA refuses, and its autocast changes types as CUDA's does."""

import threading
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F


@pytest.fixture(autouse=True)
def device(cuda: Any) -> Any:
    return cuda


def numbers(*size: int) -> torch.Tensor:
    return torch.rand(*size, device="cuda")


def test_tensors_of_two_devices_do_not_meet():
    with pytest.raises(RuntimeError, match="same device"):
        numbers(3) + torch.ones(3)
    with pytest.raises(RuntimeError, match="same device"):
        torch.ones(3)[torch.zeros(1, dtype=torch.long, device="cuda")]
    # A single number may stand beside any tensor, and a processor's indices beside a device's.
    assert (numbers(3) + torch.tensor(1.0)).device.type == "cuda"
    assert numbers(3)[torch.tensor([0, 2])].shape == (2,)


def test_its_numbers_are_no_numpy_array():
    with pytest.raises((TypeError, RuntimeError), match="numpy"):
        numbers(2).numpy()
    with pytest.raises((TypeError, RuntimeError), match="numpy"):
        np.asarray(numbers(2))
    assert numbers(2).cpu().numpy().shape == (2,)


def test_integers_have_no_product_of_matrices_and_a_processors_chance_does_not_reach_it():
    steps = torch.arange(3, device="cuda")
    with pytest.raises(RuntimeError, match="not implemented"):
        torch.stack([steps, steps]) @ steps
    with pytest.raises(RuntimeError, match="generator"):
        torch.multinomial(numbers(4), 2, generator=torch.Generator())


def test_autocast_is_cudas():
    convolution = torch.nn.Conv2d(1, 2, 3).to("cuda")
    with torch.no_grad(), torch.autocast("cuda", torch.bfloat16):
        short = convolution(numbers(1, 1, 5, 5))
        long = F.interpolate(short, (6, 6), mode="bilinear")
        assert (short.dtype, long.dtype) == (torch.bfloat16, torch.float32)
        assert short.softmax(1).dtype == torch.float32
        with pytest.raises(RuntimeError, match="dtype"):
            torch.lerp(short, long[:, :, :3, :3], 0.5)


def test_what_is_written_in_place_is_written():
    whole = torch.zeros(4, 3, device="cuda")
    whole[1:3].add_(2)
    torch.mul(whole[1], 3, out=whole[0])
    row = whole[2:3]
    row.squeeze_(0)
    assert whole.cpu().sum(1).tolist() == [18, 6, 6, 0] and row.shape == (3,)


def test_threads_have_it_too(device):
    found: list[torch.Tensor] = []
    thread = threading.Thread(target=lambda: found.append(torch.tensor([1.0], device="cuda") + torch.zeros(1, device="cuda")))
    thread.start()
    thread.join()
    assert found[0].device.type == "cuda" and found[0].item() == 1
