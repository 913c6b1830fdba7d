"""The file of data sets: what is refused, and what it says of cases."""

import json
from pathlib import Path

import pytest

from RAUSlicerLib.errors import InputError
from RAUSlicerLib.training import datasets

MINE = Path("mine.yaml")


def test_shipped_sets_name_their_licence_and_a_label_set_that_exists(tmp_path: Path) -> None:
    shipped = datasets.shipped(tmp_path)
    assert all(entry.licence and entry.what and entry.share for entry in shipped.sets.values()) and shipped.licence
    columns = [shipped.columns(name) for name in shipped.label_sets]
    assert [c.start for c in columns[1:]] == [c.stop for c in columns[:-1]] and columns[0].start == 0
    # A checkpoint keeps its classifiers in this order.
    assert list(shipped.label_sets)[:3] == ["brain", "abdomen", "heart"]
    assert list(shipped.shares("refiner")) == ["brain_t1", "abdomen_ct", "heart_mr"]


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ({"labels": "toes"}, "no label set 'toes'"),
        ({"patch": [64, 64, 50]}, "multiples of 16"),
        ({"patch": [64, 64]}, "list of 3"),
        ({"lables": "brain"}, "Did you mean 'datasets.mine.labels'"),
        ({"share": {"matchin": 1}}, "Did you mean 'datasets.mine.share.matching'"),
        ({"share": -1}, "datasets.mine.share.matching"),
        ({"segmentation": "labels.nii.gz"}, "where the name of a case stands"),
        ({"image": "{case}.nrrd"}, "segmentation' is missing"),
        ({"partner": "other"}, "no data set 'other'"),
        (["a"], "no mapping"),
    ],
)
def test_what_makes_no_sense_is_refused_with_the_reason(entry: object, reason: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=reason):
        datasets.parse({"label_sets": {"brain": 3}, "datasets": {"mine": entry}}, MINE, tmp_path)


def test_a_name_that_no_network_can_have_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="letters, digits"):
        datasets.parse({"datasets": {"my.set": {}}}, MINE, tmp_path)


def test_cases_come_from_the_file_else_from_the_splits_else_from_the_folder(tmp_path: Path) -> None:
    for name in ("one", "two", "three"):
        (tmp_path / name / "labels").mkdir(parents=True)
        (tmp_path / name / "labels" / "b.nrrd").touch()
    splits = {name: {"train": ["a"], "val": ["v"], "rescan": {"a2": "a"}} for name in ("one", "two")}
    (tmp_path / "splits.json").write_text(json.dumps(splits))
    files = {"image": "images/{case}.nrrd", "segmentation": "labels/{case}.nrrd"}
    entries = {"one": files | {"train": ["x", "y"], "held_out": ["y"]}, "two": files, "three": files}
    found = datasets.parse({"datasets": entries}, MINE, tmp_path)
    assert [found[name].cases("train") for name in entries] == [("x",), ("a",), ("b",)]
    assert [found[name].cases("val") for name in entries] == [(), ("v",), ()]
    assert found["three"].image_of("b") == tmp_path / "three" / "images" / "b.nrrd"
    # Frames and rescans are of one person.
    assert found["two"].person("a2") == found["two"].person("a_frame03") == "a"


def test_a_set_without_a_label_set_gets_its_own_and_a_network_that_goes_on_keeps_what_it_knew(tmp_path: Path) -> None:
    values = {"datasets": {"knees": {"names": {1: "femur", 4: "tibia"}}, "odd": {"labels": "none"}}}
    own = datasets.parse(values, MINE, tmp_path)
    assert own.label_sets == {"knees": 5} and own["odd"].labels is None
    on = own.continuing((228, 14))
    assert list(on.label_sets.values()) == [228, 14, 5] and on.columns("knees") == slice(242, 247)
    assert on.continuing((228, 14)) is on


def test_splits_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    (tmp_path / "splits.json").write_text("[1]")
    with pytest.raises(InputError, match=r"splits\.json"):
        datasets.parse({"datasets": {"mine": {}}}, MINE, tmp_path)
