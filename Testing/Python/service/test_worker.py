import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from RAUSlicerLib.errors import ResourceError
from RAUSlicerLib.service import exchange
from RAUSlicerLib.service.client import WorkerClient
from RAUSlicerLib.service.folder import ExchangeFolder

from .replies import answer, at_stage, group_is_gone, is_answer, liver_is_done, transfer, wait_for, wait_for_log


def test_the_worker_greets_with_its_versions(client):
    client.start()

    hello = answer(client, "1")

    assert hello["of"] == "hello"
    assert hello["pid"] == client.pid


def test_a_run_reports_progress_and_returns_the_result_whatever_libraries_print(scripted, case):
    id_ = transfer(scripted, case)

    replies = wait_for(scripted, is_answer(id_))

    assert [reply["type"] for reply in replies] == ["result", "progress", "result"]
    result = exchange.read_result(replies[-1])
    assert (result.model, result.localizer, result.warnings) == ("copy", "copy", ("A warning.",))
    original = case[0].segmentation
    for structure in result.segmentation.structures:
        np.testing.assert_array_equal(result.segmentation.array(structure), original.array(structure))
    wait_for_log(scripted, "a library prints to stdout")
    wait_for_log(scripted, "a child process prints to stdout")


def test_the_same_process_serves_the_next_run(scripted, case):
    wait_for(scripted, is_answer(transfer(scripted, case)))
    pid = scripted.pid

    wait_for(scripted, is_answer(transfer(scripted, case)))

    assert scripted.pid == pid


def test_cancel_is_read_during_a_run_and_keeps_what_is_finished(scripted, case):
    id_ = transfer(scripted, case, "wait")
    wait_for(scripted, liver_is_done)

    scripted.send("cancel")

    result = answer(scripted, id_)
    assert result["cancelled"]
    assert exchange.read_result(result).segmentation.structures == case[0].segmentation.structures


def test_a_run_after_a_cancelled_one_is_not_cancelled(scripted, case):
    scripted.send("cancel")

    assert not answer(scripted, transfer(scripted, case))["cancelled"]


def test_a_second_run_at_the_same_time_is_refused_and_the_first_goes_on(scripted, case):
    first = transfer(scripted, case, "wait")
    wait_for(scripted, liver_is_done)

    second = transfer(scripted, case)

    assert answer(scripted, second)["code"] == "busy"
    scripted.send("cancel")
    assert answer(scripted, first)["type"] == "result"


@pytest.mark.parametrize(
    ("command", "code", "problem"),
    [
        ("model", "model", "The model 'x' is damaged."),
        ("memory", "memory", "out of memory"),
        ("package", "resource", "No module named 'no_such_package'"),
        ("bug", "internal", "ZeroDivisionError (scripted_worker.py, line"),
    ],
)
def test_an_error_in_a_run_is_explained_and_the_worker_lives_on(scripted, case, command, code, problem):
    error = answer(scripted, transfer(scripted, case, command))

    assert (error["type"], error["code"]) == ("error", code)
    assert problem in error["problem"]
    assert error["explanation"] and error["solution"]
    assert answer(scripted, transfer(scripted, case))["type"] == "result"


def test_a_missing_file_is_an_input_error(scripted, case):
    fields = exchange.write_request(scripted.new_run_folder(), *case)
    Path(fields["target"]).unlink()

    error = answer(scripted, scripted.send("transfer", **fields))

    assert error["code"] == "input"


@pytest.mark.parametrize("fields", [{}, {"reference": 3}, {"structures": "liver"}])
def test_a_request_with_missing_or_wrong_fields_gets_a_protocol_error(client, fields):
    paths = dict.fromkeys(("reference", "reference_segmentation", "target", "output"), "x") if fields else {}

    error = answer(client, client.send("transfer", **{**paths, **fields}))

    assert error["code"] == "protocol"


def test_a_crash_is_reported_and_the_next_run_gets_a_new_worker(scripted, case, temporary):
    error = answer(scripted, transfer(scripted, case, "crash"))

    assert (error["code"], error["explanation"]) == ("crash", "Its exit code is 3.")
    assert list(temporary.iterdir()) == []
    assert answer(scripted, transfer(scripted, case))["type"] == "result"


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_a_killed_worker_is_reported_as_killed(scripted, case):
    id_ = transfer(scripted, case, "wait")
    wait_for(scripted, liver_is_done)

    os.kill(scripted.pid, signal.SIGKILL)

    assert "killed" in answer(scripted, id_)["explanation"]


def test_a_crash_noticed_by_the_next_request_is_still_reported(scripted, case):
    crashed = transfer(scripted, case, "crash")
    scripted._process.wait(180)

    following = transfer(scripted, case)

    replies = wait_for(scripted, is_answer(following))
    assert [reply["code"] for reply in replies if reply["id"] == crashed] == ["crash"]


@pytest.mark.skipif(os.name == "nt", reason="process groups of POSIX")
def test_stop_ends_a_deaf_worker_with_its_children_and_removes_the_folder(scripted, case, temporary):
    transfer(scripted, case, "deaf")
    wait_for(scripted, at_stage("segmentation"))
    group = scripted.pid

    scripted.stop(seconds=0.1)

    assert group_is_gone(group)
    assert list(temporary.iterdir()) == []
    assert not scripted.running


def test_the_worker_ends_with_an_interpreter_that_forgets_to_stop_it(temporary):
    code = (
        "from pathlib import Path; from RAUSlicerLib.service.client import WorkerClient\n"
        f"client = WorkerClient(temporary_folder=Path({str(temporary)!r})); client.start(); print(client.pid)"
    )
    group = int(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, timeout=300).stdout)

    assert group_is_gone(group)
    assert list(temporary.iterdir()) == []


@pytest.mark.skipif(os.name == "nt", reason="processes are killed otherwise there")
def test_the_folder_of_a_killed_owner_is_removed_by_the_next_one_and_that_of_a_living_one_stays(temporary):
    code = (
        "import sys, time; from pathlib import Path; from RAUSlicerLib.service.folder import ExchangeFolder\n"
        "folder = ExchangeFolder(Path(sys.argv[1])); (folder.new_run() / 'patient.nrrd').write_text('voxels')\n"
        "print(folder.path, flush=True); time.sleep(600)"
    )
    owners = [subprocess.Popen([sys.executable, "-c", code, str(temporary)], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    try:
        gone, there = (Path(owner.stdout.readline().strip()) for owner in owners)
        owners[0].kill()
        owners[0].wait()
        assert gone.is_dir()

        ExchangeFolder(temporary).close()

        assert not gone.exists() and len(list(there.glob("run-*/patient.nrrd"))) == 1
    finally:
        for owner in owners:
            owner.kill()
            owner.communicate()


def test_a_folder_without_a_lock_is_left_alone_unless_it_is_older_than_any_run(temporary):
    # Of a version that named its process in place of holding a lock; that number may be anybody's by now.
    old, new, other = (temporary / f"rauslicer-exchange-{name}" for name in ("1-abc_1234", "2-abc_1234", "3-abc_1234"))
    victim = temporary / "victim"
    for folder in (old, new, victim):
        folder.mkdir()
    other.symlink_to(victim, target_is_directory=True)
    for folder in (old, victim):
        os.utime(folder, (0, 0))

    ExchangeFolder(temporary).close()

    assert not old.exists() and new.exists() and victim.exists()


def test_the_exchange_folder_is_private(client, temporary):
    client.start()

    if os.name != "nt":
        modes = {folder.is_dir(): oct(folder.stat().st_mode & 0o777) for folder in temporary.iterdir()}
        assert modes == {True: "0o700", False: "0o600"}


def test_a_missing_interpreter_and_a_missing_temporary_folder_are_explained(tmp_path):
    with pytest.raises(ResourceError, match="no-such-python"):
        WorkerClient(python=str(tmp_path / "no-such-python"), temporary_folder=tmp_path).start()
    with pytest.raises(ResourceError, match="can't be started"):
        WorkerClient(temporary_folder=tmp_path / "nowhere").start()
    assert list(tmp_path.iterdir()) == []


def test_starting_the_client_imports_nothing_heavy():
    code = (
        "import sys; import RAUSlicerLib.service.client\n"
        "print([name for name in ('numpy', 'SimpleITK', 'torch', 'slicer', 'qt') if name in sys.modules])"
    )

    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
