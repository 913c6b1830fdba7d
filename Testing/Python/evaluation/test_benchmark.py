import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from RAUSlicerLib.cli.app import main
from RAUSlicerLib.errors import InputError
from RAUSlicerLib.evaluation import processes
from RAUSlicerLib.evaluation.benchmark import Plan, plan_benchmark, run_plan
from RAUSlicerLib.evaluation.methods import DEMONS, METHODS, OURS, default_methods, rescaled_boxes
from RAUSlicerLib.evaluation.pairs import choose_trials
from RAUSlicerLib.evaluation.processes import Processes
from RAUSlicerLib.evaluation.records import LOG, RecordedRuns
from RAUSlicerLib.evaluation.scoring import counterpart, prepare
from RAUSlicerLib.imaging.segmentation import Structure
from RAUSlicerLib.progress import CancelToken, ProgressEvent, ignore
from RAUSlicerLib.protocols import SoftMask
from RAUSlicerLib.refinement.label_map import resolve


def copies(data: Path, **other) -> Plan:
    return plan_benchmark(data, domains=["bodies"], methods=["copy"], **{"limit": 2, "variants": ["natural"], "counts": [1], **other})


def go(plan: Plan, output: Path):
    return run_plan(plan, output, progress=ignore, cancel=CancelToken())


def test_an_unknown_method_is_refused_before_anything_runs(tiny_data: Path) -> None:
    with pytest.raises(InputError, match="'magic'"):
        plan_benchmark(tiny_data, methods=["magic"])


def test_each_kind_of_trial_gets_its_own_methods() -> None:
    natural = default_methods(natural=True, references=1)
    assert {"copy", "affine", "demons", "sam2-memory", "rauslicer"} <= set(natural) <= set(METHODS)
    assert OURS in default_methods(natural=False, references=1)
    assert default_methods(natural=True, references=3) == [OURS]
    assert DEMONS not in default_methods(natural=True, references=3)


def test_resolve_gives_each_voxel_its_likeliest_structure() -> None:
    grid = sitk.Image(4, 1, 1, sitk.sitkUInt8)
    first = SoftMask(np.array([[[0.9, 0.6, 0.3]]], np.float32), (0, 0, 0), grid)
    second = SoftMask(np.array([[[0.7, 0.4, 0.8]]], np.float32), (0, 0, 1), grid)
    masks = {Structure(5, "a"): first, Structure(7, "b"): second}
    labels = resolve(masks, tuple(masks), grid).labelmap
    assert sitk.GetArrayFromImage(labels).ravel().tolist() == [5, 7, 0, 7]


def test_the_command_writes_scores_tables_and_plots(tiny_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "scores"
    options = ["--domains", "bodies", "--methods", "copy,affine", "--limit", "2", "--variants", "natural,mirrored", "--references", "1"]

    code = main(["benchmark", "--data", str(tiny_data), *options, "--output", str(output)])

    assert code == 0
    runs = json.loads((output / "scores.json").read_text())["runs"]
    natural = [run for run in runs if run["variant"] == "natural"]
    assert [(run["method"], run["target"]) for run in natural] == [("copy", "x"), ("affine", "x"), ("copy", "y"), ("affine", "y")]
    for run in natural:
        assert run["error"] is None and run["seconds"] > 0 and run["peak_mb"] > 50
        by_name = {score["name"]: score for score in run["structures"]}
        assert by_name["body"]["dice"] > 0.9 and by_name["left organ"]["dice"] > 0.8
        assert (by_name["left organ"]["box_iou"] is not None) == (run["method"] == "copy")
        right = by_name["right organ"]
        assert (right["is_present"], right["dice"] is None, right["said_present"]) == (run["target"] == "x", run["target"] == "y", True)
    # Nothing tells these methods that they look into a mirror: they find the organ of the other side.
    left = next(s for run in runs if run["variant"] == "mirrored" and run["target"] == "x" for s in run["structures"] if s["label"] == 2)
    assert left["mirror_dice"] > 0.15 > left["dice"]
    assert "| copy | 2 | 0 |" in (output / "table.md").read_text() and "bodies, mirrored" in (output / "table.md").read_text()
    assert "8 runs, 0 of them failed. All runs are there." in (output / "table.md").read_text()
    assert (output / "dice_bodies.png").read_bytes().startswith(b"\x89PNG")
    printed = capsys.readouterr().out
    assert "affine" in printed and "bodies, mirrored" in printed


def test_what_is_there_is_not_run_again(tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = go(copies(tiny_data, limit=1), tmp_path)
    asked = []
    ask = Processes.ask
    monkeypatch.setattr(Processes, "ask", lambda self, name, request, cancel: asked.append(request) or ask(self, name, request, cancel))

    both = go(copies(tiny_data), tmp_path)
    assert [run.target for run in both.runs] == ["x", "y"] and both.runs[0] == first.runs[0]
    assert [Path(request["target"]).name for request in asked] == ["y.nii.gz"]
    go(copies(tiny_data), tmp_path)
    assert len(asked) == 1
    go(copies(tiny_data, redo=["copy"]), tmp_path)
    assert len(asked) == 3


def test_what_another_environment_has_run_of_an_optional_peer_is_shown(tiny_data: Path, tmp_path: Path) -> None:
    run = go(copies(tiny_data, limit=1), tmp_path).runs[0]
    RecordedRuns(tmp_path).add(replace(run, method="ants"))
    results = go(copies(tiny_data, limit=1), tmp_path)
    assert [run.method for run in results.runs] == ["copy", "ants"] and results.missing == 0


def test_a_line_cut_off_by_an_interruption_costs_only_that_run(tiny_data: Path, tmp_path: Path) -> None:
    go(copies(tiny_data), tmp_path)
    log = tmp_path / LOG
    lines = log.read_text().splitlines(keepends=True)
    log.write_text(lines[0] + lines[1][:100])

    results = go(copies(tiny_data), tmp_path)

    assert [run.target for run in results.runs] == ["x", "y"] and results.missing == 0
    assert [json.loads(line)["target"] for line in log.read_text().splitlines()] == ["x", "y"]


def test_a_cancel_keeps_what_is_finished(tiny_data: Path, tmp_path: Path) -> None:
    cancel, events = CancelToken(), []

    def stop_at_the_second(event: ProgressEvent) -> None:
        events.append(event)
        if len(events) == 2:
            cancel.cancel()

    results = run_plan(copies(tiny_data), tmp_path, progress=stop_at_the_second, cancel=cancel)
    assert [run.target for run in results.runs] == ["x"] and results.missing == 1


def test_other_weights_are_another_experiment(make_run, tmp_path: Path) -> None:
    log = RecordedRuns(tmp_path)
    log.add(make_run(model="one"))
    log.add(make_run(model="two", dice=(0.7,)))
    again = RecordedRuns(tmp_path)
    assert again[make_run(model="one").key].structures[0].dice == 0.5 and again[make_run(model="two").key].structures[0].dice == 0.7


def test_a_method_that_fails_scores_nothing_says_why_and_is_tried_again(tiny_data: Path, tmp_path: Path) -> None:
    broken = tmp_path / "data"
    (broken / "bodies").mkdir(parents=True)
    for path in [tiny_data / "splits.json", *(tiny_data / "bodies").iterdir()]:
        (broken / path.relative_to(tiny_data)).write_bytes(path.read_bytes())
    for case in "abcd":
        image = sitk.ReadImage(str(broken / "bodies" / f"{case}.nii.gz"))
        sitk.WriteImage(image * 0, str(broken / "bodies" / f"{case}.nii.gz"))

    run = go(copies(broken, limit=1), tmp_path / "out").runs[0]
    assert run.error is not None and "InputError" in run.error
    assert [score.dice for score in run.structures] == [0.0, 0.0, 0.0]

    for case in "abcd":
        (broken / "bodies" / f"{case}.nii.gz").write_bytes((tiny_data / "bodies" / f"{case}.nii.gz").read_bytes())
    again = go(copies(broken, limit=1), tmp_path / "out")
    assert [run.error for run in again.runs] == [None]


def test_a_process_that_dies_is_a_failed_run_and_the_next_one_gets_another() -> None:
    with Processes("embedded", "cpu") as running:
        unknown = {"method": "copy", "references": [], "target": "/nowhere", "labels": [], "folder": "/tmp"}
        assert "InputError" in running.ask("classical", unknown, CancelToken())["error"]
        os.kill(running._running["classical"]._child.pid, signal.SIGKILL)
        running._running["classical"]._child.wait()
        assert "ended with code -9" in running.ask("classical", unknown, CancelToken())["error"]
        assert "InputError" in running.ask("classical", unknown, CancelToken())["error"]
        child = running._running["classical"]._child
    assert child.poll() is not None


@pytest.mark.skipif(sys.platform == "win32", reason="processes are killed otherwise there")
def test_a_process_in_the_middle_of_a_run_ends_with_a_benchmark_that_is_killed(tmp_path: Path) -> None:
    # A method that never ends and has started a process of its own, in a worker of a benchmark that has asked it and waits.
    busy = (
        "import os, subprocess, sys, time\n"
        "from RAUSlicerLib.evaluation import methods, worker\n"
        "class Bench:\n"
        "    def __init__(self, *_given): pass\n"
        "methods.Bench = Bench\n"
        "def answer(_bench, request):\n"
        "    subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        "    open(request['folder'], 'w').write(f'{os.getpgrp()} ')\n"
        "    time.sleep(600)\n"
        "worker._answer = answer\n"
        "worker.serve('embedded', 'cpu')"
    )
    started, script = tmp_path / "started", tmp_path / "busy.py"
    script.write_text(busy)
    benchmark = (
        "import subprocess, sys; from RAUSlicerLib.evaluation import processes; from RAUSlicerLib.progress import CancelToken\n"
        "real = subprocess.Popen\n"
        f"processes.subprocess.Popen = lambda _command, **given: real([sys.executable, {str(script)!r}], **given)\n"
        f"with processes.Processes('embedded', 'cpu') as running: running.ask('classical', {{'folder': {str(started)!r}}}, CancelToken())"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen([sys.executable, "-c", benchmark], env=environment) as owner:
        until = time.monotonic() + 120
        while not (started.exists() and started.read_text().endswith(" ")) and owner.poll() is None and time.monotonic() < until:
            time.sleep(0.02)
        owner.kill()
    group = int(started.read_text())

    until = time.monotonic() + 120
    while _is_running(group) and time.monotonic() < until:
        time.sleep(0.02)
    assert not _is_running(group)


def _is_running(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_run_in_progress_is_stopped_by_a_cancel(monkeypatch: pytest.MonkeyPatch) -> None:
    cancel = CancelToken()
    monkeypatch.setattr(processes, "_LOOK_SECONDS", 0.01)
    cancel.cancel()
    with Processes("embedded", "cpu") as running:
        with pytest.raises(processes.Cancelled):
            running.ask("classical", {}, cancel)
        assert running._running == {}


@pytest.mark.slow
def test_ours_and_its_memory_alone_run_in_one_process_that_opens_the_model_once(tiny_data: Path, tiny_model: Path, tmp_path: Path) -> None:
    names = ["rauslicer", "sam2-memory"]
    plan = plan_benchmark(
        tiny_data, domains=["bodies"], methods=names, limit=1, variants=["natural"], counts=[1], model=str(tiny_model), device="cpu"
    )
    ours, memory = go(plan, tmp_path).runs
    assert [run.error for run in (ours, memory)] == [None] * 2
    assert ours.model == memory.model != ""
    assert ours.load_seconds is not None
    for score in ours.structures:
        assert score.status in ("found", "low confidence", "not found") and 0 <= score.confidence <= 1
        assert score.presence is not None and score.box_iou is not None
    assert all(score.status is None and score.box_iou is None for score in memory.structures)


def test_boxes_are_rescaled_by_the_two_foregrounds(make_ellipsoids) -> None:
    reference, target = make_ellipsoids(), make_ellipsoids(scale=(1.1, 1.0, 1.0))
    structure = reference.segmentation.structures[1]
    (low, high) = rescaled_boxes(reference, target.volume, [structure])[structure]
    mask = target.segmentation.array(target.segmentation.structures[1])
    columns = np.flatnonzero(mask.any(axis=(0, 1)))
    edges = [target.volume.TransformContinuousIndexToPhysicalPoint((float(x), 0.0, 0.0))[0] for x in (columns[0] - 0.5, columns[-1] + 0.5)]
    assert (low[0], high[0]) == (pytest.approx(edges[0], abs=2), pytest.approx(edges[1], abs=2))


def test_of_a_wrong_part_of_the_body_nothing_is_expected(tiny_data: Path, tmp_path: Path) -> None:
    from RAUSlicerLib.evaluation.pairs import wrong_part_trials

    truth = prepare(wrong_part_trials(tiny_data, "val", ["bodies"], 1)[0], tmp_path)
    assert set(truth.names.values()) == {"body", "Gallbladder", "right organ"}
    answers = {"answers": {str(label): {"present": label == 1} for label in truth.names}}
    scores = truth.scores(answers, truth.labelmap, mirrored=False)
    assert [(score.is_present, score.dice) for score in scores] == [(False, None)] * 3
    assert [score.said_present for score in scores] == [True, False, False]


def test_structures_that_the_missing_half_held_do_not_count(tiny_data: Path, tmp_path: Path) -> None:
    trial = choose_trials(tiny_data, "val", ["bodies"], 1, ("half",))[0]
    truth = prepare(trial, tmp_path)
    whole = sitk.ReadImage(str(trial.target.segmentation))
    assert truth.labelmap.GetSize()[2] < whole.GetSize()[2]
    assert sitk.ReadImage(str(truth.volume)).GetSize() == truth.labelmap.GetSize()
    gone = sitk.Image(truth.labelmap)
    gone[gone == 3] = 0
    scores = {score.label: score for score in type(truth)(truth.volume, gone, truth.names).scores({}, None, mirrored=False)}
    assert scores[3].is_present is False and scores[3].dice is None and scores[1].dice == 0.0


@pytest.mark.parametrize(
    ("name", "names", "expected"),
    [
        ("Right ACgG  anterior", {1: "Left ACgG anterior", 2: "Right ACgG  anterior"}, 1),
        ("liver", {1: "liver", 2: "spleen"}, None),
        ("left kidney", {1: "left kidney"}, None),
    ],
)
def test_counterparts_go_by_name(name: str, names: dict[int, str], expected: int | None) -> None:
    assert counterpart(name, names) == expected
