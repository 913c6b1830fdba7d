"""DICOM series, single files and folders that can't be a volume."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import EnhancedCTImageStorage, ExplicitVRLittleEndian, generate_uid

from RAUSlicerLib.errors import InputError
from RAUSlicerLib.imaging.checks import check_volume
from RAUSlicerLib.imaging.files import read_volume

WriteSeries = Callable[..., Path]
OnGrid = Callable[[sitk.Image, str], sitk.Image]
GridsAgree = Callable[..., None]


def test_a_series_is_read_with_its_geometry(volume: sitk.Image, write_series: WriteSeries, tmp_path: Path, grids_agree: GridsAgree) -> None:
    folder = write_series(volume, tmp_path / "series")

    read = read_volume(folder)

    # DICOM's slice axis always makes the axes right-handed, so a left-handed grid comes back with its slices reversed.
    expected = volume if np.linalg.det(np.reshape(volume.GetDirection(), (3, 3))) > 0 else sitk.Flip(volume, [False, False, True])
    grids_agree(read, expected)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(read), sitk.GetArrayFromImage(expected))


@pytest.mark.data
def test_a_real_series_agrees_with_itk(ct_series: Path, grids_agree: GridsAgree) -> None:
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(ct_series)))
    expected = reader.Execute()

    read = read_volume(ct_series)

    grids_agree(read, expected, atol=1e-9)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(read), sitk.GetArrayFromImage(expected))
    assert read.GetMetaDataKeys() == ("0008|0060",)


def test_values_are_rescaled_slice_by_slice(block: sitk.Image, write_series: WriteSeries, tmp_path: Path) -> None:
    def rescale(k: int, header: Dataset) -> None:
        header.RescaleSlope, header.RescaleIntercept = 0.5 * (k + 2), -1000

    folder = write_series(block, tmp_path / "series", rescale=rescale)

    read = sitk.GetArrayFromImage(read_volume(folder))

    slopes = 0.5 * np.arange(2, 12).reshape(10, 1, 1)
    np.testing.assert_allclose(read, sitk.GetArrayFromImage(block) * slopes - 1000)


def test_the_largest_of_several_series_is_read_with_a_warning_without_names(
    block: sitk.Image, write_series: WriteSeries, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_series(block[:, :, :2] - 5, tmp_path / "series")
    folder = write_series(block, tmp_path / "series")
    (folder / "notes.txt").write_text("not DICOM")

    with caplog.at_level(logging.WARNING):
        read = read_volume(folder)

    assert read.GetSize() == block.GetSize()
    assert "2 image series" in caplog.text
    assert "Phantom" not in caplog.text


def test_slices_in_subfolders_are_found(block: sitk.Image, write_series: WriteSeries, tmp_path: Path) -> None:
    (tmp_path / "export").mkdir()
    write_series(block, tmp_path / "export" / "series")

    assert read_volume(tmp_path / "export").GetSize() == block.GetSize()


def test_files_exported_twice_count_once(block: sitk.Image, write_series: WriteSeries, tmp_path: Path) -> None:
    folder = write_series(block, tmp_path / "series")
    for file in list(folder.iterdir()):
        shutil.copy(file, file.with_suffix(".copy"))

    assert read_volume(folder).GetSize() == block.GetSize()


def test_a_missing_slice_is_refused(block: sitk.Image, write_series: WriteSeries, tmp_path: Path) -> None:
    folder = write_series(block, tmp_path / "series")
    next(file for file in folder.iterdir() if pydicom.dcmread(file).InstanceNumber == 3).unlink()

    with pytest.raises(InputError, match=r"lacks slices: a gap of 6\.6 mm between slices that are 3\.3 mm apart"):
        read_volume(folder)


def test_slightly_uneven_slices_are_read_with_a_warning(
    block: sitk.Image, write_series: WriteSeries, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def shift(k: int, header: Dataset) -> None:
        header.ImagePositionPatient = list(block.TransformContinuousIndexToPhysicalPoint((0, 0, k + 0.1 * (k == 2))))

    folder = write_series(block, tmp_path / "series", shift=shift)

    with caplog.at_level(logging.WARNING):
        read = read_volume(folder)

    assert read.GetSpacing()[2] == pytest.approx(3.3)
    assert "unevenly spaced" in caplog.text


def test_a_tilted_gantry_is_refused(block: sitk.Image, write_series: WriteSeries, tmp_path: Path) -> None:
    def tilt(k: int, header: Dataset) -> None:
        header.ImagePositionPatient = list(block.TransformContinuousIndexToPhysicalPoint((0, 0.6 * k, k)))

    folder = write_series(block, tmp_path / "series", tilt=tilt)

    with pytest.raises(InputError, match="shifted sideways"):
        read_volume(folder)


def test_several_time_points_in_a_series_are_refused(block: sitk.Image, write_series: WriteSeries, tmp_path: Path) -> None:
    write_series(block, tmp_path / "series", SeriesInstanceUID="1.2.3")
    folder = write_series(block, tmp_path / "series", SeriesInstanceUID="1.2.3")

    with pytest.raises(InputError, match="several images at the same position"):
        read_volume(folder)


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    (tmp_path / "readme.txt").write_text("nothing here")

    with pytest.raises(InputError, match="holds no DICOM images"):
        read_volume(tmp_path)


@pytest.mark.parametrize("kept", [0.1, 0.5, 0.99])
def test_a_truncated_slice_is_refused(block: sitk.Image, write_series: WriteSeries, tmp_path: Path, kept: float) -> None:
    folder = write_series(sitk.Resample(block, (64, 64, 6)), tmp_path / "series")
    file = sorted(folder.iterdir())[2]
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * kept)])

    with pytest.raises(InputError):
        read_volume(folder)


def test_one_slice_of_a_series_is_read_alone_and_says_so(
    block: sitk.Image, write_series: WriteSeries, tmp_path: Path, caplog: pytest.LogCaptureFixture, grids_agree: GridsAgree
) -> None:
    folder = write_series(block, tmp_path / "series")
    file = next(file for file in folder.iterdir() if pydicom.dcmread(file).InstanceNumber == 3)

    with caplog.at_level(logging.WARNING):
        read = read_volume(file)

    grids_agree(read, block[:, :, 2:3])
    assert "one of 10 slices" in caplog.text


def test_a_radiograph_is_a_volume_of_one_slice_with_bright_bones(write_series: WriteSeries, tmp_path: Path) -> None:
    def radiograph(_k: int, header: Dataset) -> None:
        del header.ImagePositionPatient, header.ImageOrientationPatient, header.RescaleSlope, header.RescaleIntercept
        header.Modality, header.PhotometricInterpretation, header.PixelRepresentation = "DX", "MONOCHROME1", 0

    picture = sitk.Cast(sitk.GetImageFromArray(np.arange(64 * 48).reshape(1, 64, 48)), sitk.sitkInt16)
    picture.SetSpacing((0.2, 0.3, 1))
    folder = write_series(picture, tmp_path / "series", radiograph=radiograph)

    read = read_volume(next(folder.iterdir()))

    assert read.GetSize() == (48, 64, 1)
    assert read.GetSpacing()[:2] == pytest.approx((0.2, 0.3))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(read), 65535 - sitk.GetArrayFromImage(picture).astype(int))
    _, warnings = check_volume(read, "target")
    assert "taken as a 2D image" in warnings[0]
    assert read_volume(folder).GetSize() == (48, 64, 1)


def test_several_radiographs_in_a_folder_are_refused(block: sitk.Image, write_series: WriteSeries, tmp_path: Path) -> None:
    def radiograph(_k: int, header: Dataset) -> None:
        del header.ImagePositionPatient, header.ImageOrientationPatient

    folder = write_series(block, tmp_path / "series", radiograph=radiograph)

    with pytest.raises(InputError, match="don't form a volume"):
        read_volume(folder)


def test_a_film_is_refused(block: sitk.Image, write_series: WriteSeries, tmp_path: Path) -> None:
    def film(_k: int, header: Dataset) -> None:
        header.NumberOfFrames = 3
        header.PixelData = header.PixelData * 3

    folder = write_series(block[:, :, :1], tmp_path / "series", film=film)

    with pytest.raises(InputError, match="don't form a volume"):
        read_volume(next(folder.iterdir()))


def enhanced_ct(volume: sitk.Image, path: Path, order: list[int]) -> None:
    """An Enhanced CT image with the frames in any order, placed by their functional groups alone."""
    pixels = sitk.GetArrayFromImage(volume).astype(np.int16)
    direction = np.reshape(volume.GetDirection(), (3, 3))

    def item(**elements: object) -> Sequence:
        dataset = Dataset()
        for keyword, value in elements.items():
            setattr(dataset, keyword, value)
        return Sequence([dataset])

    image = Dataset()
    image.SOPClassUID, image.SOPInstanceUID = EnhancedCTImageStorage, generate_uid()
    image.StudyInstanceUID, image.SeriesInstanceUID, image.FrameOfReferenceUID = generate_uid(), generate_uid(), generate_uid()
    image.Modality, image.NumberOfFrames, image.InstanceNumber = "CT", len(order), 1
    image.Rows, image.Columns = pixels.shape[1:]
    image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
    image.BitsAllocated, image.BitsStored, image.HighBit, image.PixelRepresentation = 16, 16, 15, 1
    spacing = volume.GetSpacing()
    image.SharedFunctionalGroupsSequence = item(
        PlaneOrientationSequence=item(ImageOrientationPatient=direction[:, :2].T.ravel().tolist()),
        PixelMeasuresSequence=item(PixelSpacing=[spacing[1], spacing[0]], SliceThickness=spacing[2]),
        PixelValueTransformationSequence=item(RescaleSlope=2, RescaleIntercept=-1000, RescaleType="HU"),
    )
    organization = generate_uid()
    image.DimensionOrganizationSequence = item(DimensionOrganizationUID=organization)
    image.DimensionIndexSequence = item(
        DimensionOrganizationUID=organization, DimensionIndexPointer=0x00200032, FunctionalGroupPointer=0x00209113
    )
    image.PerFrameFunctionalGroupsSequence = Sequence(
        item(
            PlanePositionSequence=item(ImagePositionPatient=list(volume.TransformIndexToPhysicalPoint((0, 0, k)))),
            FrameContentSequence=item(DimensionIndexValues=[k + 1]),
        )[0]
        for k in order
    )
    image.PixelData = pixels[order].tobytes()
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image.save_as(path, enforce_file_format=True)


def test_an_enhanced_image_is_a_volume_whatever_the_order_of_its_frames(block: sitk.Image, tmp_path: Path, grids_agree: GridsAgree) -> None:
    (tmp_path / "series").mkdir()
    enhanced_ct(block, tmp_path / "series" / "enhanced.dcm", [3, 0, 5, 9, 1, 8, 4, 2, 7, 6])

    for path in (tmp_path / "series", tmp_path / "series" / "enhanced.dcm"):
        read = read_volume(path)

        grids_agree(read, block)
        np.testing.assert_allclose(sitk.GetArrayFromImage(read), sitk.GetArrayFromImage(block) * 2.0 - 1000)


def test_a_color_series_is_refused(block: sitk.Image, write_series: WriteSeries, tmp_path: Path) -> None:
    def color(_k: int, header: Dataset) -> None:
        header.SamplesPerPixel, header.PhotometricInterpretation, header.PlanarConfiguration = 3, "RGB", 0
        header.BitsAllocated, header.BitsStored, header.HighBit, header.PixelRepresentation = 8, 8, 7, 0
        header.PixelData = bytes(header.Rows * header.Columns * 3)

    folder = write_series(block, tmp_path / "series", color=color)

    with pytest.raises(InputError, match="3 values a voxel"):
        read_volume(folder)


def test_a_dose_in_the_folder_is_not_taken_for_the_image(block: sitk.Image, write_series: WriteSeries, tmp_path: Path) -> None:
    write_series(sitk.Resample(block, (50, 50, 10)), tmp_path / "series", Modality="RTDOSE")
    folder = write_series(block, tmp_path / "series")

    assert read_volume(folder).GetSize() == block.GetSize()
