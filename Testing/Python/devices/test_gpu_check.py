"""The script behind ``make gpu-check``: it runs everything, tells a difference, and says so where there is no GPU."""

import importlib.util
import sys
import threading
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import SimpleITK as sitk
import torch

from RAUSlicerLib.pipeline import Pipeline
from RAUSlicerLib.results import Transfer

SCRIPT = Path(__file__).parents[2] / "Benchmarks" / "gpu_check.py"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("gpu_check", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Dataclasses ask for their module.
    sys.modules["gpu_check"] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_without_a_gpu_it_says_so_and_checks_nothing(script, capsys):
    assert script.main([]) == script.NO_GPU == 3
    said = capsys.readouterr()
    assert "no GPU" in said.err and not said.out


@pytest.mark.slow
@pytest.mark.usefixtures("coarse")
def test_runs_agree_with_themselves(script, tiny_model, capsys):
    only = "transfer,correction by slice,large model qwen3_vl,training of the refiner"
    code = script.main(["--device", "cpu", "--data", "made", "--model", str(tiny_model), "--only", only])
    said = capsys.readouterr()
    assert code == 0, said.out + said.err
    assert said.out.count("agrees") == 4 and "All runs agree." in said.out


@pytest.mark.slow
@pytest.mark.usefixtures("coarse")
@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_runs_are_tried_on_the_pretended_device(script, tiny_model, capsys):
    only = "embeddings,training of matching,training of the refiner"
    code = script.main(["--device", "pretended", "--data", "made", "--model", str(tiny_model), "--only", only])
    said = capsys.readouterr()
    assert code == 0, said.out + said.err
    assert "Pretended GPU" in said.out


@pytest.fixture(scope="module")
def result(script: ModuleType, tiny_pipeline: Pipeline, coarse: None) -> Transfer:
    case = script.made_case()
    return tiny_pipeline.transfer(case.reference, case.target)


def test_differences_are_told(script, result):
    assert script.transfers_differ(result, result)[0] == []
    (layer,) = result.segmentation.layers
    eroded = sitk.BinaryErode(layer == 1, (2, 2, 0)) + sitk.Cast((layer > 1), sitk.sitkUInt8) * layer
    thinner = replace(result, segmentation=result.segmentation.map_layers([sitk.Cast(eroded, layer.GetPixelID())]))
    assert any("Dice" in one for one in script.transfers_differ(result, thinner)[0])
    away = sitk.Image(layer)
    away.SetOrigin((1.0, 0.0, 0.0))
    assert "the grids differ" in script.transfers_differ(result, replace(result, segmentation=result.segmentation.map_layers([away])))[0]
    surer = replace(result, results=tuple(replace(one, confidence=one.confidence + 0.2) for one in result.results))
    assert any("confidence" in one for one in script.transfers_differ(result, surer)[0])
    (layer,) = result.segmentation.layers
    lost = replace(result, segmentation=result.segmentation.map_layers([sitk.Image(layer.GetSize(), layer.GetPixelID())]))
    lost.segmentation.layers[0].CopyInformation(layer)
    unsure = replace(result, results=tuple(replace(one, confidence=0.5) for one in result.results))
    kept = replace(lost, results=unsure.results)
    assert any("Dice 0.000" in one for one in script.transfers_differ(unsure, kept)[0])
    fewer = replace(result, results=result.results[1:])
    assert any("lacks" in one for one in script.transfers_differ(result, fewer)[0])
    assert script.losses_differ({"a": 1.0}, {"a": 1.01})[0] == [] and script.losses_differ({"a": float("nan")}, {"a": 1.0})[0]
    # Losses are small numbers.
    assert script.losses_differ({"a": 0.01}, {"a": 0.02})[0]


def test_a_run_that_stops_is_wrong_and_the_others_go_on(script, capsys):
    def stop(_device):
        raise RuntimeError("expected dtype c10::BFloat16 for `end`")

    line = script.check("transfer", stop, script.transfers_differ, "cpu")
    assert len(line.wrong) == 2 and "BFloat16" in line.wrong[0]


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_nothing_of_the_pretended_device_stays(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    from pretended_cuda import pretended_cuda

    def changed():
        ours = (torch.cuda.is_available, torch.cuda._lazy_init, torch.inference_mode, torch.tensor, threading.Thread.run)
        return [*ours, torch.__future__.get_overwrite_module_params_on_conversion(), torch._C._only_lift_cpu_tensors()]

    before = changed()
    with pytest.raises(ZeroDivisionError), pretended_cuda():
        assert torch.zeros(1, device="cuda").device.type == "cuda" and changed() != before
        _ = 1 / 0
    assert changed() == before
    with pytest.raises((AssertionError, RuntimeError)):
        torch.zeros(1, device="cuda")
