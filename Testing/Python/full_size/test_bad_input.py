"""What is wrong with somebody's models is said by the command line: problem, reason, what to do; and nothing half-written is left."""

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from RAUSlicerLib.cli.app import main
from RAUSlicerLib.errors import ModelError, OutputError, ResourceError
from RAUSlicerLib.full_size import plan
from RAUSlicerLib.full_size.adding import add
from RAUSlicerLib.full_size.composing import compose
from RAUSlicerLib.loading import load_model
from RAUSlicerLib.models import checkpoint, store
from RAUSlicerLib.training.tiny_backbone import make_tiny_backbone

pytestmark = pytest.mark.usefixtures("small_matching")


def models(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    """Exit code of ``rauslicer models`` and what it said of an error."""
    code = main(["models", *arguments])
    shown = capsys.readouterr().err
    assert "Traceback" not in shown
    return code, " ".join(shown.split())


def left(home: Path) -> list[str]:
    return sorted(path.name for path in home.iterdir() if path.name != ".checked.json") if home.is_dir() else []


def text_only(folder: Path, _backbone: Path) -> None:
    from transformers import Qwen3Config, Qwen3ForCausalLM

    size = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8}
    Qwen3ForCausalLM(Qwen3Config(**size, intermediate_size=16, vocab_size=32)).save_pretrained(folder)


def cut_short(folder: Path, backbone: Path) -> None:
    shutil.copytree(backbone, folder)
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[: len(whole) // 2])


def without_weights(folder: Path, backbone: Path) -> None:
    shutil.copytree(backbone, folder)
    (folder / "model.safetensors").unlink()


def cut_short_sam2(folder: Path, _backbone: Path) -> None:
    folder.mkdir()
    torch.save({"model": {"weight": torch.ones(300, 300)}}, folder / "sam2.1_hiera_tiny.pt")
    whole = (folder / "sam2.1_hiera_tiny.pt").read_bytes()
    (folder / "sam2.1_hiera_tiny.pt").write_bytes(whole[: len(whole) // 2])


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        (text_only, "has no image support"),
        (cut_short, "is truncated or damaged"),
        (without_weights, "holds no safetensors"),
        (cut_short_sam2, "sam2.1_hiera_tiny.pt"),
    ],
)
def test_a_folder_that_can_not_be_used_is_refused(
    broken: Callable[[Path, Path], None], said: str, home: Path, backbones: dict[str, Path], tmp_path: Path, capsys
) -> None:
    broken(tmp_path / "given", backbones["qwen3_vl"])
    code, shown = models(capsys, "add", str(tmp_path / "given"))
    assert code == ModelError.exit_code and said in shown
    assert left(home) == []


def test_a_backbone_that_lacks_tensors_makes_no_model(home: Path, backbones: dict[str, Path], tmp_path: Path, capsys) -> None:
    other = shutil.copytree(backbones["qwen3_vl"], tmp_path / "other")
    tensors = load_file(other / "model.safetensors")
    del tensors[next(key for key in tensors if "down_proj" in key)]
    save_file(tensors, other / "model.safetensors", metadata={"format": "pt"})
    assert models(capsys, "add", str(other))[0] == 0
    code, shown = models(capsys, "compose", "mine", "--backbone", "other")
    assert code == ModelError.exit_code and "down_proj" in shown and "Get the whole folder" in shown
    assert left(home) == ["other"]


def test_a_backbone_of_another_revision_is_refused_before_it_is_loaded(installed: Path, tmp_path: Path, capsys) -> None:
    assert models(capsys, "compose", "mine", "--backbone", "qwen3_vl", "--sam2", "sam2.1")[0] == 0
    assert models(capsys, "remove", "qwen3_vl")[0] == 0
    assert models(capsys, "add", str(make_tiny_backbone(tmp_path / "later", "qwen3_vl", seed=5)), "--name", "qwen3_vl")[0] == 0
    code, shown = models(capsys, "plan", "mine", "--device", "cpu")
    assert code == ModelError.exit_code and "another revision" in shown and "fingerprint" in shown
    with pytest.raises(ModelError, match="another revision"):
        load_model("mine")


def test_heads_that_were_cut_short_are_noticed_before_they_are_read(installed: Path, capsys) -> None:
    compose("mine", "qwen3_vl", "sam2.1")
    path = installed / "mine" / "vlm" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ModelError, match=r"model\.safetensors"):
        load_model("mine")
    code, shown = models(capsys, "verify", "mine")
    assert code == ModelError.exit_code and "model.safetensors" in shown


def test_a_disk_that_is_too_small_is_noticed_first(home: Path, backbones: dict[str, Path], monkeypatch, capsys) -> None:
    monkeypatch.setattr(store.shutil, "disk_usage", lambda _path: shutil._ntuple_diskusage(10, 9, 1))
    code, shown = models(capsys, "add", str(backbones["qwen3_vl"]))
    assert code == OutputError.exit_code and "too little space" in shown and "RAUSLICER_MODELS" in shown
    assert left(home) == []


def test_a_disk_that_fills_up_while_a_model_is_made_leaves_nothing(installed: Path, monkeypatch, capsys) -> None:
    before = left(installed)

    def full(*_given: object, **_named: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", full)
    code, shown = models(capsys, "compose", "mine", "--backbone", "qwen3_vl", "--sam2", "sam2.1")
    assert code == OutputError.exit_code and "No space left" in shown
    assert left(installed) == before


def test_too_little_memory_is_said_before_anything_is_loaded(installed: Path, monkeypatch, capsys) -> None:
    compose("mine", "qwen3_vl", "sam2.1")
    monkeypatch.setitem(plan.place.__kwdefaults__, "free", lambda _device: 10**6)
    monkeypatch.setattr("RAUSlicerLib.full_size.opening.open_backbone", lambda *_given: pytest.fail("it was loaded"))
    code, shown = models(capsys, "plan", "mine", "--device", "cpu")
    assert code == ResourceError.exit_code and "does not fit this machine" in shown and "--model embedded" in shown
    with pytest.raises(ResourceError):
        load_model("mine")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes of POSIX")
@pytest.mark.parametrize("place", ["pipe", "/dev/zero", "folder", "folder/deeper"])
def test_a_model_that_is_or_holds_a_pipe_is_refused(place: str, tmp_path: Path, in_time: None) -> None:
    source = tmp_path / place
    if place == "pipe":
        os.mkfifo(source)
    elif place != "/dev/zero":
        source.mkdir(parents=True)
        os.mkfifo(source / "model.safetensors")
        (tmp_path / "folder" / "config.json").write_text('{"model_type": "llava"}')
        source = tmp_path / "folder"
    with pytest.raises(ModelError, match="no part of a model"):
        add(source)
