"""The file of data sets: what is refused, and what it says of cases."""

import numpy as np
import pytest
import SimpleITK as sitk
import yaml

from RAUSlicerLib.training import datasets
from RAUSlicerLib.training.cases import IGNORE, load_case, load_label_map


def test_shipped_sets_name_their_licence_and_a_label_set_that_exists() -> None:
    shipped = datasets.shipped()
    assert all(entry.licence and entry.what for entry in shipped.datasets.values())
    columns = [shipped.columns(name) for name in shipped.label_sets]
    assert [c.start for c in columns[1:]] == [c.stop for c in columns[:-1]] and columns[0].start == 0
    # A checkpoint keeps its classifiers in this order.
    assert list(shipped.label_sets)[:3] == ["brain", "abdomen", "heart"]


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ({"patch": [64, 64, 64], "labels": "toes"}, "no label set 'toes'"),
        ({"patch": [64, 64, 50]}, "multiples of 16"),
        ({"patch": [64, 64]}, "multiples of 16"),
        ({"patch": [64, 64, 64], "lables": "brain"}, "unknown keys lables"),
    ],
)
def test_what_makes_no_sense_is_refused_with_the_reason(entry: dict, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        datasets.parse({"label_sets": {"brain": 3}, "datasets": {"mine": entry}})


def _written(folder, labels: np.ndarray, image: bool = True):
    folder.mkdir()
    for suffix, values in (("_seg", labels), *([("", labels * 10.0 + 5)] if image else [])):
        sitk.WriteImage(sitk.GetImageFromArray(values.astype(np.float32 if not suffix else np.uint8)), str(folder / f"a{suffix}.nii.gz"))
    return folder


def test_structures_that_a_planner_left_out_or_ended_early_are_unknown_there(tmp_path) -> None:
    values = yaml.safe_load(datasets.SHIPPED.read_text())
    values["label_sets"]["mine"] = 4
    values["datasets"]["necks"] = {"labels": "mine", "patch": [64, 64, 64], "unmarked": True, "open_ended": [2]}
    labels = np.zeros((12, 20, 20), np.uint8)
    labels[:, 5:10, 5:10] = 1
    labels[4:8, 12:15, 12:15] = 2
    case = load_case(_written(tmp_path / "necks", labels), "a", "a", datasets=datasets.parse(values))
    assert case.unmarked == (3,)
    known = case.labels.numpy()
    assert (known[4:8] != IGNORE).all() and set(np.unique(known[:4])) == {1, IGNORE} and set(np.unique(known[8:])) == {1, IGNORE}


def test_a_label_map_without_an_image_is_a_case_to_make_scans_from(tmp_path) -> None:
    labels = np.zeros((12, 20, 20), np.uint8)
    labels[3:9, 5:15, 5:15] = 3
    case = load_label_map(_written(tmp_path / "labelmaps_knee", labels, image=False), "a")
    assert case.synthetic and case.filled and set(case.centroids) == {3}
