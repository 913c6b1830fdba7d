"""Models on large backbones, on tiny random checkpoints of exactly those architectures."""

import json
import shutil
import socket
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from RAUSlicerLib.errors import ModelError
from RAUSlicerLib.full_size import adding
from RAUSlicerLib.full_size.backbone import TOKENS
from RAUSlicerLib.full_size.composing import compose
from RAUSlicerLib.full_size.slice_reader import Lora
from RAUSlicerLib.imaging.grids import same_grid
from RAUSlicerLib.loading import load_model
from RAUSlicerLib.models import store
from RAUSlicerLib.models.checkpoint import load_config
from RAUSlicerLib.models.manifest import write_manifest
from RAUSlicerLib.pipeline import Pipeline, transfer
from RAUSlicerLib.training.tiny_backbone import KINDS

PICTURE = 128


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_given: object) -> None:
        raise AssertionError("the network was tried")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.mark.usefixtures("coarse")
@pytest.mark.parametrize("kind", KINDS)
def test_a_transfer_runs_the_whole_way_on_a_backbone_and_sam2_from_folders(
    installed: Path, small_matching: None, no_network: None, kind: str, make_ellipsoids
) -> None:
    compose("mine", kind, "sam2.1", picture=PICTURE, regions=2)
    pipeline = Pipeline("mine", "cpu")
    case = make_ellipsoids(size=(40, 44, 24), spacing=(2.5, 2.5, 4.0))
    backbone = pipeline.model.vlm.backbone
    heads = backbone.heads_computed

    result = transfer(case, case.volume, pipeline=pipeline)

    assert same_grid(result.segmentation.labelmap, case.volume)
    assert result.model == "mine"
    names = {structure.name for structure in case.segmentation.structures}
    assert {one.structure.name for one in result.results} == names
    boxes = {one.structure.name: one.localization.box_mm for one in result.results if one.localization}
    body = case.segmentation.structures[0]
    indices = np.argwhere(case.segmentation.array(body))[:, ::-1]
    points = np.array([case.volume.TransformIndexToPhysicalPoint(index.tolist()) for index in indices[:: len(indices) // 500]])
    low, high = np.array(boxes["body"])
    assert (points >= low - 8).all() and (points <= high + 8).all()
    # Two groups of regions, and the reference is shown anew every third slice: far fewer than slices times structures.
    levels = sum(bool(one.localization and one.localization.prompts) for one in result.results)
    assert levels and 0 < backbone.heads_computed - heads <= 2 * (24 // 3 + 2)
    assert not backbone._kept


def test_the_plan_is_told_in_words(installed: Path, small_matching: None) -> None:
    compose("mine", "qwen3_vl", "sam2.1", picture=PICTURE)
    model = load_model("mine")
    assert len(model.plan) == 1 and "qwen3_vl" in model.plan[0] and "the CPU" in model.plan[0] and not model.warnings


def test_matching_network_and_refiner_come_from_the_embedded_model(installed: Path, small_matching: None, tiny_pipeline: Pipeline) -> None:
    compose("mine", "qwen2_5_vl", "sam2.1", picture=PICTURE)
    model = load_model("mine")
    theirs = tiny_pipeline.model
    assert model.refiner is not None and model.calibration == theirs.calibration
    for mine, other in zip(model.matching.state_dict().values(), theirs.matching.state_dict().values(), strict=True):
        assert torch.equal(mine, other)


def test_only_heads_and_tokens_are_saved(installed: Path) -> None:
    folder = compose("mine", "qwen2_5_vl", "sam2.1", lora=Lora())
    assert folder.parts == ("sam2", "vlm") and folder.runs
    assert not store.resolve("qwen2_5_vl").runs and not store.resolve("sam2.1").runs
    heads = load_file(folder.path / "vlm" / "model.safetensors")
    assert "special" in heads and any(key.startswith("adapter.") for key in heads)
    assert not any("embed_tokens" in key or "visual" in key for key in heads)
    assert {key.split(".")[0] for key in load_file(folder.path / "sam2" / "model.safetensors")} == {"query_mlp", "query_attention"}
    config = load_config(folder.path / "vlm")
    assert config["backbone"] == "qwen2_5_vl" and len(config["revision"]) == 16


def test_the_embedded_sam2_may_be_combined_with_a_large_backbone(installed: Path, tiny_model: Path, small_matching: None) -> None:
    adding.add(tiny_model)
    folder = compose("mine", "qwen2_5_vl", "tiny", picture=PICTURE)
    # What comes of somebody's SAM2 stays under its licence.
    assert {part: manifest.licence for part, manifest in folder.verify().items()} == {"vlm": "unknown", "sam2": "none"}
    model = load_model("mine")
    assert model.segmenter.config.query_dim == 32 and not model.segmenter.config.use_query


def broken(folder: Path, **changes: object) -> None:
    """Change a checkpoint's configuration, with the checksums to go with it."""
    config = json.loads((folder / "config.json").read_text())
    config.update(changes)
    (folder / "config.json").write_text(json.dumps(config))
    manifest = json.loads((folder / "checksums.json").read_text())
    write_manifest(folder, name=manifest["name"], kind=manifest["kind"], licence=manifest["licence"])


def test_a_backbone_that_is_not_installed_is_named(installed: Path, small_matching: None) -> None:
    compose("mine", "qwen2_5_vl", "sam2.1")
    store.remove("qwen2_5_vl")
    with pytest.raises(ModelError, match="'qwen2_5_vl', which is not installed") as raised:
        load_model("mine")
    assert "models add" in raised.value.solution


def test_missing_tokens_are_refused(installed: Path, small_matching: None) -> None:
    folder = compose("mine", "qwen2_5_vl", "sam2.1").path / "vlm"
    broken(folder, tokens=["<|rau_loc|>"])
    with pytest.raises(ModelError, match="special tokens"):
        load_model("mine")
    broken(folder, tokens=json.loads(json.dumps(list(TOKENS))))
    tensors = load_file(folder / "model.safetensors")
    del tensors["special"]
    save_file(tensors, folder / "model.safetensors")
    broken(folder)
    with pytest.raises(ModelError, match="special"):
        load_model("mine")


def test_a_tokenizer_with_other_tokens_than_the_model_was_trained_with_is_refused(installed: Path, small_matching: None) -> None:
    folder = compose("mine", "qwen3_vl", "sam2.1").path / "vlm"
    broken(folder, first_token=load_config(folder)["first_token"] + 7)
    with pytest.raises(ModelError, match="another one than this model was trained on"):
        load_model("mine")


def test_an_adapter_that_does_not_fit_is_refused(installed: Path, small_matching: None) -> None:
    folder = compose("mine", "qwen2_5_vl", "sam2.1", lora=Lora(r=4)).path / "vlm"
    assert load_model("mine").vlm.adapter()
    broken(folder, lora={"r": 2, "alpha": 16, "dropout": 0.01, "layers": ["q_proj", "v_proj"]})
    with pytest.raises(ModelError, match="adapter"):
        load_model("mine")


def test_large_files_are_linked_and_not_read_twice(home: Path, backbones: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    from RAUSlicerLib.full_size import imports
    from RAUSlicerLib.models import manifest

    monkeypatch.setattr(imports, "LARGE", 1000)
    monkeypatch.setattr(manifest, "LARGE", 1000)
    model = adding.add(backbones["qwen3_vl"])
    weights = model.part("backbone") / "model.safetensors"
    assert weights.stat().st_ino == (backbones["qwen3_vl"] / "model.safetensors").stat().st_ino
    assert model.state == "sound"
    copy = weights.read_bytes()
    weights.unlink()
    weights.write_bytes(copy)
    assert model.state == "not checked"
    model.verify()
    assert model.state == "sound"
    weights.write_bytes(copy[:-1] + b"!")
    with pytest.raises(ModelError, match="checksum"):
        model.verify()
    assert model.state == "damaged"


def test_the_card_tells_the_licence(home: Path, backbones: dict[str, Path], tmp_path: Path) -> None:
    other = shutil.copytree(backbones["qwen3_vl"], tmp_path / "other")
    (other / "README.md").write_text("---\nlicense: other\nlicense_name: qwen-research\n---\n# Card\n")
    assert adding.add(other).verify()["backbone"].licence == "qwen-research"
    assert adding.add(backbones["qwen3_vl"]).verify()["backbone"].licence == "unknown"
