"""What is asked for is written whatever becomes of the terminal: other encodings, closed pipes, full disks, odd names, signals."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import SimpleITK as sitk
from PIL import Image

from RAUSlicerLib.cli.app import main

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals, pipes and encodings are others there")

SCRIPT = Path(__file__).with_name("scripted_cli.py")
PICTURES = ("contact_sheet.png", "volume_3d.png")
NAMES = {"1": "Körper 肝\x1b[2J", "2": "left\norgan\u202e", "3": "[bold]right[/x] \udce9"}
# Seconds in which even a busy machine is done; only what hangs takes longer.
PATIENCE = 300

Run = Callable[..., subprocess.CompletedProcess[bytes]]


@pytest.fixture
def files(make_ellipsoids, tmp_path: Path) -> Path:
    """Inputs whose structures have names that are hard to print."""
    reference, target = make_ellipsoids(size=(24, 28, 20), spacing=(4, 4, 4)), make_ellipsoids(size=(24, 28, 20), spacing=(4, 4, 4), seed=1)
    (tmp_path / "in").mkdir()
    for name, image in (("r", reference.volume), ("s", reference.segmentation.labelmap), ("t", target.volume)):
        sitk.WriteImage(image, str(tmp_path / "in" / f"{name}.nii.gz"))
    (tmp_path / "in" / "labels.json").write_text(json.dumps(NAMES))
    (tmp_path / "out").mkdir()
    return tmp_path


@pytest.fixture
def run(files: Path) -> Run:
    """run(*arguments): transfer in a process of its own, writing everything there is into the folder out."""

    def start(
        *more: str, number: int = 0, moment: str = "", shell: str = "", environment: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[bytes]:
        command = [sys.executable, str(SCRIPT), str(number), moment, *transfer_arguments(files), *more]
        variables = {**os.environ, "OMP_NUM_THREADS": "1", **(environment or {})}
        if not shell:
            return subprocess.run(command, capture_output=True, check=False, env=variables, timeout=PATIENCE)
        # "$@" are the arguments; the code is that of the command and not that of the pipe.
        line = ["bash", "-c", f'"$@" {shell}; exit ${{PIPESTATUS[0]}}', "bash", *command]
        return subprocess.run(line, capture_output=True, check=False, env=variables, timeout=PATIENCE)

    return start


def transfer_arguments(files: Path) -> list[str]:
    inputs = ["--reference", "in/r.nii.gz", "--reference-segmentation", "in/s.nii.gz", "--target", "in/t.nii.gz"]
    outputs = ["--output", "out/o.seg.nrrd", "--json", "out/o.json", "--report", "out/r.html", "--report", "out/r.json"]
    given = [str(files / one) if "/" in one else one for one in (*inputs, *outputs, "--pictures", "out/pictures")]
    return ["transfer", *given]


def before(files: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (files / "in").iterdir()}


def names(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


ALL = {"o.seg.nrrd", "o.json", "r.html", "r.json", *(f"pictures/{name}" for name in PICTURES)}


def require_whole(folder: Path) -> None:
    """Whatever is there is whole, and nothing else lies there."""
    there = names(folder)
    assert there <= ALL
    if "o.seg.nrrd" in there:
        assert sitk.ReadImage(str(folder / "o.seg.nrrd")).GetSize() == (24, 28, 20)
    for name in ("o.json", "r.json"):
        if name in there:
            json.loads((folder / name).read_text(encoding="utf-8"))
    if "r.html" in there:
        assert (folder / "r.html").read_text(encoding="utf-8").rstrip().endswith("</html>")
    for name in PICTURES:
        if f"pictures/{name}" in there:
            with Image.open(folder / "pictures" / name) as picture:
                picture.load()


@pytest.mark.parametrize(
    "environment", [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C", "LANG": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}]
)
def test_an_encoding_that_lacks_letters_costs_nothing(files, run, environment):
    ended = run(environment=environment)
    assert ended.returncode == 0, ended.stderr
    assert names(files / "out") == ALL
    require_whole(files / "out")
    assert b"K\\xf6rper" in ended.stdout or "Körper".encode() in ended.stdout or "Körper".encode("latin-1") in ended.stdout


def test_nothing_that_is_printed_steers_a_terminal(run):
    ended = run(environment={"PYTHONIOENCODING": "utf-8"})
    assert ended.returncode == 0, ended.stderr
    for text in (ended.stdout.decode(), ended.stderr.decode()):
        assert all(one.isprintable() or one in "\n" for one in text)
    shown = ended.stdout.decode()
    # Shown as they are: not as styles, not over several lines, not turned round.
    for name in ("Körper 肝 [2J", "left organ", "[bold]right[/x] ?"):
        assert name in shown


@pytest.mark.parametrize("shell", ["| head -1", "| true", "<&- >&- 2>&-", "2>/dev/full"])
def test_a_closed_pipe_or_stream_changes_neither_files_nor_code(files, run, shell):
    ended = run(shell=shell)
    assert ended.returncode == 0, ended.stderr
    assert names(files / "out") == ALL
    require_whole(files / "out")
    assert b"Traceback" not in ended.stderr and b"BrokenPipe" not in ended.stderr and b"Exception ignored" not in ended.stderr


def test_a_full_disk_under_what_is_printed_is_told_and_the_files_are_there(files, run):
    ended = run(shell=">/dev/full")
    assert ended.returncode == 0 and b"No space left" in ended.stderr and b"Traceback" not in ended.stderr
    assert names(files / "out") == ALL


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has names that are no text")
def test_names_of_files_that_are_no_text_are_written_to_and_printed(files, run):
    folder = os.fsencode(files) + b"/d\xe4\x1b"
    os.mkdir(folder)
    named = [os.fsdecode(folder + b"/" + name) for name in (b"o\xff.nii.gz", b"o\xff.json", b"r\xff.html", b"p\xff")]
    ended = run("--force", "--output", named[0], "--json", named[1], "--report", named[2], "--pictures", named[3])
    assert ended.returncode == 0, ended.stderr
    assert sorted(os.listdir(folder)) == sorted([b"o\xff.nii.gz", b"o\xff.json", b"r\xff.html", b"p\xff"])
    assert sorted(os.listdir(folder + b"/p\xff")) == [name.encode() for name in PICTURES]
    assert json.loads(Path(named[1]).read_text(encoding="utf-8"))["output"] == named[0]
    assert b"o\\udcff.nii.gz" in ended.stdout and b"\x1b" not in ended.stdout


@pytest.mark.parametrize(
    ("number", "moment"),
    [
        *((signal.SIGINT, moment) for moment in ("segmentation half", "json", "report", "picture", "rename", "printing")),
        (signal.SIGTERM, "picture"),
        (signal.SIGHUP, "report"),
    ],
)
def test_one_request_to_stop_while_results_are_written_costs_none_of_them(files, run, number, moment):
    inputs = before(files)
    ended = run(number=number, moment=moment)
    assert ended.returncode == 0, ended.stderr
    assert names(files / "out") == ALL and before(files) == inputs
    require_whole(files / "out")


@pytest.mark.parametrize(("number", "moment"), [(signal.SIGINT, "inputs"), (signal.SIGTERM, "inputs"), (signal.SIGTERM, "transfer")])
def test_a_request_to_stop_before_anything_is_finished_leaves_nothing(files, run, number, moment):
    inputs = before(files)
    ended = run(number=number, moment=moment)
    assert ended.returncode == 130 and b"Traceback" not in ended.stderr
    assert names(files / "out") == set() and before(files) == inputs


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_what_is_finished_when_it_stops_is_kept(files, run, number):
    ended = run(number=number, moment="transfer", environment={"KEEPS": "1"})
    assert ended.returncode == 130, ended.stderr
    assert names(files / "out") == ALL
    require_whole(files / "out")


@pytest.mark.parametrize(("number", "moment"), [(signal.SIGINT, "report"), (signal.SIGTERM, "rename"), (signal.SIGHUP, "rename")])
def test_a_command_that_only_writes_reports_leaves_none_or_whole_ones(files, number, moment):
    given = ["--target", f"{files}/in/t.nii.gz", "--segmentation", f"{files}/in/s.nii.gz"]
    outputs = ["--output", f"{files}/out/r.json", "--output", f"{files}/out/r.html"]
    command = [sys.executable, str(SCRIPT), str(int(number)), moment, "report", *given, *outputs]
    ended = subprocess.run(command, capture_output=True, check=False, timeout=PATIENCE)
    assert ended.returncode == 130 and b"Traceback" not in ended.stderr, ended.stderr
    assert names(files / "out") <= {"r.json", "r.html"}
    require_whole(files / "out")


def test_a_kill_leaves_only_what_the_next_run_removes(files, run):
    inputs = before(files)
    for moment in ("segmentation half", "rename"):
        assert run(number=signal.SIGKILL, moment=moment).returncode == -signal.SIGKILL
        assert before(files) == inputs
    assert list((files / "out").glob(".rauslicer-*"))
    assert run("--force").returncode == 0
    assert names(files / "out") == ALL and not list((files / "out").glob(".*"))


# -- ask: what is printed is all that there is


def ask_arguments(files: Path, *more: str) -> list[str]:
    return ["ask", "How large is the Körper?", "--target", f"{files}/in/t.nii.gz", "--segmentation", f"{files}/in/s.nii.gz", *more]


def test_an_answer_in_json_is_json_in_every_encoding(files):
    for encoding in ("ascii", "utf-8"):
        command = [sys.executable, "-m", "RAUSlicerLib.cli", *ask_arguments(files, "--json")]
        environment = {**os.environ, "PYTHONIOENCODING": encoding}
        ended = subprocess.run(command, capture_output=True, check=False, env=environment, timeout=PATIENCE)
        assert ended.returncode == 0, ended.stderr
        assert "Körper" in json.dumps(json.loads(ended.stdout.decode(encoding)), ensure_ascii=False)


def test_an_answer_that_nobody_can_get_is_4_and_one_that_nobody_reads_to_the_end_is_0(files):
    for shell, code in ((">/dev/full", 4), ("| head -1", 0)):
        line = f'"$@" {shell}; exit ${{PIPESTATUS[0]}}'
        command = ["bash", "-c", line, "bash", sys.executable, "-m", "RAUSlicerLib.cli", *ask_arguments(files)]
        ended = subprocess.run(command, capture_output=True, check=False, timeout=PATIENCE)
        assert ended.returncode == code, ended.stderr
        assert b"Traceback" not in ended.stderr


# -- errors


def test_an_error_shows_what_is_in_a_name_and_obeys_nothing(tmp_path, capsys):
    name = "a\x1b]0;owned\x07\nError: none\u202e\x9b2J"
    for arguments in (
        ["models", "remove", name],
        ["models", "add", str(tmp_path / name)],
        ["train", "recipe", "--config", str(tmp_path / name)],
        ["ask", name, "--target", str(tmp_path / name), "--segmentation", "s"],
    ):
        assert main(arguments) != 0
    with pytest.raises(SystemExit):
        main(["transfer", "--nonsense", name])
    with pytest.raises(SystemExit):
        main([name])
    shown = capsys.readouterr()
    assert all(one.isprintable() or one == "\n" for one in shown.err + shown.out)
    assert not any(line.startswith("Error: none") for line in shown.err.splitlines())


def test_what_an_unexpected_error_quotes_is_not_shown_unasked(monkeypatch, capsys):
    def fail(_options):
        raise KeyError("Doe^John\x1b[2J")

    monkeypatch.setattr("RAUSlicerLib.cli.models.run_models", fail)
    assert main(["models", "list"]) == 1
    shown = capsys.readouterr().err
    assert "KeyError in app.py, line" in shown and "Doe" not in shown
    assert main(["models", "list", "--debug"]) == 1
    assert "Doe" in (shown := capsys.readouterr().err) and "\x1b" not in shown


def test_warnings_and_logs_of_libraries_that_quote_a_patient_are_not_shown(monkeypatch, capsys):
    import logging
    import warnings

    def work(_options):
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.warn("Invalid value for VR PN: 'Doe^John'", stacklevel=1)
            logging.getLogger("pydicom").warning("Doe^John")
            logging.getLogger("RAUSlicerLib.imaging.dicom").warning("Two series\x1b[2J: the larger one was read.")
        return 0

    monkeypatch.setattr("RAUSlicerLib.cli.models.run_models", work)
    assert main(["models", "list"]) == 0
    assert capsys.readouterr().err == "Warning: Two series\\x1b[2J: the larger one was read.\n"


def test_a_warning_that_a_run_collects_and_tells_is_not_printed_twice(capsys):
    import logging

    from RAUSlicerLib.support.notices import noticed
    from RAUSlicerLib.support.printing import safe_streams

    log = logging.getLogger("RAUSlicerLib.imaging.dicom")
    with safe_streams(), noticed() as sentences:
        log.warning("Two series: the larger one was read.")
    assert sentences == ["Two series: the larger one was read."]
    assert capsys.readouterr().err == ""

    with safe_streams(), pytest.raises(ValueError, match="damaged"), noticed():
        log.warning("Two series: the larger one was read.")
        raise ValueError("damaged")
    assert capsys.readouterr().err == "Warning: Two series: the larger one was read.\n"
