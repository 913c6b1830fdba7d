"""Label maps in plain image files: names, colors, pixel types and what is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest
import SimpleITK as sitk

from RAUSlicerLib.errors import InputError, OutputError
from RAUSlicerLib.imaging.files import read_segmentation, write_segmentation
from RAUSlicerLib.imaging.label_values import numbered, value_counts
from RAUSlicerLib.imaging.palette import label_color
from RAUSlicerLib.imaging.segmentation import Segmentation, Structure

from .builders import grids_agree, make_segmentation

FORMATS = ["seg.nii.gz", "seg.nii", "seg.nrrd", "seg.mha", "SEG.NII.GZ"]


@pytest.mark.parametrize("name", FORMATS)
def test_labels_and_geometry_come_back_exactly(volume, name, tmp_path):
    segmentation = make_segmentation(volume)
    write_segmentation(segmentation, tmp_path / name, volume)

    read = read_segmentation(tmp_path / name)

    assert [s.label for s in read.structures] == [3, 7, 12, 300]
    np.testing.assert_array_equal(sitk.GetArrayFromImage(read.labelmap), sitk.GetArrayFromImage(segmentation.labelmap))
    grids_agree(read.labelmap, volume)


def test_structures_are_named_by_the_labels_file_and_by_their_value(volume, tmp_path):
    (tmp_path / "labels.json").write_text(json.dumps({"3": "Leber", "7": "nádor"}), encoding="utf-8")
    write_segmentation(make_segmentation(volume), tmp_path / "seg.nii.gz", volume)

    read = read_segmentation(tmp_path / "seg.nii.gz")

    assert [s.name for s in read.structures] == ["Leber", "nádor", "label 12", "label 300"]


def test_a_label_has_the_same_color_in_every_file_and_neighbours_differ():
    colors = np.array([label_color(label) for label in range(1, 200)])

    assert len({tuple(color) for color in colors}) == len(colors)
    assert np.abs(colors[1:] - colors[:-1]).max(axis=1).min() > 0.25
    np.testing.assert_array_equal(np.rint(colors * 255), colors * 255)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int8, np.int64, np.uint64])
def test_whole_numbers_of_any_type_are_labels(dtype, tmp_path):
    array = np.zeros((4, 5, 6), dtype)
    array[1, 2, 3] = 9
    sitk.WriteImage(sitk.GetImageFromArray(array), str(tmp_path / "seg.nrrd"))

    read = read_segmentation(tmp_path / "seg.nrrd")

    assert read.labelmap.GetPixelID() == sitk.sitkUInt8
    assert [s.label for s in read.structures] == [9]
    np.testing.assert_array_equal(sitk.GetArrayFromImage(read.labelmap), array)


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (np.linspace(0, 1, 120, dtype=np.float32), "fractions"),
        (np.where(np.arange(120) > 5, np.nan, 1.0), "fractions or undefined"),
        (np.arange(-60, 60, dtype=np.int16), "negative values, down to -60"),
        (np.arange(120, dtype=np.float64) * 1e9, "values up to"),
        (np.where(np.arange(120) > 5, 1.02, 0), "fractions"),
        (np.where(np.arange(120) > 5, np.inf, 1.0), "fractions or undefined"),
        (np.where(np.arange(120) > 5, -1, 2).astype(np.float32), "negative values, down to -1"),
        (np.where(np.arange(120) > 5, 1 << 32, 2), "values up to 4294967296"),
    ],
)
def test_what_is_no_label_map_is_refused(array, reason, tmp_path):
    sitk.WriteImage(sitk.GetImageFromArray(array.reshape(4, 5, 6)), str(tmp_path / "seg.nrrd"))

    with pytest.raises(InputError, match=reason):
        read_segmentation(tmp_path / "seg.nrrd")


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("off", [5e-5, -5e-5, 1e-3, -9e-3])
@pytest.mark.parametrize("name", ["seg.nii.gz", "seg.nrrd", "seg.mha", "a.seg.nrrd"])
def test_labels_that_are_whole_but_for_rounding_are_made_whole_and_that_is_told(dtype, off, name, tmp_path, caplog):
    labels = np.arange(120).reshape(4, 5, 6) % 4
    image = sitk.GetImageFromArray((labels + off * (labels == 3) + off * (labels == 0)).astype(dtype))
    if name == "a.seg.nrrd":
        for number in (1, 2, 3):
            for key, text in {"ID": f"S{number}", "LabelValue": str(number), "Layer": "0"}.items():
                image.SetMetaData(f"Segment{number}_{key}", text)
    sitk.WriteImage(image, str(tmp_path / name))

    read = read_segmentation(tmp_path / name)

    assert [s.label for s in read.structures] == [1, 2, 3]
    np.testing.assert_array_equal(sitk.GetArrayFromImage(read.labelmap), labels)
    assert "off whole numbers" in caplog.text and name in caplog.text


@pytest.mark.parametrize("labels", [(1, 65536), (70000, 70001), (614454277, 997, 312782574), (1, 4294967295)])
@pytest.mark.parametrize("name", ["seg.nii.gz", "seg.nrrd", "seg.mha", "a.seg.nrrd"])
def test_labels_of_any_size_are_read_and_written(labels, name, tmp_path):
    array = np.zeros((4, 5, 6), np.uint32)
    array.flat[: len(labels)] = labels
    image = sitk.GetImageFromArray(array)
    sitk.WriteImage(image, str(tmp_path / "in.nrrd"))

    read = read_segmentation(tmp_path / "in.nrrd")
    write_segmentation(read, tmp_path / name, image)

    again = read_segmentation(tmp_path / name)
    assert sorted(s.label for s in again.structures) == sorted(labels)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(again.labelmap), array)
    assert value_counts(array) == dict.fromkeys(sorted(labels), 1)


def test_numbers_in_the_order_of_labels_of_any_size():
    values = np.array([[0, 4294967295], [7, 614454277]], np.uint32)

    np.testing.assert_array_equal(numbered(values, [614454277, 7, 4294967295, 5]), [[0, 3], [2, 1]])
    np.testing.assert_array_equal(numbered(values, []), np.zeros((2, 2)))


def test_an_image_given_as_label_map_is_refused(tmp_path):
    sitk.WriteImage(sitk.GetImageFromArray(np.arange(12 * 10 * 10, dtype=np.int16).reshape(12, 10, 10)), str(tmp_path / "seg.nrrd"))

    with pytest.raises(InputError, match="1199 different values"):
        read_segmentation(tmp_path / "seg.nrrd")


def test_overlapping_structures_are_not_written_to_a_label_map(volume, tmp_path):
    segmentation = make_segmentation(volume, overlapping=True)
    with_empty_layer = segmentation.map_layers((*segmentation.layers, segmentation.labelmap * 0))

    with pytest.raises(OutputError, match="overlap") as caught:
        write_segmentation(with_empty_layer, tmp_path / "seg.nii.gz", volume)

    assert ".seg.nrrd" in caught.value.solution
    assert list(tmp_path.iterdir()) == []


def test_structures_that_share_a_label_value_are_not_written_to_a_label_map(volume, tmp_path):
    segmentation = make_segmentation(volume)
    twin = Segmentation(segmentation.labelmap, (*segmentation.structures, Structure(3, "twin", layer=1)), (segmentation.labelmap * 0,))

    with pytest.raises(OutputError, match="share a label value"):
        write_segmentation(twin, tmp_path / "seg.nii.gz", volume)


def test_layers_that_do_not_overlap_become_one_label_map(volume, tmp_path):
    segmentation = make_segmentation(volume, overlapping=True)
    free = sitk.Mask(segmentation.overlays[0], segmentation.labelmap == 0)
    write_segmentation(segmentation.map_layers((segmentation.labelmap, free)), tmp_path / "seg.nii.gz", volume)

    read = read_segmentation(tmp_path / "seg.nii.gz")

    merged = sitk.GetArrayFromImage(segmentation.labelmap) + sitk.GetArrayFromImage(free)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(read.labelmap), merged)
