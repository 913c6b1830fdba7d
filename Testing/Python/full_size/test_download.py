"""Downloads, from a server on this machine that speaks the hub's language."""

import functools
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from RAUSlicerLib.cli.app import main
from RAUSlicerLib.cli.exit_codes import CANCELLED
from RAUSlicerLib.errors import InputError, ModelError, OutputError, ResourceError
from RAUSlicerLib.full_size import download as fetching
from RAUSlicerLib.full_size.download import download
from RAUSlicerLib.models.store import list_models, list_unfinished

WEIGHTS = "model.safetensors"


@pytest.fixture(autouse=True)
def _to_the_server(hub, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    for variable in fetching.OFFLINE_VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}")
    # What arrives is handed on in blocks of this size; the weights have 13 MB.
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 200_000)
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda _seconds: None)


def added() -> list[str]:
    return [model.name for model in list_models() if not model.embedded]


def nothing_left(home: Path) -> bool:
    return not home.exists() or list(home.iterdir()) == []


def ranges(hub) -> list[str | None]:
    return [asked for path, asked in hub.requests if path.endswith(WEIGHTS)]


def test_a_download_becomes_a_model_and_reports_how_far_it_is(home: Path, hub) -> None:
    seen: list[tuple[int, int]] = []
    model = download("Qwen/tiny", report=lambda done, total: seen.append((done, total)))
    assert model.name == "tiny" and model.parts == ("backbone",) and model.state == "sound"
    assert (model.path / "backbone" / WEIGHTS).read_bytes() == (hub.folder / WEIGHTS).read_bytes()
    assert seen == sorted(seen) and seen[-1][0] == seen[-1][1]
    # Within the large file as well, and not only after it.
    assert len([done for done, total in seen if 0.1 * total < done < 0.9 * total]) > 10
    assert not any(path.endswith(".bin") for path, _ in hub.requests)
    assert [path.name for path in home.iterdir()] == ["tiny"]


def test_a_dropped_connection_is_taken_up_again_in_the_middle_of_the_file(home: Path, hub) -> None:
    hub.drops = 1
    download("Qwen/tiny")
    first, second = ranges(hub)
    assert first is None and second is not None and int(second.removeprefix("bytes=").rstrip("-")) > 1_000_000
    assert added() == ["tiny"]


def test_a_broken_download_is_no_model_and_goes_on_where_it_stopped(home: Path, hub, capsys) -> None:
    hub.drops = 1000
    assert main(["models", "download", "Qwen/tiny"]) == ResourceError.exit_code
    said = capsys.readouterr().err
    assert "goes on where it stopped" in said and "Traceback" not in said
    assert added() == [] and [broken.name for broken in list_unfinished()] == ["Qwen/tiny"]
    main(["models", "list"])
    assert "Unfinished: Qwen/tiny" in capsys.readouterr().out
    here, hub.drops, hub.requests[:], hub.sent = list_unfinished()[0].size, 0, [], 0
    assert main(["models", "download", "Qwen/tiny"]) == 0
    assert [path for path, _ in hub.requests if "resolve" in path] == [path for path, _ in hub.requests if path.endswith(WEIGHTS)]
    assert ranges(hub) != [None] and hub.sent < 0.5 * here
    assert added() == ["tiny"] and list_unfinished() == []


def test_an_unfinished_download_can_be_removed(home: Path, hub) -> None:
    hub.drops = 1000
    with pytest.raises(ResourceError):
        download("Qwen/tiny")
    assert main(["models", "remove", "Qwen/tiny"]) == 0
    assert nothing_left(home)


@pytest.mark.parametrize("file", [WEIGHTS, "config.json"])
def test_a_file_with_another_checksum_is_deleted_and_refused(home: Path, hub, file: str) -> None:
    hub.changed = file
    with pytest.raises(ModelError, match=file):
        download("Qwen/tiny")
    assert added() == [] and not [path for path in home.rglob("*") if path.name.startswith(file)]
    hub.changed = ""
    download("Qwen/tiny")
    assert added() == ["tiny"]


@pytest.mark.parametrize(
    ("refused", "said"),
    [
        ((404, "RepoNotFound"), "knows no such model"),
        ((401, "RepoNotFound"), "knows no such model"),
        ((401, "GatedRepo"), "licence to be accepted"),
        ((403, "GatedRepo"), "licence to be accepted"),
        ((403, ""), "refuses"),
        ((500, ""), "refuses"),
    ],
)
def test_what_the_hub_refuses_is_said_and_leaves_nothing(home: Path, hub, capsys, refused: tuple[int, str], said: str) -> None:
    hub.refused = refused
    assert main(["models", "download", "Qwen/tiny"]) == ResourceError.exit_code
    shown = capsys.readouterr().err
    assert said in shown and "Traceback" not in shown and nothing_left(home)


def test_an_unknown_revision_and_a_bad_name_are_refused(home: Path, hub) -> None:
    with pytest.raises(ResourceError, match="can't be downloaded") as raised:
        download("Qwen/tiny", revision="v9")
    assert "'v9'" in raised.value.explanation
    with pytest.raises(InputError, match="no repository"):
        download("../../etc")
    assert nothing_left(home)


def test_a_hub_that_is_not_there_is_said(home: Path, hub, capsys) -> None:
    hub.close()
    assert main(["models", "download", "Qwen/tiny"]) == ResourceError.exit_code
    assert "can't be reached" in capsys.readouterr().err and nothing_left(home)


def test_too_little_space_is_said_before_anything_is_fetched(home: Path, hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching.shutil, "disk_usage", lambda _path: shutil._ntuple_diskusage(10, 9, 1))
    with pytest.raises(OutputError, match="too little space"):
        download("Qwen/tiny")
    assert not any("resolve" in path for path, _ in hub.requests) and nothing_left(home)


def test_a_disk_that_fills_up_is_said_as_that(home: Path, hub, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_self: object, _block: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(fetching._Counted, "write", full)
    with pytest.raises(OutputError) as raised:
        download("Qwen/tiny")
    assert "No space left" in raised.value.explanation and added() == []


def test_what_is_no_model_is_deleted_again(home: Path, hub, tmp_path: Path) -> None:
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "README.md").write_text("no model at all")
    hub.folder = tmp_path / "text"
    with pytest.raises(ModelError):
        download("Qwen/tiny")
    assert nothing_left(home)


@pytest.mark.parametrize("variable", fetching.OFFLINE_VARIABLES)
def test_offline_no_socket_is_opened(home: Path, hub, monkeypatch: pytest.MonkeyPatch, capsys, variable: str) -> None:
    monkeypatch.setenv(variable, "1")
    monkeypatch.setattr(socket, "socket", lambda *_given, **_named: pytest.fail("a socket was opened"))
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_given, **_named: pytest.fail("a name was looked up"))
    assert main(["models", "download", "Qwen/tiny"]) == ResourceError.exit_code
    assert variable in capsys.readouterr().err
    assert main(["models", "list"]) == 0 and main(["models", "add", str(hub.folder), "--name", "local"]) == 0
    assert main(["models", "verify", "local"]) == 0 and hub.requests == []


@pytest.mark.skipif(sys.platform == "win32", reason="Ctrl-C is sent otherwise there")
def test_ctrl_c_keeps_what_is_here_and_installs_nothing(home: Path, hub) -> None:
    hub.stalls.set()
    environment = {**os.environ, "HF_ENDPOINT": hub.url, "PYTHONPATH": str(Path(fetching.__file__).parents[2])}
    command = [sys.executable, "-u", "-m", "RAUSlicerLib.cli", "models", "download", "Qwen/tiny"]
    # A shell's background jobs ignore Ctrl-C, and so would all that they start.
    heeding = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    running = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=heeding)
    until = time.monotonic() + 300
    while hub.sent < 4_000_000 and time.monotonic() < until and running.poll() is None:
        time.sleep(0.1)
    running.send_signal(signal.SIGINT)
    output, errors = running.communicate(timeout=300)
    assert running.returncode == CANCELLED and "Cancelled" in errors and "Traceback" not in errors, errors
    assert " % of " in output
    assert added() == [] and [broken.name for broken in list_unfinished()] == ["Qwen/tiny"]
