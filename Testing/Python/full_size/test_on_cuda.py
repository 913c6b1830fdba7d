"""Models on large backbones, tiny ones of exactly those architectures, on a pretended CUDA device."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from RAUSlicerLib.full_size.composing import compose
from RAUSlicerLib.imaging.grids import same_grid
from RAUSlicerLib.imaging.segmentation import Reference
from RAUSlicerLib.pipeline import Pipeline
from RAUSlicerLib.rau.network import Pictures
from RAUSlicerLib.training.tiny_backbone import KINDS


@pytest.mark.slow
@pytest.mark.usefixtures("coarse", "installed", "small_matching")
@pytest.mark.parametrize("kind", KINDS)
def test_a_transfer_runs_on_it(cuda: Any, kind: str, make_ellipsoids: Callable[..., Reference]) -> None:
    compose("mine", kind, "sam2.1", picture=128, regions=2)
    pipeline = Pipeline("mine", "cuda")
    backbone = pipeline.model.vlm.backbone
    assert backbone.device.type == "cuda" and backbone.model.dtype == torch.bfloat16
    assert "the GPU Pretended GPU in bfloat16" in pipeline.model.plan[0]
    case = make_ellipsoids(size=(32, 36, 10), spacing=(3.0, 3.0, 7.0))
    heads = backbone.heads_computed

    result = pipeline.transfer(case, case.volume)

    assert same_grid(result.segmentation.labelmap, case.volume) and backbone.heads_computed > heads
    # What it says in words.
    plane = result.segmentation.array(case.segmentation.structures[0])[:1] * 1.0
    shown = Pictures(plane, plane, 0, lambda _number, _level: plane[0] > 0)
    assert pipeline.model.vlm.ask_name(shown, ["body"], plane[0]) in (None, "body")
