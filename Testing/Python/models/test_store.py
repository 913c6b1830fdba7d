from pathlib import Path

import pytest
import torch

from RAUSlicerLib.errors import InputError, ModelError
from RAUSlicerLib.full_size import adding
from RAUSlicerLib.models import store
from RAUSlicerLib.models.checkpoint import load_config, save_checkpoint


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "mine"
    for part in ("sam2", "vlm"):
        save_checkpoint(folder / part, {"part": part}, {"w": torch.ones(2)}, "# Card", name="mine", kind=part, licence="CC0-1.0")
    return folder


def test_an_added_model_is_found_by_name(home, source):
    adding.add(source)
    model = store.resolve("mine")
    assert model.path == home / "mine" and not model.embedded
    assert model.parts == ("sam2", "vlm")
    assert load_config(model.part("vlm")) == {"part": "vlm"}
    assert "mine" in [listed.name for listed in store.list_models()]


def test_a_model_folder_is_found_by_path(home, source):
    assert store.resolve(str(source)).path == source


def test_an_unknown_model_is_refused_with_the_known_ones(home, source):
    adding.add(source)
    with pytest.raises(ModelError, match="'absent'") as raised:
        store.resolve("absent")
    assert "mine" in raised.value.explanation


def test_an_unknown_part_is_refused(source):
    with pytest.raises(ModelError, match="'matching'"):
        store.ModelFolder("mine", source).part("matching")


def test_a_damaged_model_is_not_added(home, source):
    (source / "sam2" / "config.json").write_text("{}")
    with pytest.raises(ModelError, match="checksum"):
        adding.add(source)
    assert not home.exists() or list(home.iterdir()) == []


def test_an_existing_name_is_not_overwritten(home, source):
    adding.add(source)
    with pytest.raises(ModelError, match="'mine'"):
        adding.add(source)
    assert adding.add(source, "other").path == home / "other"


@pytest.mark.parametrize("name", ["../up", "a/b", ".hidden", "with space"])
def test_a_name_that_is_no_plain_folder_name_is_refused(home, source, name):
    with pytest.raises(InputError):
        adding.add(source, name)


def test_a_removed_model_is_gone(home, source):
    adding.add(source)
    store.remove("mine")
    assert list(home.iterdir()) == []
    with pytest.raises(ModelError, match="'mine'"):
        store.remove("mine")


def test_an_embedded_model_is_never_removed(home, source, monkeypatch):
    monkeypatch.setattr(store, "resource_path", lambda _name: source.parent)
    with pytest.raises(ModelError, match="'mine'"):
        store.remove("mine")
    assert (source / "sam2" / "config.json").is_file()


def test_an_empty_folder_is_no_model(home, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match="'empty'"):
        adding.add(tmp_path / "empty")
