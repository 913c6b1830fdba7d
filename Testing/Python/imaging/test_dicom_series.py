"""Which files of a folder are read as a series: all of its slices, of one patient, or none."""

from __future__ import annotations

import logging
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.tag import Tag
from pydicom.uid import BasicTextSRStorage, ExplicitVRLittleEndian, MRImageStorage, generate_uid

from RAUSlicerLib.errors import InputError
from RAUSlicerLib.imaging.files import read_volume
from RAUSlicerLib.imaging.segmentation import Segmentation, Structure
from RAUSlicerLib.inputs import load_inputs

WriteSeries = Callable[..., Path]
OnGrid = Callable[[sitk.Image, str], sitk.Image]
GridsAgree = Callable[..., None]


@pytest.fixture
def series(block: sitk.Image, write_series: WriteSeries, tmp_path: Path) -> Path:
    """A folder with ten slices, IM0 to IM9 from the first to the last."""
    folder = write_series(block, tmp_path / "series")
    for file in list(folder.iterdir()):
        file.rename(folder / f"IM{pydicom.dcmread(file).InstanceNumber - 1}")
    return folder


def raw(header: Dataset, keyword: str, value: bytes) -> None:
    """Put bytes into a header that pydicom would refuse to write."""
    tag = Tag(keyword)
    value += b" " * (len(value) % 2)
    header._dict[tag] = RawDataElement(tag, pydicom.datadict.dictionary_VR(tag), len(value), value, 0, False, True)


def same(read: sitk.Image, expected: sitk.Image, agree: GridsAgree) -> None:
    agree(read, expected)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(read), sitk.GetArrayFromImage(expected))


@pytest.mark.parametrize("jitter", [2e-5, 4e-4, 1e-3])
def test_cosines_that_are_rounded_differently_do_not_split_a_series(
    block: sitk.Image, write_series: WriteSeries, tmp_path: Path, jitter: float, grids_agree: GridsAgree
) -> None:
    def turn(k: int, header: Dataset) -> None:
        directions = np.array(header.ImageOrientationPatient, dtype=float)
        header.ImageOrientationPatient = [round(x, 9) for x in directions + jitter * (-1) ** k / 2]

    read = read_volume(write_series(block, tmp_path / "series", turn=turn))

    assert read.GetSize() == block.GetSize()
    grids_agree(read, block, atol=0.03)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(read), sitk.GetArrayFromImage(block))


def test_a_series_in_two_directions_is_refused(block: sitk.Image, write_series: WriteSeries, tmp_path: Path) -> None:
    def turn(k: int, header: Dataset) -> None:
        if k >= 8:
            header.ImageOrientationPatient = [0, 1, 0, 0, 0, -1]

    with pytest.raises(InputError, match=r"2 directions \((8, 2|2, 8) images\)"):
        read_volume(write_series(block, tmp_path / "series", turn=turn))


def test_a_radial_series_is_refused(block: sitk.Image, write_series: WriteSeries, tmp_path: Path) -> None:
    def turn(k: int, header: Dataset) -> None:
        angle = np.pi * k / 10
        header.ImageOrientationPatient = [round(x, 9) for x in (np.cos(angle), np.sin(angle), 0, 0, 0, -1)]

    with pytest.raises(InputError, match="10 directions"):
        read_volume(write_series(block, tmp_path / "series", turn=turn))


def test_a_pixel_spacing_that_changes_is_refused_with_both_values(block: sitk.Image, write_series: WriteSeries, tmp_path: Path) -> None:
    def zoom(k: int, header: Dataset) -> None:
        if k == 7:
            header.PixelSpacing = [0.425, 0.3]

    with pytest.raises(InputError, match=r"0\.425 x 0\.3 mm in some images, 0\.85 x 0\.6 mm in others"):
        read_volume(write_series(block, tmp_path / "series", zoom=zoom))


def test_a_pixel_spacing_that_is_exchanged_is_told_with_both_values(block: sitk.Image, write_series: WriteSeries, tmp_path: Path) -> None:
    def swap(k: int, header: Dataset) -> None:
        if k == 7:
            header.PixelSpacing = [0.6, 0.85]

    with pytest.raises(InputError, match=r"0\.6 x 0\.85 mm in some images, 0\.85 x 0\.6 mm in others"):
        read_volume(write_series(block, tmp_path / "series", swap=swap))


def test_rounded_pixel_spacings_are_the_same(block: sitk.Image, write_series: WriteSeries, tmp_path: Path) -> None:
    def rounded(k: int, header: Dataset) -> None:
        header.PixelSpacing = [0.85 + 2e-6 * (k % 2), 0.6]

    assert read_volume(write_series(block, tmp_path / "series", rounded=rounded)).GetSpacing()[:2] == pytest.approx((0.6, 0.85), abs=3e-6)


def test_images_of_several_sizes_are_refused(block: sitk.Image, write_series: WriteSeries, tmp_path: Path) -> None:
    def cut(k: int, header: Dataset) -> None:
        if k >= 8:
            header.Rows, header.PixelData = 8, header.PixelData[: 8 * 14 * 2]

    with pytest.raises(InputError, match="8 x 14 and 16 x 14 pixels"):
        read_volume(write_series(block, tmp_path / "series", cut=cut))


def test_a_scout_in_the_series_is_left_out_and_told(
    block: sitk.Image, write_series: WriteSeries, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def scout(k: int, header: Dataset) -> None:
        header.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER" if k == 0 else "AXIAL"]
        if k == 0:
            header.ImageOrientationPatient = [0, 1, 0, 0, 0, -1]

    read = read_volume(write_series(block, tmp_path / "series", scout=scout))

    assert read.GetSize()[2] == 9
    assert "1 scout images" in caplog.text


def test_frames_of_reference_are_not_mixed(
    block: sitk.Image, write_series: WriteSeries, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def moved(k: int, header: Dataset) -> None:
        header.FrameOfReferenceUID = f"1.2.{k // 5 + 1}"

    def careless(k: int, header: Dataset) -> None:
        header.FrameOfReferenceUID = generate_uid()

    with pytest.raises(InputError, match="2 frames of reference"):
        read_volume(write_series(block, tmp_path / "moved", moved=moved))
    assert read_volume(write_series(block, tmp_path / "careless", careless=careless)).GetSize() == block.GetSize()
    assert "frame of reference of its own" in caplog.text


def test_of_several_series_the_one_that_is_read_is_described(
    block: sitk.Image, write_series: WriteSeries, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_series(block[:, :, :2] - 5, tmp_path / "series", SeriesDescription="scout")
    folder = write_series(block, tmp_path / "series", SeriesDescription="portal\x1b[31m venous", SeriesNumber=7)

    read_volume(folder)

    assert "the largest one, 'portal [31m venous', series 7, CT, of 10 files, is read" in caplog.text
    assert "Not read: 'scout'" in caplog.text


def test_warnings_of_reading_are_among_those_of_the_run(
    block: sitk.Image, write_series: WriteSeries, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    write_series(block[:, :, :2] - 5, tmp_path / "series", SeriesDescription="scout")
    folder = write_series(block, tmp_path / "series", SeriesDescription="venous")
    labels = sitk.Cast(block > 500, sitk.sitkUInt8)
    sitk.WriteImage(block + 1, str(tmp_path / "reference.nrrd"))
    sitk.WriteImage(labels, str(tmp_path / "labels.nrrd"))

    inputs = load_inputs([(tmp_path / "reference.nrrd", tmp_path / "labels.nrrd")], folder)

    assert any(warning.startswith("Target: ") and "'venous'" in warning for warning in inputs.warnings)
    assert "venous" not in capfd.readouterr().err


@pytest.mark.parametrize(
    "other",
    [{"PatientID": "T2"}, {"PatientID": "", "PatientName": "Other^One"}, {"PatientName": "Other^One"}, {"PatientBirthDate": "19500101"}],
)
@pytest.mark.parametrize("own_series", [True, False])
def test_another_patient_in_the_folder_is_refused_without_a_name(
    block: sitk.Image, write_series: WriteSeries, tmp_path: Path, other: dict[str, str], own_series: bool
) -> None:
    uid = {} if own_series else {"SeriesInstanceUID": "1.2.3", "FrameOfReferenceUID": "1.2.4"}
    write_series(block[:, :, :4], tmp_path / "series", **{"PatientBirthDate": "19400101"}, **uid)
    folder = write_series(block[:, :, 4:], tmp_path / "series", **({"PatientBirthDate": "19400101"} | other), **uid)

    with pytest.raises(InputError, match="more than one patient") as caught:
        read_volume(folder)
    assert not any(name in str(caught.value) for name in ("Phantom", "Other", "T2", "1950"))


def test_a_name_that_is_shortened_or_missing_is_no_other_patient(block: sitk.Image, write_series: WriteSeries, tmp_path: Path) -> None:
    def spelled(k: int, header: Dataset) -> None:
        header.PatientName = ("Test^Phantom", "TEST^PHANTOM^A", "", "Test Phantom", "Test")[k % 5]
        header.PatientID = "" if k == 3 else "T1"

    assert read_volume(write_series(block, tmp_path / "series", spelled=spelled)).GetSize() == block.GetSize()


def test_slices_in_two_subfolders_and_beside_them_are_one_series(block: sitk.Image, series: Path, grids_agree: GridsAgree) -> None:
    for k in range(10):
        place = series / "ABA"[k % 3] if k % 3 < 2 else series
        place.mkdir(exist_ok=True)
        (series / f"IM{k}").rename(place / f"IM{k}")

    same(read_volume(series), block, grids_agree)


def test_a_uid_that_all_slices_share_hides_none(block: sitk.Image, write_series: WriteSeries, tmp_path: Path) -> None:
    def shared(k: int, header: Dataset) -> None:
        header.PatientComments = str(k)

    folder = write_series(block, tmp_path / "series", shared=shared)
    for number, file in enumerate(list(folder.iterdir())):
        slice_ = pydicom.dcmread(file)
        slice_.SOPInstanceUID = "1.2.3"
        slice_.save_as(folder / f"S{number}")
        file.unlink()

    assert read_volume(folder).GetSize() == block.GetSize()


def test_a_series_of_its_own_for_each_slice_is_refused(block: sitk.Image, write_series: WriteSeries, tmp_path: Path) -> None:
    def apart(k: int, header: Dataset) -> None:
        header.SeriesInstanceUID = generate_uid()

    with pytest.raises(InputError, match="10 series of one image each"):
        read_volume(write_series(block, tmp_path / "series", apart=apart))


@pytest.mark.parametrize("keyword", ["ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "RescaleSlope", "RescaleIntercept"])
@pytest.mark.parametrize("value", [b"nan", b"inf", b"1e999", b"wrong", b"1\\2\\", b"1\\2\\3\\4", b"-INF\\0"])
def test_a_number_that_is_none_is_an_error_that_names_file_and_element(
    block: sitk.Image, write_series: WriteSeries, tmp_path: Path, keyword: str, value: bytes
) -> None:
    def break_it(k: int, header: Dataset) -> None:
        if k == 5:
            raw(header, keyword, value)

    folder = write_series(block, tmp_path / "series", break_it=break_it)
    with pytest.raises(InputError, match=pydicom.datadict.dictionary_description(keyword).replace("(", r"\(").replace(")", r"\)")):
        read_volume(folder)


@pytest.mark.parametrize("keyword", ["ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"])
@pytest.mark.parametrize("place", [0, 5, 9])
def test_an_empty_element_is_an_error_and_no_gap(
    block: sitk.Image, write_series: WriteSeries, tmp_path: Path, keyword: str, place: int
) -> None:
    def empty(k: int, header: Dataset) -> None:
        if k == place:
            raw(header, keyword, b"")

    with pytest.raises(InputError, match=r"1 of the 10 images|pixel spacing is missing"):
        read_volume(write_series(block, tmp_path / "series", empty=empty))


@pytest.mark.parametrize("place", [0, 4, 9])
@pytest.mark.parametrize("kept", [0, 10, 140, 400, 600, 900, 1000, -4])
def test_a_damaged_slice_is_an_error_wherever_it_lies(series: Path, place: int, kept: int) -> None:
    file = series / f"IM{place}"
    file.write_bytes(file.read_bytes()[:kept])

    with pytest.raises(InputError, match=f"IM{place}|lacks slices"):
        read_volume(series)


def test_a_slice_that_was_copied_as_zeros_is_an_error(series: Path) -> None:
    (series / "IM9").write_bytes(bytes((series / "IM9").stat().st_size))

    with pytest.raises(InputError, match="IM9"):
        read_volume(series)


@pytest.mark.parametrize("kept", [140, 400, 600, 900])
def test_a_damaged_neighbour_spoils_no_sound_series_nor_file(
    block: sitk.Image, series: Path, write_series: WriteSeries, tmp_path: Path, kept: int, grids_agree: GridsAgree
) -> None:
    other = next(write_series(block, tmp_path / "other").iterdir())
    (series / "broken.dcm").write_bytes(other.read_bytes()[:kept])
    (series / "garbage.dcm").write_bytes(bytes(128) + b"DICM" + np.random.default_rng(0).bytes(3000))
    (series / "copy of IM3").write_bytes((series / "IM3").read_bytes()[:1000])
    (series / "empty.txt").write_bytes(b"")

    same(read_volume(series), block, grids_agree)
    grids_agree(read_volume(series / "IM4"), block[:, :, 4:5])


def test_other_objects_beside_the_slices_are_not_taken_for_slices(block: sitk.Image, series: Path, grids_agree: GridsAgree) -> None:
    origin = pydicom.dcmread(series / "IM0", stop_before_pixels=True)
    for name, kind, modality in (
        ("DICOMDIR", "1.2.840.10008.1.3.10", ""),
        ("sr.dcm", BasicTextSRStorage, "SR"),
        ("rtstruct.dcm", "1.2.840.10008.5.1.4.1.1.481.3", "RTSTRUCT"),
        ("pr.dcm", "1.2.840.10008.5.1.4.1.1.11.1", "PR"),
        ("seg.dcm", "1.2.840.10008.5.1.4.1.1.66.4", "SEG"),
        ("seg2.dcm", "1.2.840.10008.5.1.4.1.1.66.4", ""),
        ("pdf.dcm", "1.2.840.10008.5.1.4.1.1.104.1", "DOC"),
    ):
        thing = Dataset()
        thing.SOPClassUID, thing.SOPInstanceUID, thing.Modality = kind, generate_uid(), modality
        thing.SeriesInstanceUID, thing.PatientID, thing.PatientName = origin.SeriesInstanceUID, "T1", "Test^Phantom"
        if "seg" in name:
            thing.Rows, thing.Columns, thing.NumberOfFrames, thing.BitsAllocated = 16, 14, 99, 1
            thing.PixelData = bytes(16 * 14 * 99 // 8 + 1)
        thing.file_meta = FileMetaDataset()
        thing.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        thing.save_as(series / name, enforce_file_format=True)

    same(read_volume(series), block, grids_agree)


@pytest.mark.parametrize("form", ["explicit", "implicit", "big endian", "meta without preamble", "preamble without meta"])
def test_files_without_preamble_or_meta_header_are_read(block: sitk.Image, series: Path, form: str, grids_agree: GridsAgree) -> None:
    for file in series.iterdir():
        content = file.read_bytes()
        if form == "meta without preamble":
            file.write_bytes(content[132:])
            continue
        slice_ = Dataset(pydicom.dcmread(file))
        if form == "big endian":
            slice_.PixelData = np.frombuffer(slice_.PixelData, "<i2").astype(">i2").tobytes()
        options = {"implicit_vr": form == "implicit", "little_endian": form != "big endian"}
        pydicom.dcmwrite(file, slice_, enforce_file_format=False, **options)
        if form == "preamble without meta":
            file.write_bytes(bytes(128) + b"DICM" + file.read_bytes())

    same(read_volume(series), block, grids_agree)
    grids_agree(read_volume(series / "IM4"), block[:, :, 4:5])


def test_slices_missing_all_along_are_told(
    block: sitk.Image, write_series: WriteSeries, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = write_series(block, tmp_path / "series", SpacingBetweenSlices=3.3)
    for file in list(folder.iterdir()):
        if pydicom.dcmread(file).InstanceNumber % 2:
            file.unlink()

    read_volume(folder)

    assert "lie 6.6 mm apart, but their headers say 3.3 mm" in caplog.text


@pytest.mark.parametrize(
    ("keyword", "values", "words"),
    [
        ("EchoTime", (10, 80), "2 echoes in one (EchoTime 10.0, 80.0)"),
        ("TriggerTime", (0, 30), "2 heart phases"),
        ("TemporalPositionIdentifier", (1, 2), "2 time points"),
        ("DiffusionBValue", (0.0, 1000.0), "2 b-values in one (DiffusionBValue 0.0, 1000.0)"),
        ("AcquisitionNumber", (1, 2), "2 acquisitions"),
    ],
)
def test_several_volumes_in_a_series_are_refused_with_what_differs(
    block: sitk.Image, write_series: WriteSeries, tmp_path: Path, keyword: str, values: tuple[float, float], words: str
) -> None:
    for value in values:
        folder = write_series(block, tmp_path / "series", SeriesInstanceUID="1.2.3", FrameOfReferenceUID="1.2.4", **{keyword: value})

    with pytest.raises(InputError, match="several images at the same position: 20 images at 10 positions") as caught:
        read_volume(folder)
    assert words in caught.value.explanation


def test_one_slice_twice_is_refused(block: sitk.Image, series: Path) -> None:
    again = pydicom.dcmread(series / "IM9")
    again.SOPInstanceUID = again.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    again.save_as(series / "IM10")

    with pytest.raises(InputError, match="11 images at 10 positions"):
        read_volume(series)


def test_a_small_tilt_is_no_rounding(block: sitk.Image, write_series: WriteSeries, tmp_path: Path) -> None:
    def tilt(k: int, header: Dataset) -> None:
        header.ImagePositionPatient = list(block.TransformContinuousIndexToPhysicalPoint((0, k * 3.3 / 0.85 * np.tan(np.deg2rad(0.5)), k)))

    with pytest.raises(InputError, match="shifted sideways"):
        read_volume(write_series(block, tmp_path / "series", tilt=tilt))


def test_no_name_reaches_the_terminal_or_a_log(
    block: sitk.Image,
    write_series: WriteSeries,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    def odd(k: int, header: Dataset) -> None:
        raw(header, "PatientName", b"SECRET^NAME " * 10)
        raw(header, "PatientID", b"SECRETNAME" * 8)
        raw(header, "PatientBirthDate", b"SECRETDATE")
        raw(header, "StudyInstanceUID", b"SECRET-STUDY")
        raw(header, "SeriesInstanceUID", b"SECRET-SERIES")
        raw(header, "FrameOfReferenceUID", b"SECRET-FRAME")

    folder = write_series(block, tmp_path / "series", odd=odd)
    logging.getLogger("pydicom").warning("of others, before")
    caplog.clear()

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        read_volume(folder)
        slice_ = next(folder.iterdir())
        slice_.write_bytes(slice_.read_bytes()[:700])
        with pytest.raises(InputError) as refused:
            read_volume(folder)

    shown = "".join([*capfd.readouterr(), caplog.text, str(refused.value), *(str(warning.message) for warning in caught)])
    assert "SECRET" not in shown
    assert "values in the DICOM headers are not as the standard demands" in caplog.text
    assert logging.getLogger("pydicom").propagate


@pytest.mark.parametrize("inverted", [True, False])
def test_values_in_units_are_not_turned_round(
    block: sitk.Image, write_series: WriteSeries, tmp_path: Path, inverted: bool, grids_agree: GridsAgree
) -> None:
    photometric = "MONOCHROME1" if inverted else "MONOCHROME2"
    folder = write_series(block, tmp_path / "series", PhotometricInterpretation=photometric, RescaleIntercept=-1000)

    same(read_volume(folder), block - 1000, grids_agree)
    same(read_volume(sorted(folder.iterdir())[0]), read_volume(sorted(folder.iterdir())[0]), grids_agree)


def test_dark_on_bright_mr_is_turned_round_as_itk_does_it(block: sitk.Image, write_series: WriteSeries, tmp_path: Path) -> None:
    def mr(_k: int, header: Dataset) -> None:
        header.SOPClassUID, header.Modality, header.PhotometricInterpretation = MRImageStorage, "MR", "MONOCHROME1"
        header.BitsStored, header.HighBit, header.PixelRepresentation = 12, 11, 0

    positive = sitk.Cast(block + 60, sitk.sitkInt16)
    folder = write_series(positive, tmp_path / "series", mr=mr)

    np.testing.assert_array_equal(sitk.GetArrayFromImage(read_volume(folder)), 4095 - sitk.GetArrayFromImage(positive))


def test_a_segmentation_without_preamble_is_still_told_from_an_image(block: sitk.Image, series: Path, tmp_path: Path) -> None:
    from RAUSlicerLib.imaging.files import read_segmentation, write_segmentation

    volume = read_volume(series)
    labels = sitk.Cast(volume > 500, sitk.sitkUInt8)
    write_segmentation(Segmentation(labels, (Structure(1, "part"),)), tmp_path / "seg.dcm", volume, volume_path=series)
    content = (tmp_path / "seg.dcm").read_bytes()
    (tmp_path / "bare.dcm").write_bytes(content[132:])
    shutil.copy(tmp_path / "bare.dcm", series / "bare.dcm")

    with pytest.raises(InputError, match="holds no image"):
        read_volume(tmp_path / "bare.dcm")
    assert read_segmentation(tmp_path / "bare.dcm").structures[0].name == "part"
    assert read_volume(series).GetSize() == block.GetSize()
