"""A backbone's files can't make transformers import a package, fetch a kernel or run other code: they are refused, or not heard."""

import json
import shutil
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import modeling_utils

from RAUSlicerLib.errors import ModelError
from RAUSlicerLib.full_size import adding
from RAUSlicerLib.full_size.backbones import describe, open_backbone
from RAUSlicerLib.full_size.plan import Placement

KERNEL = "kernels-community/flash-attn2"
HERE = Placement(torch.device("cpu"), "fp32", 0, "")
Change = Callable[[dict[str, Any]], object]


@pytest.fixture
def folder(backbones: dict[str, Path], tmp_path: Path) -> Path:
    return shutil.copytree(backbones["qwen2_5_vl"], tmp_path / "backbone")


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Kernels, modules and addresses that somebody asked for."""
    found: list[str] = []

    def refuse(what: object, *_more: object, **_named: object) -> None:
        found.append(str(what))
        raise ImportError(f"{what} was asked for")

    monkeypatch.setattr(modeling_utils, "lazy_import_flash_attention", refuse)
    monkeypatch.setattr("transformers.integrations.hub_kernels.get_kernel", refuse)
    monkeypatch.setattr(socket.socket, "connect", lambda _self, address: refuse(address))
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    before = set(sys.modules)
    packages = tuple("kernels flash_attn timm evil awq gptqmodel bitsandbytes mamba_ssm fla optimum compressed_tensors".split())
    monkeypatch.setattr("builtins.__import__", _watching(__import__, packages, found))
    yield found
    found += sorted(name for name in set(sys.modules) - before if name.split(".")[0] in packages)


def _watching(real: Callable[..., Any], packages: tuple[str, ...], found: list[str]) -> Callable[..., Any]:
    def watched(name: str, *more: Any, **named: Any) -> Any:
        if name.split(".")[0] in packages:
            found.append(name)
        return real(name, *more, **named)

    return watched


def rewrite(path: Path, change: Change) -> None:
    values = json.loads(path.read_text()) if path.exists() else {}
    change(values)
    path.write_text(json.dumps(values))


def setting(*path: str, to: Any) -> Change:
    def change(values: dict[str, Any]) -> None:
        for key in path[:-1]:
            values = values.setdefault(key, {})
        values[path[-1]] = to

    return change


REFUSED = {
    "attention": setting("attn_implementation", to=KERNEL),
    "attention, kept": setting("_attn_implementation", to=KERNEL),
    "attention, inside": setting("_attn_implementation_internal", to=f"{KERNEL}@main:evil"),
    "attention of a part": setting("attn_implementation", to={"": "sdpa", "vision_config": KERNEL}),
    "attention in a part": setting("vision_config", "attn_implementation", to=KERNEL),
    "paged attention": setting("text_config", "_attn_implementation", to=f"paged|{KERNEL}"),
    "experts": setting("text_config", "experts_implementation", to="sonicmoe"),
    "experts, kept": setting("_experts_implementation", to="deepgemm"),
    "a kernel as activation": setting("text_config", "hidden_act", to="kernels-community/activation"),
    "a file as activation": setting("text_config", "hidden_act", to="../evil.py"),
    "weights packed by a package": setting("quantization_config", to={"quant_method": "awq", "bits": 4}),
    "weights packed in a part": setting("text_config", "quantization_config", to={"quant_method": "fp8"}),
    "weights packed by bitsandbytes": setting("quantization_config", to={"quant_method": "bitsandbytes", "load_in_4bit": True}),
    "compressed weights": setting("compression_config", to={"quant_method": "compressed-tensors"}),
    "a part that fetches a kernel": setting("text_config", "model_type", to="rwkv"),
    "a part of another package": setting("vision_config", "model_type", to="timm_wrapper"),
    "a list with a path": setting("vision_config", "layers", to=["conv", "hf-hub:evil/kernel"]),
    "a kind that imports kernels": setting("model_type", to="qwen3_5"),
    "an unknown kind": setting("model_type", to="evil"),
    "a kind that is no word": setting("model_type", to={"evil": 1}),
}


@pytest.mark.parametrize("change", REFUSED.values(), ids=REFUSED.keys())
def test_a_configuration_that_names_code_is_refused(folder: Path, asked: list[str], change: Change, home: Path) -> None:
    rewrite(folder / "config.json", change)
    with pytest.raises(ModelError) as raised:
        open_backbone(folder, HERE)
    assert raised.value.explanation and raised.value.solution
    with pytest.raises(ModelError):
        adding.add(folder, "hostile")
    assert not list(home.glob("*")) and asked == []


NOT_HEARD = {
    "the usual attention": setting("_attn_implementation", to="flash_attention_2"),
    "flash attention of a part": setting("text_config", "attn_implementation", to="flash_attention_3"),
    "code of its own": setting("auto_map", to={"AutoConfig": "evil.Config", "AutoModelForImageTextToText": "evil--repo/evil.Model"}),
    "kernels": setting("use_kernels", to=True),
    "kernels by name": setting("kernel_config", to={"RMSNorm": "evil/kernel:Norm"}),
    "weights elsewhere": setting("transformers_weights", to="../../evil.bin"),
    "another name": setting("_name_or_path", to="evil/model"),
    "plans": setting("base_model_tp_plan", to={"layers.*": "evil"}),
    "no packing": setting("quantization_config", to=None),
    "fused modules": setting("fusion_config", to={"patch_embeddings": True}),
}


@pytest.mark.parametrize("change", NOT_HEARD.values(), ids=NOT_HEARD.keys())
def test_what_would_choose_code_is_not_heard(folder: Path, asked: list[str], change: Change) -> None:
    rewrite(folder / "config.json", change)
    backbone = open_backbone(folder, HERE)
    config = backbone.model.config
    assert {one._attn_implementation for one in (config, config.text_config, config.vision_config)} == {"sdpa"}
    assert not hasattr(config, "auto_map") and getattr(config, "quantization_config", None) is None
    assert asked == []


def test_a_sound_configuration_is_taken_as_transformers_takes_it(backbones: dict[str, Path]) -> None:
    from transformers import AutoConfig

    for kind, folder in backbones.items():
        ours, theirs = describe(folder).config.to_dict(), AutoConfig.from_pretrained(folder, local_files_only=True).to_dict()
        assert ours == theirs, kind


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("preprocessor_config.json", setting("image_processor_type", to="TimmWrapperImageProcessor")),
        ("processor_config.json", setting("image_processor", "image_processor_type", to="evil/kernel:Processor")),
        ("tokenizer_config.json", setting("tokenizer_class", to="MistralCommonBackend")),
        ("adapter_config.json", setting("base_model_name_or_path", to="evil/model")),
    ],
)
def test_the_processors_files_name_no_other_package(folder: Path, asked: list[str], name: str, change: Change) -> None:
    rewrite(folder / name, change)
    with pytest.raises(ModelError) as raised:
        open_backbone(folder, HERE)
    assert raised.value.solution and asked == []


def test_how_it_answers_chooses_no_code(folder: Path, asked: list[str]) -> None:
    rewrite(folder / "generation_config.json", setting("cache_implementation", to="quantized"))
    rewrite(folder / "generation_config.json", setting("repetition_penalty", to=1.05))
    settings = open_backbone(folder, HERE).model.generation_config
    assert settings.cache_implementation is None and settings.repetition_penalty == 1.05
    assert asked == []
