"""Whatever is sent to a worker: an answer for each line, nothing written or removed outside of its folder, and it lives on."""

import json
import os
import signal
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from RAUSlicerLib.service import exchange
from RAUSlicerLib.service import process as processes
from RAUSlicerLib.service.client import WorkerClient
from RAUSlicerLib.service.folder import ExchangeFolder

from .replies import answer, at_stage, is_answer, liver_is_done, transfer, wait_for, write

posix = pytest.mark.skipif(os.name == "nt", reason="signals and links of POSIX")
linux = pytest.mark.skipif(sys.platform != "linux", reason="/proc")


def line(kind="cancel", **fields):
    return json.dumps({"version": 1, "type": kind, **fields}).encode() + b"\n"


def number(text):
    """A message whose one number is written as it is."""
    return b'{"version": 1, "type": "ask", "id": "n", "case": "x", "output": "y", "question": "?", "point": [0, 0, ' + text + b"]}\n"


LINES = {
    "no id": line(),
    "no id of a hello": line("hello"),
    "an id that is nothing": line(id=None),
    "an id that is empty": line(id=""),
    "an id of a number": line(id=7),
    "a very long id": line(id="9" * 100_000),
    "a long path": line("hello", id="a", folder="/" + "x" * 6000),
    "a path of long names": line("hello", id="a", folder="/tmp/" + "x" * 300),
    "a path with a zero": line("hello", id="a", folder="/tmp\0/x"),
    "a path that no system has": line("hello", id="a", folder="/tmp/\ud800"),
    "a path that is a list": line("hello", id="a", folder=["/tmp"]),
    "a path that is a number": line("hello", id="a", folder=5),
    "a path that is relative": line("hello", id="a", folder="."),
    "a path that is empty": line("hello", id="a", folder=""),
    "NaN": number(b"NaN"),
    "infinity": number(b"Infinity"),
    "minus infinity": number(b"-Infinity"),
    "a float that overflows": number(b"1e999"),
    "a whole number that overflows": number(b"9" * 400),
    "a whole number of a million digits": number(b"9" * 1_000_000),
    "a place light years away": number(b"1e300"),
    "a deep list": b"[" * 200_000 + b"]" * 200_000 + b"\n",
    "a deep version": b'{"version": ' + b"[" * 900 + b"]" * 900 + b', "type": "cancel", "id": "d"}\n',
    "a deep type": b'{"version": 1, "type": ' + b"[" * 900 + b"]" * 900 + b', "id": "d"}\n',
    "a deep object": b'{"a":' * 100_000 + b"1" + b"}" * 100_000 + b"\n",
    "no UTF-8": b'{"version": 1, "type": "cancel", "id": "\xff\xfe"}\n',
    "UTF-16": json.dumps({"version": 1, "type": "cancel", "id": "u"}).encode("utf-16-le") + b"\n",
    "zeros": b"\0" * 1000 + b"\n",
    "a giant line": b'{"version": 1, "type": "cancel", "id": "' + b"x" * (8 << 20) + b'"}\n',
    "a line just too long": b" " * (1 << 20) + b"{}\n",
    "an unknown message": line("fly", id="f"),
    "no JSON": b"garbage\n",
    "another version": json.dumps({"version": 2, "type": "cancel", "id": "v"}).encode() + b"\n",
    "a message without all": b"{}\n",
    "a run of nothing": line("transfer", id="r"),
    "a correction of nothing": line("correct", id="r", slices=[[0, 10**40]]),
    "a question without a question": line("ask", id="r", case="x", output="y"),
}


@pytest.fixture(scope="module")
def lasting(tmp_path_factory):
    """A client whose worker all lines of this file go through: each has to leave it alive for the next."""
    client = WorkerClient(temporary_folder=tmp_path_factory.mktemp("exchange"))
    yield client
    client.stop()


@pytest.mark.parametrize("sent", LINES.values(), ids=LINES.keys())
def test_every_line_is_answered_by_an_error_and_the_worker_lives_on(lasting, sent):
    lasting.start()
    pid = lasting.pid

    write(lasting, sent)
    id_ = lasting.send("cancel")

    replies = [reply for reply in wait_for(lasting, is_answer(id_)) if reply.get("of") != "hello"]
    assert [reply["type"] for reply in replies] == ["error", "result"], replies
    assert replies[0]["code"] == "protocol" and replies[0]["solution"]
    assert len(str(replies[0])) < 2000
    assert lasting.pid == pid and lasting.running


def test_an_id_that_comes_twice_is_refused(scripted, case):
    first = transfer(scripted, case, "wait")
    wait_for(scripted, liver_is_done)

    write(scripted, line("cancel", id=first))

    error = answer(scripted, first)
    assert error["type"] == "error" and f"id '{first}' was used already" in error["problem"]
    scripted.send("cancel")
    assert answer(scripted, first)["type"] == "result"


@pytest.fixture
def victim(tmp_path):
    """Somebody's folder, as private as an exchange folder is."""
    folder = tmp_path / "rauslicer-exchange-victim"
    folder.mkdir(mode=0o700)
    (folder / "thesis.txt").write_text("years of work")
    return folder


def test_a_folder_that_the_client_has_not_made_is_refused_and_left_alone(client, victim, tmp_path):
    client.start()
    other = ExchangeFolder(tmp_path)
    named = [victim, victim.parent, Path.home(), Path("/"), other.path, tmp_path / "nowhere"]
    if os.name != "nt":
        link = client._folder.path.with_name("rauslicer-exchange-link")
        link.symlink_to(client._folder.path, target_is_directory=True)
        named.append(link)

    for folder in named:
        error = answer(client, client.send("hello", folder=str(folder)))
        assert (error["type"], error["code"]) == ("error", "protocol"), folder
        assert repr(str(folder)) in error["problem"]

    client.stop()
    assert (victim / "thesis.txt").read_text() == "years of work"
    assert other.path.is_dir()
    other.close()


@pytest.mark.parametrize("token", [None, "", "guessed"])
def test_a_worker_that_was_told_another_token_or_none_takes_no_folder(tmp_path, victim, token):
    (victim / "token").write_text(token or "")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    if token is not None:
        environment["RAUSLICER_EXCHANGE_TOKEN"] = "0" * 64
    command = [sys.executable, "-m", "RAUSlicerLib.service.worker"]

    done = subprocess.run(command, env=environment, input=line("hello", id="1", folder=str(victim)), capture_output=True, check=True)

    assert json.loads(done.stdout)["code"] == "protocol"
    assert (victim / "thesis.txt").exists()


def test_a_folder_that_has_taken_the_name_of_the_exchange_folder_is_left_alone(client, victim):
    client.start()
    wait_for(client, is_answer("1"))
    path = client._folder.path
    path.rename(path.with_name("elsewhere"))
    victim.rename(path)

    client._write("shutdown", {})
    client._process.wait(60)

    assert (path / "thesis.txt").read_text() == "years of work"
    client._folder._scratch._finalizer.detach()


@pytest.mark.parametrize("kind", ["transfer", "correct", "report", "ask"])
def test_nothing_is_written_outside_of_the_exchange_folder(scripted, case, tmp_path, kind):
    inside = scripted.new_run_folder()
    mine = tmp_path / "mine.seg.nrrd"
    mine.write_text("my own")
    outside = [mine, tmp_path / "new.seg.nrrd", inside / ".." / ".." / ".." / "mine.seg.nrrd", inside.parent, inside.parent / "token"]
    if os.name != "nt":
        (inside / "folder").symlink_to(tmp_path, target_is_directory=True)
        (inside / "file.seg.nrrd").symlink_to(mine)
        (inside / "loop").symlink_to(inside / "loop")
        outside += [inside / "folder" / "new.seg.nrrd", inside / "file.seg.nrrd", Path("/dev/full")]
    files = exchange.write_request(inside, *case)
    correction = {"structure": "Tumor", "mask": None, "slices": [], "box_mm": [[0, 0, 0], [1, 1, 1]]}
    fields = {
        "transfer": {**files, "model": "copy"},
        "correct": {**files, **correction},
        "report": {"case": "x", "output": str(inside / "report.json")},
        "ask": {"case": "x", "question": "?"},
    }[kind]
    before = sorted(tmp_path.iterdir())

    for path in outside:
        named = {"save" if kind == "report" else "output": str(path)}
        error = answer(scripted, scripted.send(kind, **{**fields, **named}))
        assert (error["type"], error["code"]) == ("error", "protocol"), (path, error)
        assert "not in the exchange folder" in error["problem"]

    assert mine.read_text() == "my own" and sorted(tmp_path.iterdir()) == before


def test_without_an_exchange_folder_nothing_is_written(tmp_path, case):
    files = exchange.write_request(tmp_path, *case)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-m", "RAUSlicerLib.service.worker"]

    done = subprocess.run(command, env=environment, input=line("transfer", id="1", **files), capture_output=True, check=True)

    assert "not in the exchange folder" in json.loads(done.stdout)["problem"]
    assert not Path(files["output"]).exists()


@linux
@pytest.mark.parametrize("kind", ["cancel", "forget"])
def test_a_flood_costs_neither_threads_nor_memory_and_each_line_is_answered(scripted, case, release, kind):
    """During a run that hears nothing, so that nothing of it can be worked off."""
    id_ = transfer(scripted, case, "slow end")
    wait_for(scripted, liver_is_done)
    before, most = status_of(scripted.pid), 5000

    write(scripted, *(line(kind, id=f"flood {index}", padding="x" * 1000) for index in range(most)))

    replies = wait_for(scripted, is_answer(f"flood {most - 1}"))
    after = status_of(scripted.pid)
    assert sum(str(reply["id"]).startswith("flood") for reply in replies) == most
    assert after["Threads"] <= before["Threads"] + 2
    assert after["VmRSS"] <= before["VmRSS"] + 4096  # kB; all of the lines together have 5 MB
    assert not any(is_answer(id_)(reply) for reply in replies)
    scripted.send("cancel")
    release()
    assert answer(scripted, id_)["type"] == "result"


def status_of(pid):
    lines = (text.split() for text in Path(f"/proc/{pid}/status").read_text().splitlines())
    return {words[0].rstrip(":"): int(words[1]) for words in lines if words[0] in ("Threads:", "VmRSS:")}


def test_runs_that_are_given_up_before_they_begin_do_not_pile_up():
    """Without a process: what waits for a run that does not end."""
    import io

    from RAUSlicerLib.service import worker

    class Stream(io.BytesIO):
        def flush(self):
            lines.append(json.loads(self.getvalue().splitlines()[-1]))

    lines = []
    begun, end = threading.Event(), threading.Event()
    one = worker.Worker(worker.Channel(Stream()))
    one._runner.run = lambda *_given: (begun.set(), end.wait(60), {})[-1]
    one.exchange = type("Anywhere", (), {"holds": lambda self, path: True})()
    for index in range(20):
        one.handle(line("ask", id=f"run {index}", case="x", output="y", question="?"))
        begun.wait(60)
        one.handle(line("cancel", id=f"cancel {index}"))
        one._abandon(one._current)
        one.handle(line("forget", id=f"forget {index}"))

    assert len(one._pending) <= 2
    assert [entry["code"] for entry in lines if entry["type"] == "error"] == ["cancelled"] * 20
    end.set()


@posix
@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGHUP"])
def test_a_signal_to_end_keeps_what_is_finished_and_ends_the_worker(scripted, case, name, temporary):
    id_ = transfer(scripted, case, "wait")
    wait_for(scripted, liver_is_done)
    worker = scripted._process

    os.kill(scripted.pid, getattr(signal, name))
    worker.wait(60)

    # Only now, when it has ended already: what it said last and wrote last is not lost.
    result = answer(scripted, id_)
    assert result["type"] == "result" and result["cancelled"]
    assert exchange.read_result(result).segmentation.structures == case[0].segmentation.structures
    assert worker.returncode == 128 + getattr(signal, name)
    # The next run gets a new worker.
    assert answer(scripted, transfer(scripted, case, "copy"))["type"] == "result"


@posix
def test_a_signal_to_end_in_a_long_step_says_that_it_was_cancelled(scripted, case):
    id_ = transfer(scripted, case, "long drawing")
    wait_for(scripted, at_stage("segmentation"))

    os.kill(scripted.pid, signal.SIGTERM)

    assert answer(scripted, id_)["code"] == "cancelled"


@posix
def test_a_second_signal_to_end_does_not_wait(scripted, case):
    transfer(scripted, case, "slow end")
    wait_for(scripted, liver_is_done)
    worker = scripted._process

    os.kill(scripted.pid, signal.SIGTERM)
    # Told apart only where the first one was heard before; what is pending already is not told twice.
    while worker.poll() is None:
        os.kill(worker.pid, signal.SIGTERM)
        threading.Event().wait(0.05)

    assert worker.returncode == 128 + signal.SIGTERM


@posix
def test_a_signal_to_end_ends_an_idle_worker(client, temporary):
    client.start()
    wait_for(client, is_answer("1"))

    os.kill(client.pid, signal.SIGTERM)

    assert client._process.wait(60) == 128 + signal.SIGTERM
    client.stop()
    assert list(temporary.iterdir()) == []


def test_control_characters_of_a_worker_reach_neither_its_log_nor_its_messages(temporary):
    evil = "\\x1b[2J\\x07\\x9b1mJane\\u202e\\r"
    error = "dict(version=1, type='error', id=None, code='internal', problem=evil, explanation=evil, solution=evil)"
    progress = "dict(version=1, type='progress', id='1', stage=evil, fraction=0.5, structure=evil)"
    result = "dict(version=1, type='result', id='2', of='transfer', warnings=[evil], segmentation='/tmp/' + evil)"
    code = f"import json, sys; evil = '{evil}'; print(evil, file=sys.stderr)\n"
    code += f"for one in ({error}, {progress}, {result}): print(json.dumps(one))"
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8"}
    client = WorkerClient(temporary_folder=temporary, environment=environment, command=[sys.executable, "-c", code])
    client.start()

    replies = wait_for(client, lambda reply: reply.get("code") == "crash" or reply["id"] == "2")

    said = [reply for reply in replies if reply.get("code") != "crash"]
    shown = [value for reply in said for name, value in reply.items() if name != "segmentation"]
    for value in [*shown, client.log]:
        assert "".join(value if isinstance(value, list) else [str(value)]).replace("\n", "").isprintable()
    assert "Jane" in said[0]["problem"] and "\\x1b[2J" in said[0]["problem"]
    # What is not shown but used stays as it is.
    assert said[2]["segmentation"].startswith("/tmp/\x1b")
    client.stop()


def test_lines_without_end_in_the_log_cost_no_memory(temporary):
    code = "import sys\nfor _ in range(64): sys.stderr.write('x' * (1 << 20))\nsys.stderr.write('\\nthe end\\n')"
    client = WorkerClient(temporary_folder=temporary, command=[sys.executable, "-c", code])
    client.start()
    worker = client._process
    # Its log is read by a thread of its own, which may be later than its end.
    while worker.poll() is None or "the end" not in client.log:
        threading.Event().wait(0.02)

    assert len(client.log) < 5000
    client.stop()


def test_a_worker_that_has_ended_before_it_is_greeted_is_a_crash_and_is_not_started_again(temporary, monkeypatch):
    started = []

    def start(*given):
        process = real(*given)
        process.wait(60)
        started.append(process)
        return process

    real = processes.start
    monkeypatch.setattr(processes, "start", start)
    client = WorkerClient(temporary_folder=temporary, command=[sys.executable, "-c", "print('Segmentation fault')"])

    client.start()

    replies = wait_for(client, lambda reply: reply.get("code") == "crash")
    assert [reply["code"] for reply in replies] == ["protocol", "crash"] and len(started) == 1
    client.stop()
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize(
    "library",
    [
        "import warnings; warnings.warn('value DOE^JANE is invalid')",
        "import logging; logging.getLogger('pydicom').warning('value DOE^JANE is invalid')",
        "import pydicom.dataset, pydicom.config as c; c.logger.warning('value %s is invalid', 'DOE^JANE')",
        "import threading; t = threading.Thread(target=lambda: 1 / len('') if 0 else [].index('DOE^JANE')); t.start(); t.join()",
        "raise ValueError('value DOE^JANE is invalid')",
    ],
)
def test_what_libraries_say_of_a_patient_is_not_in_the_log(library):
    code = f"from RAUSlicerLib.service import worker_log; worker_log.keep_data_out()\n{library}"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}

    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)

    assert "DOE" not in done.stderr + done.stdout
    assert "line" in done.stderr


@posix
def test_what_the_worker_is_told_by_its_environment_is_not_told_to_others(client):
    client.start()
    wait_for(client, is_answer("1"))

    assert stat.S_IMODE((client._folder.path).stat().st_mode) == 0o700
    assert len(client._folder.token) == 64 and (client._folder.path / "token").read_text() == client._folder.token
