"""Downloads, with a hub that is a folder on this machine."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest

from RAUSlicerLib.errors import InputError, OutputError, ResourceError
from RAUSlicerLib.models import download as fetching
from RAUSlicerLib.models.download import download


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, backbones: dict[str, Path]) -> SimpleNamespace:
    """A hub with one repository; ``breaks`` counts the files after which the connection is lost."""
    source = backbones["qwen3_vl"]
    state = SimpleNamespace(fetched=[], breaks=None)
    for variable in fetching.OFFLINE_VARIABLES:
        monkeypatch.delenv(variable, raising=False)

    def info(_self: object, repository: str, revision: str, files_metadata: bool) -> SimpleNamespace:
        assert files_metadata and revision == "main"
        if repository != "Qwen/tiny":
            raise OSError("404 Not Found")
        listed = [SimpleNamespace(rfilename=path.name, size=path.stat().st_size) for path in source.iterdir()]
        return SimpleNamespace(siblings=[*listed, SimpleNamespace(rfilename="pytorch_model.bin", size=10**15)], sha="abc")

    def one(_repository: str, file: str, revision: str, local_dir: Path) -> None:
        assert revision == "abc"
        if state.breaks is not None and len(state.fetched) >= state.breaks:
            raise ConnectionError("connection lost")
        if not (local_dir / file).exists():
            state.fetched.append(file)
            shutil.copyfile(source / file, local_dir / file)

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", info)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", one)
    return state


def test_a_download_becomes_a_model_and_reports_how_far_it_is(home: Path, hub: SimpleNamespace) -> None:
    seen: list[tuple[int, int]] = []
    model = download("Qwen/tiny", report=lambda done, total: seen.append((done, total)))
    assert model.name == "tiny" and model.parts == ("backbone",) and model.state == "sound"
    assert seen[-1][0] == seen[-1][1] > 0 and seen == sorted(seen)
    assert "pytorch_model.bin" not in hub.fetched
    assert [path.name for path in home.iterdir()] == ["tiny"]


def test_a_broken_download_goes_on_where_it_stopped(home: Path, hub: SimpleNamespace) -> None:
    hub.breaks = 3
    with pytest.raises(ResourceError, match="can't be downloaded") as raised:
        download("Qwen/tiny")
    assert "goes on where it stopped" in raised.value.solution
    assert not [path for path in home.iterdir() if not path.name.startswith(".")]
    hub.breaks = None
    download("Qwen/tiny")
    assert len(hub.fetched) == len(set(hub.fetched))


@pytest.mark.parametrize("variable", fetching.OFFLINE_VARIABLES)
def test_offline_the_hub_is_not_asked(home: Path, hub: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    monkeypatch.setenv(variable, "1")
    monkeypatch.setattr(fetching, "_files", lambda *_: pytest.fail("the hub was asked"))
    with pytest.raises(ResourceError, match="offline"):
        download("Qwen/tiny")


def test_too_little_space_is_said_before_anything_is_fetched(home: Path, hub: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching.shutil, "disk_usage", lambda _path: shutil._ntuple_diskusage(10, 9, 1))
    with pytest.raises(OutputError, match="too little space"):
        download("Qwen/tiny")
    assert hub.fetched == []


def test_an_unknown_repository_and_a_bad_name_are_refused(home: Path, hub: SimpleNamespace) -> None:
    with pytest.raises(ResourceError, match="'Qwen/none'"):
        download("Qwen/none")
    with pytest.raises(InputError, match="no repository"):
        download("../../etc")
