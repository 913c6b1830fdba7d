"""Scratch folders: gone with their owner however it ends, never taken from a living one, and nothing else is touched."""

from __future__ import annotations

import errno
import gc
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from RAUSlicerLib.support.scratch import BEFORE, PREFIXES, ScratchFolder, remove_abandoned

_OWNER = """
import sys, time
from pathlib import Path
from RAUSlicerLib.support.scratch import ScratchFolder
folder = ScratchFolder(Path(sys.argv[1]), sys.argv[2])
(folder.path / "big").write_bytes(b"x" * 1000)
print(folder.path, flush=True)
time.sleep(600)
"""

Owner = Callable[..., tuple[Path, subprocess.Popen[str]]]


@pytest.fixture
def owner(tmp_path: Path) -> Iterator[Owner]:
    """owner(): another process with a scratch folder in tmp_path."""
    running = []

    def start(prefix: str = PREFIXES[0]) -> tuple[Path, subprocess.Popen[str]]:
        process = subprocess.Popen([sys.executable, "-c", _OWNER, str(tmp_path), prefix], stdout=subprocess.PIPE, text=True)
        running.append(process)
        assert process.stdout is not None
        return Path(process.stdout.readline().strip()), process

    yield start
    for process in running:
        process.kill()
        process.communicate()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def age(path: Path, seconds: float) -> None:
    then = time.time() - seconds
    os.utime(path, (then, then))


def test_it_is_private_and_gone_at_the_end_with_all_that_is_in_it(tmp_path):
    with ScratchFolder(tmp_path) as folder:
        (folder / "sub").mkdir()
        (folder / "sub" / "file").write_text("x")
        if sys.platform != "win32":
            assert folder.stat().st_mode & 0o77 == 0
    assert names(tmp_path) == []


def test_it_is_gone_after_an_error_and_when_nobody_holds_it_any_more(tmp_path):
    with pytest.raises(ZeroDivisionError), ScratchFolder(tmp_path):
        _ = 1 / 0
    folder = ScratchFolder(tmp_path)
    assert folder.path.is_dir()
    del folder
    gc.collect()
    assert names(tmp_path) == []


@pytest.mark.parametrize("prefix", [*PREFIXES, "rauslicer-elastix-"])
def test_what_a_killed_owner_left_goes_when_the_next_one_is_made(tmp_path, owner, prefix):
    left, process = owner(prefix)
    process.kill()
    process.wait()
    assert (left / "big").is_file()
    with ScratchFolder(tmp_path, prefix) as mine:
        assert not left.exists() and mine.is_dir()
    assert names(tmp_path) == []


def test_the_folder_of_a_living_owner_stays_however_old_it_is(tmp_path, owner):
    theirs, process = owner()
    for path in tmp_path.iterdir():
        age(path, 1e7)
    with ScratchFolder(tmp_path):
        remove_abandoned(tmp_path)
        assert (theirs / "big").is_file()
    assert process.poll() is None


@pytest.mark.skipif(sys.platform == "win32", reason="Windows can't stop a process")
def test_an_owner_that_is_stopped_is_alive(tmp_path, owner):
    theirs, process = owner()
    process.send_signal(signal.SIGSTOP)
    remove_abandoned(tmp_path)
    assert theirs.is_dir()


def test_two_of_one_process_leave_each_other_alone(tmp_path, monkeypatch):
    # As on a network disk, where a process that asks again for a lock gets it again.
    monkeypatch.setattr("RAUSlicerLib.support.scratch._hold", lambda _lock, **_named: True)
    with ScratchFolder(tmp_path) as first, ScratchFolder(tmp_path) as second:
        assert first != second and first.is_dir() and second.is_dir()
    assert names(tmp_path) == []


@pytest.mark.skipif(sys.platform == "win32", reason="locks are others there")
def test_a_file_system_without_locks_does_and_nothing_is_taken_from_others_there(tmp_path, monkeypatch):
    def refuse(_file, _how):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("fcntl.flock", refuse)
    (tmp_path / ".rauslicer-0011aabb").mkdir()
    (tmp_path / ".rauslicer-0011aabb.lock").touch()
    with ScratchFolder(tmp_path) as folder:
        assert folder.is_dir()
    assert names(tmp_path) == [".rauslicer-0011aabb", ".rauslicer-0011aabb.lock"]


def test_what_older_versions_left_goes_after_two_days_and_not_before(tmp_path):
    for name in (".rauslicer-ab_12xyz", ".adding-abcdefgh", "exchange-123-abcdefgh", "exchange-4567-hgfedcba"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "result.nii").write_text("half")
    for name in (".adding-abcdefgh", "exchange-123-abcdefgh"):
        age(tmp_path / name, 3 * 24 * 3600)
    remove_abandoned(tmp_path, {*PREFIXES, "exchange-"})
    assert names(tmp_path) == [".rauslicer-ab_12xyz", "exchange-4567-hgfedcba"]


def test_a_process_looks_once_for_what_others_left_in_a_folder(tmp_path, monkeypatch):
    looked: list[Path] = []
    monkeypatch.setattr("RAUSlicerLib.support.scratch.remove_abandoned", lambda parent, prefixes: looked.append(parent))
    (tmp_path / "other").mkdir()
    for parent in (tmp_path, tmp_path, tmp_path / "other", tmp_path):
        with ScratchFolder(parent):
            pass
    assert looked == [tmp_path, tmp_path / "other"]


def test_what_only_looks_like_it_is_never_touched(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "scan.nii").write_text("precious")
    for name in (".rauslicer-my results", "rauslicer", ".adding", ".downloading-owner--model"):
        (tmp_path / name).mkdir()
        age(tmp_path / name, 1e7)
    (tmp_path / ".rauslicer-12345678").write_text("a file of that name")
    age(tmp_path / ".rauslicer-12345678", 1e7)
    if sys.platform != "win32":
        (tmp_path / ".rauslicer-87654321").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
        (tmp_path / ".rauslicer-87654321.lock").touch()
        (tmp_path / ".rauslicer-11111111.lock").symlink_to(tmp_path / "elsewhere" / "scan.nii")
    before = names(tmp_path)
    remove_abandoned(tmp_path)
    # Even a link with a lock beside it: what it points to is not the link's.
    assert set(before) - set(names(tmp_path)) <= {".rauslicer-87654321", ".rauslicer-87654321.lock"}
    assert (tmp_path / "elsewhere" / "scan.nii").read_text() == "precious"


def test_a_folder_that_was_about_to_be_replaced_comes_back(tmp_path, owner):
    left, process = owner(".adding-")
    (left / f"mine{BEFORE}").mkdir()
    (left / f"mine{BEFORE}" / "weights").write_text("the only copy")
    (left / f"there{BEFORE}").mkdir()
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "weights").write_text("new")
    process.kill()
    process.wait()
    remove_abandoned(tmp_path)
    assert names(tmp_path) == ["mine", "there"]
    assert (tmp_path / "mine" / "weights").read_text() == "the only copy" and (tmp_path / "there" / "weights").read_text() == "new"


def test_many_at_once_in_one_folder_do_not_disturb_each_other(tmp_path):
    program = """
import sys
from pathlib import Path
from RAUSlicerLib.support.scratch import ScratchFolder
for number in range(100):
    with ScratchFolder(Path(sys.argv[1])) as folder:
        (folder / "file").write_text("x")
        assert (folder / "file").read_text() == "x"
"""
    running = [subprocess.Popen([sys.executable, "-c", program, str(tmp_path)]) for _ in range(4)]
    assert [process.wait(timeout=300) for process in running] == [0, 0, 0, 0]
    assert names(tmp_path) == []


def test_a_folder_that_is_not_there_is_no_reason_to_fail(tmp_path):
    remove_abandoned(tmp_path / "absent")
    with pytest.raises(OSError, match="absent"), ScratchFolder(tmp_path / "absent"):
        pass
