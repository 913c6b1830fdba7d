"""Radiographs in picture files, and masks drawn on them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from RAUSlicerLib.errors import InputError
from RAUSlicerLib.imaging.files import read_segmentation, read_volume, write_segmentation

from .builders import on_grid

GRAY = np.arange(40 * 50, dtype=np.uint16).reshape(40, 50)


def picture(array: np.ndarray, path: Path) -> Path:
    sitk.WriteImage(sitk.GetImageFromArray(array, isVector=array.ndim == 3), str(path))
    return path


def test_a_gray_picture_keeps_its_values_in_16_bits(tmp_path):
    read = read_volume(picture(GRAY, tmp_path / "x.png"))

    assert read.GetSize() == (50, 40, 1)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(read)[0], GRAY)


@pytest.mark.parametrize("channels", [3, 4])
def test_a_gray_picture_saved_in_color_keeps_its_values(channels, tmp_path):
    gray = (GRAY % 251).astype(np.uint8)
    color = np.stack([gray, gray, gray, np.full_like(gray, 255)][:channels], axis=-1)

    read = read_volume(picture(color, tmp_path / "x.png"))

    np.testing.assert_array_equal(sitk.GetArrayFromImage(read)[0], gray)


def test_a_color_picture_becomes_its_luminance(tmp_path):
    color = np.zeros((4, 4, 3), np.uint8)
    color[0, 0], color[1, 1], color[2, 2] = (255, 0, 0), (0, 255, 0), (0, 0, 255)

    read = sitk.GetArrayFromImage(read_volume(picture(color, tmp_path / "x.png")))[0]

    assert (read[0, 0], read[1, 1], read[2, 2], read[3, 3]) == (76, 150, 29, 0)


def test_a_jpeg_is_read_in_gray(tmp_path):
    smooth = np.tile(np.linspace(0, 255, 64), (64, 1)).astype(np.uint8)

    read = sitk.GetArrayFromImage(read_volume(picture(smooth, tmp_path / "x.jpeg")))[0]

    assert np.abs(read.astype(int) - smooth).max() < 10


def test_a_mask_lies_on_its_picture(tmp_path):
    volume = on_grid(sitk.GetImageFromArray(GRAY[np.newaxis]), "oblique")
    labels = np.zeros((40, 50), np.uint8)
    labels[3:9, 4:7], labels[20:, 30:] = 1, 255
    picture(labels, tmp_path / "mask.png")

    read = read_segmentation(tmp_path / "mask.png", volume)

    assert [s.name for s in read.structures] == ["label 1", "label 255"]
    np.testing.assert_array_equal(sitk.GetArrayFromImage(read.labelmap)[0], labels)
    assert read.labelmap.GetDirection() == volume.GetDirection()
    write_segmentation(read, tmp_path / "out.seg.nrrd", volume)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(read_segmentation(tmp_path / "out.seg.nrrd").labelmap)[0], labels)


def test_a_mask_of_another_size_is_refused(tmp_path):
    picture(np.zeros((40, 51), np.uint8), tmp_path / "mask.png")

    with pytest.raises(InputError, match="51 x 40 pixels, the image 50 x 40 x 1"):
        read_segmentation(tmp_path / "mask.png", sitk.GetImageFromArray(GRAY[np.newaxis]))


def test_a_colored_mask_and_a_lossy_mask_are_refused(tmp_path):
    color = np.zeros((40, 50, 3), np.uint8)
    color[3, 3] = (255, 0, 0)
    picture(color, tmp_path / "mask.png")
    picture(np.zeros((40, 50), np.uint8), tmp_path / "mask.jpg")

    with pytest.raises(InputError, match="colour picture"):
        read_segmentation(tmp_path / "mask.png")
    with pytest.raises(InputError, match="no format"):
        read_segmentation(tmp_path / "mask.jpg")


@pytest.mark.data
def test_real_radiographs_and_their_masks_fit(data_folder):
    masks = sorted((data_folder / "cxr_findings").glob("*_seg.png"))[:4]
    assert masks

    for mask in masks:
        volume = read_volume(mask.with_name(mask.name.replace("_seg.png", ".png")))
        assert read_segmentation(mask, volume).structures
