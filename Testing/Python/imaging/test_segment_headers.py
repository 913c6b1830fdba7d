"""Headers of .seg.nrrd files in which something is missing, double or out of order: segments are told by fields, not by place."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from RAUSlicerLib.errors import InputError
from RAUSlicerLib.imaging.files import read_segmentation, read_volume, write_segmentation

NAMES = ("ventricle", "muscle", "fat")
RIGHT = {"ventricle": 30, "muscle": 30, "fat": 12}
VOXELS = np.zeros((4, 5, 6), np.uint8)
VOXELS[0], VOXELS[1], VOXELS[2, :2] = 1, 2, 3
MASKS = [(number == VOXELS).astype(np.uint8) for number in (1, 2, 3)]
BINARY = {"Segmentation_MasterRepresentation": "Binary labelmap"}


def fields_of(
    numbers: Sequence[int] = (0, 1, 2),
    layers: Sequence[int] = (0, 0, 0),
    labels: Sequence[int] = (1, 2, 3),
    without: Callable[[str], bool] = lambda _key: False,
) -> dict[str, str]:
    fields = dict(BINARY)
    for number, name, layer, label in zip(numbers, NAMES, layers, labels, strict=True):
        fields |= {f"Segment{number}_ID": f"S_{name}", f"Segment{number}_Name": name, f"Segment{number}_Color": "1 0 0"}
        fields |= {f"Segment{number}_Layer": str(layer), f"Segment{number}_LabelValue": str(label)}
    return {key: value for key, value in fields.items() if not without(key)}


def of_the_older_form(key: str) -> bool:
    return key.endswith(("_Layer", "_LabelValue"))


@pytest.fixture
def save(tmp_path) -> Callable[..., Path]:
    """save(fields, layers): a file with this header."""

    def write(fields: dict[str, str], layers: Sequence[np.ndarray] = (VOXELS,)) -> Path:
        images = [sitk.GetImageFromArray(layer) for layer in layers]
        image = images[0] if len(images) == 1 else sitk.Compose(images)
        for key, value in fields.items():
            image.SetMetaData(key, value)
        sitk.WriteImage(image, str(tmp_path / "a.seg.nrrd"))
        return tmp_path / "a.seg.nrrd"

    return write


def found(path: Path) -> dict[str, int]:
    segmentation = read_segmentation(path)
    return {structure.name: int(segmentation.array(structure).sum()) for structure in segmentation.structures}


@pytest.mark.parametrize("numbers", [(0, 1, 2), (0, 2, 3), (1, 2, 3), (5, 9, 100), (0, 1, 17), (2, 10, 11)])
def test_gaps_in_the_numbering_lose_no_segment(save, numbers, caplog):
    path = save(fields_of(numbers))

    assert found(path) == RIGHT
    assert caplog.text == ""
    with pytest.raises(InputError, match="is a segmentation"):
        read_volume(path)


@pytest.mark.parametrize("missing", ["Segment0_Layer", "Segment1_Layer", "_Layer"])
def test_of_a_single_layer_no_segment_need_say_so(save, missing):
    assert found(save(fields_of(without=lambda key: key.endswith(missing)))) == RIGHT


@pytest.mark.parametrize("number", [0, 1, 2])
@pytest.mark.parametrize("field", ["Layer", "LabelValue"])
def test_a_missing_layer_or_label_is_the_one_that_is_left(save, number, field):
    fields = fields_of(layers=(0, 0, 1), labels=(1, 2, 1), without=lambda key: key == f"Segment{number}_{field}")

    assert found(save(fields, [np.where(VOXELS == 3, 0, VOXELS), MASKS[2]])) == RIGHT


@pytest.mark.parametrize("missing", ["LabelValue", "Layer"])
def test_segments_that_can_not_be_told_apart_are_refused(save, missing):
    fields = fields_of(layers=(0, 0, 1), without=lambda key: key in (f"Segment0_{missing}", f"Segment1_{missing}"))

    with pytest.raises(InputError, match="does not say which voxels are those of 'ventricle'"):
        read_segmentation(save(fields, [VOXELS, VOXELS]))


@pytest.mark.parametrize("dropped", [0, 1, 2])
def test_voxels_without_a_segment_are_kept_and_told(save, dropped, caplog):
    name = NAMES[dropped]
    expected = {key: count for key, count in RIGHT.items() if key != name} | {f"label {dropped + 1}": RIGHT[name]}

    assert found(save(fields_of(without=lambda key: key.startswith(f"Segment{dropped}_")))) == expected
    assert f"'label {dropped + 1}'" in caplog.text and "no segment" in caplog.text


def test_segments_of_the_same_voxels_are_told(save, caplog):
    found(save(fields_of(labels=(1, 2, 2))))

    assert "'muscle', 'fat' are the same voxels" in caplog.text


@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.float32])
@pytest.mark.parametrize("older", [False, True])
def test_fractional_segments_are_refused(save, kind, older):
    fields = fields_of(without=of_the_older_form) if older else fields_of()
    fields["Segmentation_MasterRepresentation"] = "Fractional labelmap"

    with pytest.raises(InputError, match="holds fractions") as caught:
        read_segmentation(save(fields, [mask.astype(kind) * 100 for mask in MASKS]))
    assert "binary label map" in caught.value.solution


@pytest.mark.parametrize("numbers", [(0, 1, 2), (0, 2, 3)])
def test_older_files_have_a_layer_for_each_segment(save, numbers):
    assert found(save(fields_of(numbers, without=of_the_older_form), MASKS)) == RIGHT


def test_a_layer_of_an_older_file_without_a_segment_is_kept_and_told(save, caplog):
    fields = fields_of(without=lambda key: of_the_older_form(key) or "Segment1" in key)

    assert found(save(fields, MASKS)) == {"ventricle": 30, "layer 1": 30, "fat": 12}
    assert "'layer 1'" in caplog.text


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("LabelValue", value) for value in ("0", "-1", "nan", "1.5", "", "4294967296", "9" * 400)),
        *(("Layer", value) for value in ("1", "-1", "nan", "", "99999999999")),
    ],
)
def test_fields_that_are_no_numbers_are_refused(save, field, value):
    with pytest.raises(InputError, match="damaged"):
        read_segmentation(save(fields_of() | {f"Segment1_{field}": value}))


@pytest.mark.parametrize(
    ("color", "told"),
    [
        *((color, True) for color in ("red", "a b c", "1 0 x", "nan 0 0", "0 inf 0", "nan nan nan", "1e400 0 0", "1 0", "1 0 0 1")),
        *((color, False) for color in ("-5 2 0", "")),
    ],
)
def test_a_color_that_is_none_costs_the_color_alone_and_all_are_from_0_to_1(save, color, told, tmp_path, caplog):
    path = save(fields_of() | {"Segment1_Color": color})

    assert found(path) == RIGHT

    assert ["'muscle'" in record.getMessage() and "no color" in record.getMessage() for record in caplog.records] == [True] * told
    read = read_segmentation(path)
    assert all(0 <= channel <= 1 for structure in read.structures for channel in structure.color or ())
    write_segmentation(read, tmp_path / "b.seg.nrrd", read.labelmap)


@pytest.mark.parametrize("fields", [{}, {"Segment0_ID": "S_a", "Segment0_Name": "a"}], ids=["no segments", "no label values"])
def test_labels_that_no_segment_describes_are_structures_of_their_own(save, fields, caplog):
    assert found(save(BINARY | fields)) == {"label 1": 30, "label 2": 30, "label 3": 12}
    assert "belong to no segment" in caplog.text


def test_layers_of_labels_without_segments_are_told_apart_too(save):
    other = np.where(VOXELS == 3, 7, 0).astype(np.uint8)
    assert found(save(BINARY, [VOXELS, other])) == {"label 1": 30, "label 2": 30, "label 3": 12, "label 7": 12}


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
