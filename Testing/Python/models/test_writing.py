"""Model folders: whole or not there, nothing of the user's is replaced, and what was broken off is cleared away or put back."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from RAUSlicerLib.cli.app import main
from RAUSlicerLib.errors import ModelError, OutputError
from RAUSlicerLib.full_size import adding
from RAUSlicerLib.models import checkpoint
from RAUSlicerLib.models.checkpoint import load_tensors, save_checkpoint
from RAUSlicerLib.models.folders import FOLDER_VARIABLE, known_checksum, remember_checksum
from RAUSlicerLib.models.manifest import replace_folder
from RAUSlicerLib.support.scratch import ScratchFolder


def save(folder: Path, size: int = 2, value: float = 1.0) -> None:
    save_checkpoint(folder, {}, {"w": torch.full((size,), value)}, "# Card", name="mine", kind="sam2", licence="CC0-1.0")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("leaving", [0, 8192, 60_000])
def test_a_disk_that_gets_full_is_told_and_the_model_of_before_stays(disk, leaving):
    save(disk.path / "mine")
    disk.fill(leaving)
    with pytest.raises(OutputError, match="can't be written"):
        save(disk.path / "mine", size=100_000, value=2.0)
    assert names(disk.path) == ["filler", "mine"]
    assert torch.equal(load_tensors(disk.path / "mine")["w"], torch.ones(2))


@pytest.mark.parametrize("kept", [0, 8, 1000])
def test_tensors_that_fell_short_without_a_word_are_noticed(tmp_path, monkeypatch, kept):
    whole = checkpoint.save_file

    def short(tensors, path, metadata):
        whole(tensors, path, metadata=metadata)
        os.truncate(path, kept)

    monkeypatch.setattr(checkpoint, "save_file", short)
    with pytest.raises(OutputError, match="can't be written"):
        save(tmp_path / "mine", size=1000)
    assert names(tmp_path) == []


def test_adding_to_a_full_disk_is_told_and_leaves_nothing(disk, tmp_path, monkeypatch):
    save(tmp_path / "source" / "sam2", size=100_000)
    monkeypatch.setenv(FOLDER_VARIABLE, str(disk.path))
    monkeypatch.setattr(adding, "require_space", lambda *_arguments: None)
    disk.fill(50_000)
    with pytest.raises(OutputError, match="can't be copied"):
        adding.add(tmp_path / "source")
    assert names(disk.path) == ["filler"]


def test_what_is_known_of_large_files_is_dropped_on_a_full_disk_without_a_trace(disk, monkeypatch):
    monkeypatch.setenv(FOLDER_VARIABLE, str(disk.path))
    disk.fill()
    remember_checksum(disk.path / "filler", "0" * 64)
    assert names(disk.path) == ["filler"] and known_checksum(disk.path / "filler") is None


def test_a_folder_of_the_user_that_is_no_model_is_never_replaced(tmp_path, home):
    save(tmp_path / "source" / "sam2")
    (home / "photos").mkdir(parents=True)
    (home / "photos" / "one.jpg").write_text("precious")
    with pytest.raises(ModelError, match="there already"):
        adding.add(tmp_path / "source", "photos")
    assert names(home) == ["photos"] and (home / "photos" / "one.jpg").read_text() == "precious"


def test_a_name_that_is_taken_while_a_model_is_copied_stays_with_who_took_it(tmp_path, home, monkeypatch):
    save(tmp_path / "source" / "sam2")
    whole = shutil.copytree

    def copy(source, destination):
        whole(source, destination)
        (home / "mine").mkdir(exist_ok=True)
        (home / "mine" / "theirs").write_text("precious")

    monkeypatch.setattr(shutil, "copytree", copy)
    with pytest.raises(ModelError, match="there already"):
        adding.add(tmp_path / "source", "mine")
    assert names(home) == ["mine"] and names(home / "mine") == ["theirs"]


@pytest.mark.parametrize("calls", [1, 2])
def test_a_replacement_that_is_broken_off_leaves_the_old_or_the_new_one(tmp_path, monkeypatch, calls):
    rename, done = os.rename, []

    def broken(source, destination):
        done.append(source)
        if len(done) == calls:
            raise KeyboardInterrupt
        rename(source, destination)

    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "weights").write_text("old")
    with pytest.raises(KeyboardInterrupt), ScratchFolder(tmp_path, ".saving-") as scratch:
        (scratch / "model").mkdir()
        (scratch / "model" / "weights").write_text("new")
        monkeypatch.setattr(os, "rename", broken)
        replace_folder(scratch / "model", tmp_path / "model")
    assert names(tmp_path) == ["model"] and (tmp_path / "model" / "weights").read_text() == "old"


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_model_that_is_being_added_when_it_is_stopped_leaves_nothing(tmp_path, home, number):
    save(tmp_path / "source" / "sam2")
    program = """
import os, shutil, sys
from RAUSlicerLib.cli.app import main
copy = shutil.copytree
def stopped(source, destination):
    copy(source, destination)
    os.kill(os.getpid(), int(sys.argv[1]))
shutil.copytree = stopped
sys.exit(main(["models", "add", sys.argv[2]]))
"""
    command = [sys.executable, "-c", program, str(int(number)), str(tmp_path / "source")]
    ended = subprocess.run(command, capture_output=True, check=False)
    assert ended.returncode == (130 if number == signal.SIGTERM else -number), ended.stderr
    if number == signal.SIGKILL:
        assert names(home) != []
        assert main(["models", "list"]) == 0
    assert names(home) == []
