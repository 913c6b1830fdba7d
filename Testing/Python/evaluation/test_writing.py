"""The benchmark's files: whole on a full disk, gone on with after it, and told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from RAUSlicerLib.errors import OutputError
from RAUSlicerLib.evaluation.benchmark import Results, write_scores
from RAUSlicerLib.evaluation.records import LOG, RecordedRuns, require_own
from RAUSlicerLib.evaluation.report import draw_plots, write_report
from RAUSlicerLib.evaluation.trust import write_trust


def test_a_disk_that_gets_full_costs_only_the_run_that_came_last(disk: Any, make_run: Any) -> None:
    log = RecordedRuns(disk.path)
    log.add(make_run(target="first"))
    disk.fill()
    with pytest.raises(OutputError, match="can't be written"):
        for number in range(100):
            log.add(make_run(target=f"later {number}"))
    disk.free()
    again = RecordedRuns(disk.path)
    assert again[make_run(target="first").key].target == "first"
    again.add(make_run(target="last"))
    kept = [json.loads(line)["target"] for line in (disk.path / LOG).read_text().splitlines()]
    assert kept[0] == "first" and kept[-1] == "last"


def test_tables_and_pictures_of_before_stay_when_the_disk_is_full(disk: Any, make_run: Any) -> None:
    results = Results([make_run(target=name) for name in "xy"])

    def write() -> None:
        write_report(results, disk.path)
        write_trust(results.runs, 0, disk.path)
        write_scores(results, disk.path / "scores.json")

    write()
    before = {path.name: path.read_bytes() for path in disk.path.iterdir()}
    assert set(before) == {"table.md", "trust.md", "scores.json"}
    disk.fill()
    writers = (
        lambda: write_report(results, disk.path),
        lambda: write_trust(results.runs, 0, disk.path),
        lambda: write_scores(results, disk.path / "scores.json"),
        lambda: draw_plots(results.runs, disk.path),
    )
    for one in writers:
        with pytest.raises(OutputError):
            one()
    assert {path.name: path.read_bytes() for path in disk.path.iterdir() if path.name != "filler"} == before


def test_forgetting_runs_on_a_full_disk_forgets_none(disk: Any, make_run: Any) -> None:
    log = RecordedRuns(disk.path)
    for number in range(20):
        log.add(make_run(method="copy" if number % 2 else "affine", target=str(number)))
    before = (disk.path / LOG).read_bytes()
    disk.fill()
    with pytest.raises(OutputError):
        log.forget(["copy"])
    assert (disk.path / LOG).read_bytes() == before


def test_a_benchmark_that_was_stopped_before_its_first_run_is_known_as_one(tmp_path: Path) -> None:
    RecordedRuns(tmp_path)
    (tmp_path / "table.md").write_text("empty")
    require_own(tmp_path, LOG, ["table.md"])
