import shutil
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F

from RAUSlicerLib.errors import ModelError
from RAUSlicerLib.imaging.grids import same_grid
from RAUSlicerLib.loading import load_model
from RAUSlicerLib.matching import network
from RAUSlicerLib.matching.network import EmbeddingNet, MatchingConfig, MatchingNet
from RAUSlicerLib.models import opening
from RAUSlicerLib.models.checkpoint import save_checkpoint
from RAUSlicerLib.pipeline import Pipeline
from RAUSlicerLib.rau.network import MatchEvidence, RauVlm, VlmConfig
from RAUSlicerLib.rau.sam2 import MemorySegmenter, Sam2Config
from RAUSlicerLib.training import matching as training_matching


def test_a_model_opens_with_its_parts_and_calibration(tiny_model):
    model = load_model(str(tiny_model))
    assert (model.name, model.calibration.intercept, dict(model.calibration.weights)) == ("tiny", -2.0, {"round_trip_dice": 4.0})
    assert not any(network.training for network in (model.matching, model.vlm, model.segmenter))


def test_another_class_can_be_the_matching_network(tiny_model, case, coarse, tmp_path, monkeypatch) -> None:
    class SmallConfig:
        @classmethod
        def from_dict(cls, values: dict) -> int:
            return values["width"]

    class SmallNet(EmbeddingNet):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.convolution = nn.Conv3d(1, width, 3, padding=1)

        def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
            fine = self.convolution(image).float()
            coarse = F.avg_pool3d(fine, 4, ceil_mode=True)
            return F.normalize(fine, dim=1), F.normalize(coarse, dim=1), self.read(image)

    monkeypatch.setattr(network, "SmallNet", SmallNet, raising=False)
    monkeypatch.setattr(network, "SmallConfig", SmallConfig, raising=False)
    monkeypatch.setitem(opening._NETWORKS, "small", ("matching.network", "SmallNet", "SmallConfig"))
    shutil.copytree(tiny_model, tmp_path / "model")
    torch.manual_seed(0)
    config, state = {"model_type": "small", "width": 16}, SmallNet(16).state_dict()
    save_checkpoint(tmp_path / "model" / "matching", config, state, "For tests.", name="small", kind="small", licence="none")

    pipeline = Pipeline(str(tmp_path / "model"), device="cpu")
    assert isinstance(pipeline.model.matching, SmallNet)
    result = pipeline.transfer(case, case.volume)

    assert same_grid(result.segmentation.labelmap, case.volume)
    for structure in case.segmentation.structures:
        truth, found = case.segmentation.array(structure), result.segmentation.array(structure)
        assert 2 * (truth & found).sum() / (truth.sum() + found.sum()) > 0.8, structure.name
    with pytest.raises(ModelError, match="can't be trained on"):
        training_matching.trainee_of(SimpleNamespace(seed=0, start=str(tmp_path / "model")))


def test_opening_a_model_leaves_the_random_numbers_alone(tiny_model):
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    load_model(str(tiny_model))
    assert torch.equal(torch.rand(1), expected)


def test_a_part_in_the_place_of_another_is_refused(tiny_model, tmp_path):
    shutil.copytree(tiny_model, tmp_path / "mixed")
    shutil.rmtree(tmp_path / "mixed" / "vlm")
    shutil.copytree(tiny_model / "sam2", tmp_path / "mixed" / "vlm")
    with pytest.raises(ModelError, match="'rau_sam2'"):
        load_model(str(tmp_path / "mixed"))


def test_a_missing_part_is_named(tiny_model, tmp_path):
    shutil.copytree(tiny_model, tmp_path / "part")
    shutil.rmtree(tmp_path / "part" / "sam2")
    with pytest.raises(ModelError, match="'sam2'"):
        load_model(str(tmp_path / "part"))


def on_gpu(network: nn.Module) -> nn.Module:
    """The same network with weights that pretend to lie on a GPU; must be called in a FakeTensorMode."""
    for module in network.modules():
        for name, value in module._parameters.items():
            if value is not None:
                module._parameters[name] = nn.Parameter(torch.empty(value.shape, dtype=value.dtype, device="cuda"), requires_grad=False)
        for name, value in module._buffers.items():
            if value is not None:
                module._buffers[name] = torch.empty(value.shape, dtype=value.dtype, device="cuda")
    return network.eval()


def test_networks_make_no_tensor_on_the_wrong_device():
    """Without a GPU: fake tensors refuse to mix devices just as real ones do."""
    networks = MatchingNet(MatchingConfig(widths=(8, 8, 16))), RauVlm(VlmConfig()), MemorySegmenter(Sam2Config())
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        matching, vlm, segmenter = map(on_gpu, networks)

        def rand(*shape):
            return torch.rand(*shape, device="cuda")

        with pytest.raises(RuntimeError, match="same device"):
            matching(torch.rand(1, 1, 9, 8, 7))
        assert {embedding.device.type for embedding in matching(rand(1, 1, 9, 8, 7))} == {"cuda"}
        answers = vlm(rand(1, 128, 24, 24), rand(1, 128, 24, 24), MatchEvidence(rand(3, 24, 24), rand(3, 24, 24), rand(3, 4), rand(3, 4)))
        assert answers.boxes.device.type == answers.presence.device.type == "cuda"
        features = segmenter.encode(rand(2, 1, 192, 192))
        memory = segmenter.memorize(features, rand(2, 1, 192, 192))[:, None]
        attended = segmenter.attend(features, memory)
        for boxes, query in ((rand(2, 4), rand(2, 192)), (None, None)):
            logits, score = segmenter.decode(attended, features, rand(2, 1, 96, 96), boxes, query, memory)
            assert segmenter.upsampled(logits).device.type == score.device.type == "cuda"
