"""A backbone with 4-bit weights on the CPU; only where bitsandbytes is installed."""

from pathlib import Path

import numpy as np
import pytest
import torch

from RAUSlicerLib.full_size.backbones import open_backbone
from RAUSlicerLib.full_size.plan import Placement
from RAUSlicerLib.full_size.slice_reader import FullSizeConfig, FullSizeVlm, Lora
from RAUSlicerLib.rau.network import Answers, MatchEvidence, Pictures, SlicePair
from RAUSlicerLib.training.tiny_backbone import KINDS, make_tiny_backbone

bitsandbytes = pytest.importorskip("bitsandbytes", reason="4-bit weights need bitsandbytes")


@pytest.fixture(scope="module", params=KINDS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    # 4-bit blocks have 64 weights, so a narrower backbone would not be one with 4-bit weights.
    return make_tiny_backbone(tmp_path_factory.mktemp("backbone") / request.param, request.param, width=128)


def opened(folder: Path, precision: str) -> FullSizeVlm:
    backbone = open_backbone(folder, Placement(torch.device("cpu"), precision, 0, ""))
    torch.manual_seed(0)
    config = FullSizeConfig("", "", backbone.hidden_size, 16, backbone.first_token, 112, 3, lora=Lora())
    return FullSizeVlm(config, backbone).eval()


def ask(vlm: FullSizeVlm) -> Answers:
    torch.manual_seed(3)
    slices, mask = np.random.default_rng(0).random((2, 3, 64, 64), np.float32), np.zeros((64, 64), bool)
    mask[20:40, 10:30] = True
    box = torch.tensor([[0.1, 0.2, 0.3, 0.5]]).repeat(3, 1)
    evidence = MatchEvidence(torch.rand(3, 8, 8), torch.rand(3, 8, 8), box, box)
    shown = Pictures(slices[0], slices[1], 1, lambda _number, _level: mask)
    with torch.inference_mode():
        return vlm.read(SlicePair(torch.rand(1, 16, 8, 8), torch.rand(1, 16, 8, 8), evidence, ("liver", "spleen", "aorta"), shown))


def test_weights_of_the_language_model_alone_are_kept_in_four_bits(folder: Path) -> None:
    model = opened(folder, "4bit").backbone.model
    layers = {name for name, module in model.named_modules() if isinstance(module, bitsandbytes.nn.Linear4bit)}
    assert len(layers) >= 14 and not any("visual" in name or "lm_head" in name for name in layers)
    stored = next(module for name, module in model.named_modules() if name in layers and name.endswith("gate_proj.base_layer"))
    assert stored.weight.dtype is torch.uint8 and stored.weight.numel() * 2 == stored.in_features * stored.out_features


def test_answers_are_close_to_those_in_half_precision(folder: Path) -> None:
    four, half = (ask(opened(folder, precision)) for precision in ("4bit", "bf16"))
    assert all(torch.isfinite(value).all() for value in (four.queries, four.boxes, four.presence))
    assert (four.queries - half.queries).norm() / half.queries.norm() < 0.3
    assert not torch.equal(four.queries, half.queries)
    torch.testing.assert_close(four.boxes, half.boxes, atol=0.05, rtol=0)
