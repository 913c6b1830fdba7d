import os
from pathlib import Path

import pytest

from RAUSlicerLib.errors import InputError
from RAUSlicerLib.evaluation.pairs import choose_trials, scored_labels, wrong_part_trials


def test_trials_are_the_same_every_time_and_start_with_every_target(tiny_data: Path) -> None:
    trials = choose_trials(tiny_data, "val", None, None)
    assert trials == choose_trials(tiny_data, "val", None, None)
    assert [(trial.domain, trial.target.name) for trial in trials[:4]] == [
        ("bodies", "x"),
        ("bodies", "y"),
        ("others", "x"),
        ("others", "y"),
    ]
    bodies = [trial for trial in trials if trial.domain == "bodies"]
    for target in "xy":
        references = [trial.references[0].name for trial in bodies if trial.target.name == target]
        assert len(set(references)) == 3 and set(references) <= set("abcd")


def test_variants_take_the_first_reference_and_come_before_the_second_one(tiny_data: Path) -> None:
    trials = choose_trials(tiny_data, "val", ["bodies"], None, ("natural", "rotated"))
    assert [trial.variant for trial in trials] == ["natural"] * 2 + ["rotated"] * 2 + ["natural"] * 4
    assert [trial.references for trial in trials[2:4]] == [trial.references for trial in trials[:2]]


def test_several_references_are_the_single_ones_together(tiny_data: Path) -> None:
    trials = choose_trials(tiny_data, "val", ["bodies"], None, counts=(1, 3))
    together = trials[-2:]
    for trial in together:
        single = [one.references[0] for one in trials[:-2] if one.target == trial.target]
        assert list(trial.references) == single
    assert choose_trials(tiny_data, "val", ["bodies"], None, counts=(3,)) == together


@pytest.mark.parametrize(("limit", "expected"), [(1, ["x"]), (3, ["x", "y", "x"])])
def test_limit_counts_pairs_of_each_domain(tiny_data: Path, limit: int, expected: list[str]) -> None:
    trials = choose_trials(tiny_data, "val", None, limit)
    for domain in ("bodies", "others"):
        assert [trial.target.name for trial in trials if trial.domain == domain] == expected


def test_a_wrong_part_of_the_body_comes_from_every_other_domain(tiny_data: Path) -> None:
    trials = wrong_part_trials(tiny_data, "val", None, 1)
    assert [(trial.domain, trial.references[0].domain) for trial in trials] == [("bodies", "others"), ("others", "bodies")]
    assert all(trial.wrong_part and trial.reference_names[0].startswith(trial.references[0].domain + "/") for trial in trials)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("val", ["unsplit"], None), "'unsplit'"),
        (("test", None, None), "'test'"),
        (("val", None, None, ("upside down",)), "'upside down'"),
        (("val", None, None, ("natural",), (4,)), "4 references"),
    ],
)
def test_what_there_is_none_of_is_refused(tiny_data: Path, arguments: tuple, named: str) -> None:
    with pytest.raises(InputError, match=named):
        choose_trials(tiny_data, *arguments)


def test_a_folder_without_splits_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"splits\.json"):
        choose_trials(tmp_path, "val", None, None)


def test_cortical_parcels_of_the_brains_are_not_scored() -> None:
    assert scored_labels("brain_t1", [4, 99, 100, 207]) == [4, 99]
    assert scored_labels("abdomen_ct", [1, 150]) == [1, 150]


@pytest.mark.parametrize(
    "content",
    ['{"val": 5}', "[]", '{"d": {"val": 5}}', '{"d": {"train": "abc", "val": ["a"]}}', '{"d": {"val": [1], "train": [{}]}}', "5", "{"],
)
def test_foreign_splits_are_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "splits.json").write_text(content)
    with pytest.raises(InputError, match=r"splits\.json"):
        choose_trials(tmp_path, "val", None, None)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes of POSIX")
def test_splits_in_a_pipe_are_refused(tmp_path: Path, in_time: None) -> None:
    os.mkfifo(tmp_path / "splits.json")
    with pytest.raises(InputError, match=r"splits\.json"):
        choose_trials(tmp_path, "val", None, None)
