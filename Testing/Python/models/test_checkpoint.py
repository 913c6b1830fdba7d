import json
from pathlib import Path

import pytest
import torch

from RAUSlicerLib.errors import ModelError
from RAUSlicerLib.models.checkpoint import load_config, load_tensors, save_checkpoint
from RAUSlicerLib.models.manifest import verify_checkpoint, write_manifest

TENSORS = {"weight": torch.linspace(-1, 1, 12).reshape(3, 4), "steps": torch.tensor([7])}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "sam2"
    save_checkpoint(folder, {"width": 4}, TENSORS, "# Card", name="tiny", kind="sam2", licence="CC0-1.0")
    return folder


def test_a_saved_checkpoint_comes_back(folder):
    assert load_config(folder) == {"width": 4}
    tensors = load_tensors(folder)
    assert tensors["weight"].dtype is torch.float32
    torch.testing.assert_close(tensors["weight"], TENSORS["weight"], atol=1e-3, rtol=0)
    assert tensors["steps"].dtype is torch.int64 and tensors["steps"].item() == 7


def test_weights_are_stored_in_half_precision(folder):
    assert load_tensors(folder, dtype=None)["weight"].dtype is torch.float16


def test_the_manifest_says_what_it_is(folder):
    manifest = verify_checkpoint(folder)
    assert (manifest.name, manifest.kind, manifest.licence) == ("tiny", "sam2", "CC0-1.0")
    assert set(manifest.files) == {"config.json", "model.safetensors", "README.md"}


def test_saving_again_replaces_and_leaves_nothing_beside(folder):
    save_checkpoint(folder, {"width": 5}, TENSORS, "# Card", name="tiny", kind="sam2", licence="CC0-1.0")
    assert load_config(folder) == {"width": 5}
    assert [path.name for path in folder.parent.iterdir()] == ["sam2"]


def test_a_failed_save_keeps_the_old_checkpoint(folder):
    with pytest.raises(ModelError, match="not finite"):
        save_checkpoint(folder, {}, {"weight": torch.tensor([1e9])}, "# Card", name="tiny", kind="sam2", licence="CC0-1.0")
    assert load_config(folder) == {"width": 4}


def test_tensors_that_share_memory_are_stored(tmp_path):
    shared = torch.ones(4)
    save_checkpoint(tmp_path / "m", {}, {"a": shared, "b": shared[:2]}, "# Card", name="tiny", kind="sam2", licence="CC0-1.0")
    assert {name: tensor.shape for name, tensor in load_tensors(tmp_path / "m").items()} == {"a": (4,), "b": (2,)}


def test_weights_in_several_files_are_put_together(folder):
    from safetensors.torch import save_file

    save_file({"bias": torch.zeros(3)}, folder / "model-00002.safetensors")
    write_manifest(folder, name="tiny", kind="sam2", licence="CC0-1.0")
    assert set(load_tensors(folder)) == {"weight", "steps", "bias"}


def truncate(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-5])


def truncate_before_recording(folder: Path) -> None:
    truncate(folder)
    write_manifest(folder, name="tiny", kind="sam2", licence="CC0-1.0")


def change_one_byte(folder: Path) -> None:
    path = folder / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def delete_tensors(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def delete_checksums(folder: Path) -> None:
    (folder / "checksums.json").unlink()


def break_checksums(folder: Path) -> None:
    (folder / "checksums.json").write_text("{")


def name_a_file_outside(folder: Path) -> None:
    document = json.loads((folder / "checksums.json").read_text())
    document["files"]["../other.safetensors"] = "0" * 64
    (folder / "checksums.json").write_text(json.dumps(document))


def claim_a_later_format(folder: Path) -> None:
    document = json.loads((folder / "checksums.json").read_text())
    document["format"] = 99
    (folder / "checksums.json").write_text(json.dumps(document))


@pytest.mark.parametrize(
    "damage",
    [
        truncate,
        truncate_before_recording,
        change_one_byte,
        delete_tensors,
        delete_checksums,
        break_checksums,
        name_a_file_outside,
        claim_a_later_format,
    ],
)
def test_a_damaged_checkpoint_is_refused(folder, damage):
    damage(folder)
    with pytest.raises(ModelError) as raised:
        load_tensors(folder)
    assert str(folder) in raised.value.problem


def test_a_changed_config_is_refused(folder):
    (folder / "config.json").write_text('{"width": 400}')
    with pytest.raises(ModelError, match="checksum"):
        load_config(folder)


@pytest.mark.parametrize("name", ["weights.pt", "pytorch_model.bin", "state.pkl"])
def test_pickles_are_refused_even_when_recorded(folder, name):
    (folder / name).write_bytes(b"pickle")
    write_manifest(folder, name="tiny", kind="sam2", licence="CC0-1.0")
    with pytest.raises(ModelError, match=name):
        verify_checkpoint(folder)


def test_a_file_that_was_slipped_in_is_refused(folder):
    (folder / "extra.json").write_text("{}")
    with pytest.raises(ModelError, match=r"extra\.json"):
        verify_checkpoint(folder)
