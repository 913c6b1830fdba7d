"""Weights on few bits: evenly spaced, exact in half precision, close to what was trained, and far smaller once compressed."""

from __future__ import annotations

import zlib

import pytest
import torch

from RAUSlicerLib.training.export import rounded


@pytest.fixture
def tensors() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    weight = torch.randn(40, 7, 3, 3, 3) * torch.logspace(-3, 0, 40).view(-1, 1, 1, 1, 1)
    return {"weight": weight, "bias": torch.randn(40), "none": torch.zeros(3, 5)}


@pytest.mark.parametrize("bits", [6, 8])
def test_rounded_weights_are_evenly_spaced_and_exact_in_half_precision(tensors: dict[str, torch.Tensor], bits: int) -> None:
    out = rounded(tensors, bits)
    assert out["weight"].shape == tensors["weight"].shape
    assert torch.equal(out["weight"].half().float(), out["weight"])
    for given, row in zip(tensors["weight"].flatten(1), out["weight"].flatten(1), strict=True):
        values = row.unique()
        step = values.diff().min()
        assert len(values) <= 2**bits and bool(((row / step) % 1 == 0).all())
        # A power of two lies within a factor of two of what the largest weight asks for.
        assert float((row - given).abs().max()) <= float(step) / 2 <= float(given.abs().max()) / (2 ** (bits - 1) - 1)


def test_vectors_and_zeros_stay_as_they_are(tensors: dict[str, torch.Tensor]) -> None:
    out = rounded(tensors, 8)
    assert torch.equal(out["bias"], tensors["bias"]) and torch.equal(out["none"], tensors["none"])


def test_rounded_weights_are_smaller_once_compressed(tensors: dict[str, torch.Tensor]) -> None:
    before, after = (len(zlib.compress(given["weight"].half().numpy().tobytes())) for given in (tensors, rounded(tensors, 8)))
    assert after < 0.7 * before
