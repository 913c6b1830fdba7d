"""JSON from outside never ends a program, and what is written is JSON: nested, endless and impossible values at every door."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from RAUSlicerLib.cli import demo
from RAUSlicerLib.errors import InputError, ModelError, OutputError
from RAUSlicerLib.evaluation.pairs import choose_trials, read_structure_names
from RAUSlicerLib.evaluation.records import read_lines
from RAUSlicerLib.full_size.answers_text import MalformedAnswer, read_name
from RAUSlicerLib.imaging.label_names import find_names
from RAUSlicerLib.models import folders
from RAUSlicerLib.models.manifest import read_json
from RAUSlicerLib.support import strict_json
from RAUSlicerLib.support.outputs import json_text, write_json
from RAUSlicerLib.training import recipe

NESTED = ("[" * 200_000, '{"a":' * 200_000, "[" * 200_000 + "]" * 200_000)
BAD = (*NESTED, '{"1": NaN', "1" * 10_000, "\x00", "", '"half')


def refuse(error: type[Exception], read: Callable[[Path], Any]) -> Callable[[Path], None]:
    def attempt(path: Path) -> None:
        with pytest.raises(error):
            read(path)

    return attempt


def ignore(read: Callable[[Path], Any]) -> Callable[[Path], None]:
    def attempt(path: Path) -> None:
        assert not read(path)

    return attempt


DOORS: dict[str, Callable[[Path], None]] = {
    "model file": refuse(ModelError, read_json),
    "names of a data set": refuse(InputError, read_structure_names),
    "splits": refuse(InputError, lambda path: choose_trials(path.parent, "val", None, None)),
    "benchmark": refuse(OutputError, lambda path: read_lines(_with_line_end(path), dict)),
    "demo": ignore(demo._is_demos),
    "recipe": ignore(recipe._read),
    "names beside a mask": ignore(lambda path: find_names(path.with_name("mask.mha"), [1])),
    "answer of a model": refuse(MalformedAnswer, lambda path: read_name(path.read_text(), ["liver"])),
}


def _with_line_end(path: Path) -> Path:
    path.write_text(path.read_text() + "\n")
    return path


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("text", BAD, ids=lambda text: f"{len(text)} {text[:5]!r}")
def test_json_from_outside_is_refused_in_words_at_every_door(door, text, tmp_path):
    path = tmp_path / ("splits.json" if door == "splits" else "labels.json")
    path.write_text(text)

    DOORS[door](path)


def test_a_damaged_record_of_checked_models_is_made_anew(tmp_path, monkeypatch):
    monkeypatch.setattr(folders, "user_folder", lambda: tmp_path)
    for text in BAD:
        (tmp_path / ".checked.json").write_text(text)
        assert folders._record() == {}


def test_a_configuration_of_another_library_may_hold_numbers_that_json_lacks(tmp_path):
    (tmp_path / "c.json").write_text('{"model_max_length": 1000000000000000019884624838656, "limits": [0.0, Infinity]}')

    assert read_json(tmp_path / "c.json") == {"model_max_length": 1000000000000000019884624838656, "limits": [0.0, math.inf]}


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_is_written_as_null(number, tmp_path):
    document = {"volume": number, "rows": [(1.5, number), {"é": number}]}
    expected = {"volume": None, "rows": [[1.5, None], {"é": None}]}
    write_json(tmp_path / "o.json", "file", document)

    assert strict_json.load(tmp_path / "o.json") == expected
    assert strict_json.loads(json_text(document, "ascii")) == expected
    assert json.loads(strict_json.dumps(document)) == expected
