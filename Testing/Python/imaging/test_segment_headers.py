"""Headers of .seg.nrrd files in which something is missing, double or out of order: segments are told by fields, not by place."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from RAUSlicerLib.errors import InputError
from RAUSlicerLib.imaging.files import read_segmentation, read_volume, write_segmentation

NAMES = ("ventricle", "muscle", "fat")


def voxels() -> np.ndarray:
    array = np.zeros((4, 5, 6), np.uint8)
    array[0], array[1], array[2, :2] = 1, 2, 3
    return array


def fields_of(
    numbers: tuple[int, ...] = (0, 1, 2), layers: tuple[int, ...] = (0, 0, 0), labels: tuple[int, ...] = (1, 2, 3)
) -> dict[str, str]:
    fields = {"Segmentation_MasterRepresentation": "Binary labelmap"}
    for number, name, layer, label in zip(numbers, NAMES, layers, labels, strict=True):
        fields |= {f"Segment{number}_ID": f"S_{name}", f"Segment{number}_Name": name, f"Segment{number}_Color": "1 0 0"}
        fields |= {f"Segment{number}_Layer": str(layer), f"Segment{number}_LabelValue": str(label)}
    return fields


def save(path: Path, fields: dict[str, str], layers: list[np.ndarray] | None = None) -> Path:
    images = [sitk.GetImageFromArray(layer) for layer in layers or [voxels()]]
    image = images[0] if len(images) == 1 else sitk.Compose(images)
    for key, value in fields.items():
        image.SetMetaData(key, value)
    sitk.WriteImage(image, str(path))
    return path


def found(path: Path) -> dict[str, int]:
    segmentation = read_segmentation(path)
    return {structure.name: int(segmentation.array(structure).sum()) for structure in segmentation.structures}


RIGHT = {"ventricle": 30, "muscle": 30, "fat": 12}


@pytest.mark.parametrize("numbers", [(0, 1, 2), (0, 2, 3), (1, 2, 3), (5, 9, 100), (0, 1, 17), (2, 10, 11)])
def test_gaps_in_the_numbering_lose_no_segment(numbers, tmp_path, caplog):
    assert found(save(tmp_path / "a.seg.nrrd", fields_of(numbers))) == RIGHT
    assert caplog.text == ""
    with pytest.raises(InputError, match="is a segmentation"):
        read_volume(tmp_path / "a.seg.nrrd")


@pytest.mark.parametrize("missing", [["Segment0_Layer"], ["Segment1_Layer"], ["Segment0_Layer", "Segment1_Layer", "Segment2_Layer"]])
@pytest.mark.parametrize("numbers", [(0, 1, 2)])
def test_of_a_single_layer_no_segment_need_say_so(missing, numbers, tmp_path):
    fields = {key: value for key, value in fields_of(numbers).items() if key not in missing}

    assert found(save(tmp_path / "a.seg.nrrd", fields)) == RIGHT


@pytest.mark.parametrize("number", [0, 1, 2])
@pytest.mark.parametrize("field", ["Layer", "LabelValue"])
def test_a_missing_layer_or_label_is_the_one_that_is_left(number, field, tmp_path):
    first, second = voxels(), np.zeros_like(voxels())
    second[first == 3] = 1
    first[first == 3] = 0
    fields = fields_of(layers=(0, 0, 1), labels=(1, 2, 1))
    del fields[f"Segment{number}_{field}"]

    assert found(save(tmp_path / "a.seg.nrrd", fields, [first, second])) == RIGHT


@pytest.mark.parametrize("missing", ["LabelValue", "Layer"])
def test_segments_that_can_not_be_told_apart_are_refused(missing, tmp_path):
    first, second = voxels(), voxels()
    fields = fields_of(layers=(0, 0, 1))
    for number in (0, 1):
        del fields[f"Segment{number}_{missing}"]

    with pytest.raises(InputError, match="does not say which voxels are those of 'ventricle'"):
        read_segmentation(save(tmp_path / "a.seg.nrrd", fields, [first, second]))


@pytest.mark.parametrize("dropped", [0, 1, 2])
def test_voxels_without_a_segment_are_kept_and_told(dropped, tmp_path, caplog):
    fields = {key: value for key, value in fields_of().items() if not key.startswith(f"Segment{dropped}_")}

    name = NAMES[dropped]
    expected = {key: count for key, count in RIGHT.items() if key != name} | {f"label {dropped + 1}": RIGHT[name]}
    assert found(save(tmp_path / "a.seg.nrrd", fields)) == expected
    assert f"'label {dropped + 1}'" in caplog.text and "no segment" in caplog.text


def test_segments_of_the_same_voxels_are_told(tmp_path, caplog):
    found(save(tmp_path / "a.seg.nrrd", fields_of(labels=(1, 2, 2))))

    assert "'muscle', 'fat' are the same voxels" in caplog.text


@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.float32])
@pytest.mark.parametrize("described", [True, False], ids=["newer", "older"])
def test_fractional_segments_are_refused(kind, described, tmp_path):
    fields = fields_of() | {"Segmentation_MasterRepresentation": "Fractional labelmap"}
    if not described:
        fields = {key: value for key, value in fields.items() if not key.endswith(("_Layer", "_LabelValue"))}
    shares = [(voxels() == number).astype(kind) * 100 for number in (1, 2, 3)]

    with pytest.raises(InputError, match="holds fractions") as caught:
        read_segmentation(save(tmp_path / "a.seg.nrrd", fields, shares))
    assert "binary label map" in caught.value.solution


@pytest.mark.parametrize("numbers", [(0, 1, 2), (0, 2, 3)])
def test_older_files_have_a_layer_for_each_segment(numbers, tmp_path):
    fields = {key: value for key, value in fields_of(numbers).items() if not key.endswith(("_Layer", "_LabelValue"))}
    masks = [(voxels() == number).astype(np.uint8) for number in (1, 2, 3)]

    assert found(save(tmp_path / "a.seg.nrrd", fields, masks)) == RIGHT


def test_a_layer_of_an_older_file_without_a_segment_is_kept_and_told(tmp_path, caplog):
    fields = {key: value for key, value in fields_of().items() if not key.endswith(("_Layer", "_LabelValue")) and "Segment1" not in key}
    masks = [(voxels() == number).astype(np.uint8) for number in (1, 2, 3)]

    assert found(save(tmp_path / "a.seg.nrrd", fields, masks)) == {"ventricle": 30, "layer 1": 30, "fat": 12}
    assert "'layer 1'" in caplog.text


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("LabelValue", value) for value in ("0", "-1", "nan", "1.5", "", "4294967296", "9" * 400)),
        *(("Layer", value) for value in ("1", "-1", "nan", "", "99999999999")),
    ],
)
def test_fields_that_are_no_numbers_are_refused(field, value, tmp_path):
    with pytest.raises(InputError, match="damaged"):
        read_segmentation(save(tmp_path / "a.seg.nrrd", fields_of() | {f"Segment1_{field}": value}))


@pytest.mark.parametrize("color", ["red", "a b c", "1 0 x", "nan 0 0", "nan nan nan", "1e400 0 0", "1 0", "1 0 0 1"])
def test_a_color_that_is_none_costs_the_color_alone(color, tmp_path, caplog):
    path = save(tmp_path / "a.seg.nrrd", fields_of() | {"Segment1_Color": color})

    with caplog.at_level(logging.WARNING):
        assert found(path) == RIGHT

    assert ["'muscle'" in record.getMessage() and "no color" in record.getMessage() for record in caplog.records] == [True]


@pytest.mark.parametrize("color", ["nan 0 0", "0 inf 0", "1e400 0 0", "-5 2 0", "", "1 0", "red"])
def test_colors_are_always_numbers_from_0_to_1(color, tmp_path):
    path = save(tmp_path / "a.seg.nrrd", fields_of() | {"Segment1_Color": color})
    structures = read_segmentation(path).structures

    assert all(0 <= channel <= 1 for structure in structures for channel in structure.color or ())
    write_segmentation(read_segmentation(path), tmp_path / "b.seg.nrrd", read_segmentation(path).labelmap)


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("s_gap1", {"RV": 7878, "LV": 11334, "label 2": 7858}),
        ("s_nolayer0", {"RV": 7878, "Myo": 7858, "LV": 11334}),
        ("s_orphan", {"RV": 7878, "Myo": 7858, "label 3": 11334}),
        ("s_fractional_old", None),
    ],
)
def test_the_files_that_once_failed(name, expected, data_folder):
    path = data_folder.parent / "cases" / f"{name}.seg.nrrd"
    if not path.is_file():
        pytest.skip(f"no such file: {path}")
    if expected is None:
        with pytest.raises(InputError, match="fractions"):
            read_segmentation(path)
    else:
        assert found(path) == expected


@pytest.mark.parametrize("fields", [{}, {"Segment0_ID": "S_a", "Segment0_Name": "a"}], ids=["no segments", "no label values"])
def test_labels_that_no_segment_describes_are_structures_of_their_own(fields, tmp_path, caplog):
    path = save(tmp_path / "a.seg.nrrd", {"Segmentation_MasterRepresentation": "Binary labelmap", **fields})
    assert found(path) == {"label 1": 30, "label 2": 30, "label 3": 12}
    assert "belong to no segment" in caplog.text


def test_layers_of_labels_without_segments_are_told_apart_too(tmp_path):
    other = np.where(voxels() == 3, 7, 0).astype(np.uint8)
    path = save(tmp_path / "a.seg.nrrd", {"Segmentation_MasterRepresentation": "Binary labelmap"}, [voxels(), other])
    assert found(path) == {"label 1": 30, "label 2": 30, "label 3": 12, "label 7": 12}
