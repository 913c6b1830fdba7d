"""Which files of a folder are read as a series, and how they become a volume: all slices, of one patient, where they lie, or none."""

from __future__ import annotations

import logging
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import Tag
from pydicom.uid import BasicTextSRStorage, ExplicitVRLittleEndian, MRImageStorage, generate_uid

from RAUSlicerLib.errors import InputError
from RAUSlicerLib.imaging.checks import check_volume
from RAUSlicerLib.imaging.files import read_segmentation, read_volume, write_segmentation
from RAUSlicerLib.imaging.segmentation import Segmentation, Structure
from RAUSlicerLib.inputs import load_inputs

from .builders import grids_agree, item, right_handed, same_image, values, write_series

Write = Callable[..., Path]
ONE_SERIES = {"SeriesInstanceUID": "1.2.3", "FrameOfReferenceUID": "1.2.4"}
WITHOUT_PLACE = ("ImagePositionPatient", "ImageOrientationPatient")


@pytest.fixture
def write(block: sitk.Image, tmp_path: Path) -> Write:
    """write(change=..., **elements): the block as a series in a folder, with its header's elements changed."""
    return lambda volume=block, name="series", **changed: write_series(volume, tmp_path / name, **changed)


@pytest.fixture
def series(write: Write) -> Path:
    """A folder with ten slices, IM0 to IM9 from the first to the last."""
    folder = write()
    for file in list(folder.iterdir()):
        file.rename(folder / f"IM{pydicom.dcmread(file).InstanceNumber - 1}")
    return folder


def of(slices: Any = range(10), **elements: Any) -> Callable[[int, Dataset], None]:
    """Sets elements of some slices; a value may be a function of the slice's number and header."""

    def change(k: int, header: Dataset) -> None:
        for keyword, value in elements.items() if k in slices else ():
            setattr(header, keyword, value(k, header) if callable(value) else value)

    return change


def without(*keywords: str) -> Callable[[int, Dataset], None]:
    def change(_k: int, header: Dataset) -> None:
        for keyword in keywords:
            delattr(header, keyword)

    return change


def raw(header: Dataset, keyword: str, value: bytes) -> None:
    """Put bytes into a header that pydicom would refuse to write."""
    tag = Tag(keyword)
    value += b" " * (len(value) % 2)
    header._dict[tag] = RawDataElement(tag, pydicom.datadict.dictionary_VR(tag), len(value), value, 0, False, True)


def raws(slices: Any = range(10), **elements: bytes) -> Callable[[int, Dataset], None]:
    def change(k: int, header: Dataset) -> None:
        for keyword, value in elements.items() if k in slices else ():
            raw(header, keyword, value)

    return change


def shifted(x: float = 0.0, z: float = 0.0, slices: Any = range(10)) -> Callable[[int, Dataset], None]:
    """Moves slices by so many mm along their columns, more with each, and by this share of their distance along the normal."""

    def change(k: int, header: Dataset) -> None:
        orientation = np.array(header.ImageOrientationPatient, float)
        normal = np.cross(orientation[:3], orientation[3:])
        if k in slices:
            header.ImagePositionPatient = list(np.array(header.ImagePositionPatient, float) + x * k * orientation[3:] + z * 3.3 * normal)

    return change


def numbered(folder: Path, number: int) -> Path:
    return next(file for file in folder.iterdir() if pydicom.dcmread(file).InstanceNumber == number)


# A series as it should be


def test_a_series_is_read_with_its_geometry(volume, tmp_path):
    same_image(read_volume(write_series(volume, tmp_path / "series")), right_handed(volume))


@pytest.mark.data
def test_a_real_series_agrees_with_itk(ct_series):
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(ct_series)))

    read = read_volume(ct_series)

    same_image(read, reader.Execute(), atol=1e-9)
    assert read.GetMetaDataKeys() == ("0008|0060",)


def test_values_are_rescaled_slice_by_slice(block, write):
    read = values(read_volume(write(change=of(RescaleSlope=lambda k, _: 0.5 * (k + 2), RescaleIntercept=-1000))))

    np.testing.assert_allclose(read, values(block) * 0.5 * np.arange(2, 12).reshape(10, 1, 1) - 1000)


@pytest.mark.parametrize("inverted", [True, False])
def test_values_in_units_are_not_turned_round(block, write, inverted):
    folder = write(PhotometricInterpretation="MONOCHROME1" if inverted else "MONOCHROME2", RescaleIntercept=-1000)

    same_image(read_volume(folder), block - 1000)


def test_dark_on_bright_mr_is_turned_round_as_itk_does_it(block, write):
    positive = sitk.Cast(block + 60, sitk.sitkInt16)
    mr = {"SOPClassUID": MRImageStorage, "Modality": "MR", "PhotometricInterpretation": "MONOCHROME1"}
    folder = write(positive, **mr, BitsStored=12, HighBit=11, PixelRepresentation=0)

    np.testing.assert_array_equal(values(read_volume(folder)), 4095 - values(positive))


def test_one_slice_of_a_series_is_read_alone_and_says_so(block, series, caplog):
    grids_agree(read_volume(series / "IM2"), block[:, :, 2:3])

    assert "one of 10 slices" in caplog.text


def test_a_radiograph_is_a_volume_of_one_slice_with_bright_bones(write):
    picture = sitk.Cast(sitk.GetImageFromArray(np.arange(64 * 48).reshape(1, 64, 48)), sitk.sitkInt16)
    picture.SetSpacing((0.2, 0.3, 1))
    dark = {"Modality": "DX", "PhotometricInterpretation": "MONOCHROME1", "PixelRepresentation": 0}
    folder = write(picture, **dark, change=without(*WITHOUT_PLACE, "RescaleSlope", "RescaleIntercept"))

    read = read_volume(next(folder.iterdir()))

    assert read.GetSize() == read_volume(folder).GetSize() == (48, 64, 1)
    assert read.GetSpacing()[:2] == pytest.approx((0.2, 0.3))
    np.testing.assert_array_equal(values(read), 65535 - values(picture).astype(int))
    assert "taken as a 2D image" in check_volume(read, "target")[1][0]


# Series that are a little odd


@pytest.mark.parametrize("jitter", [2e-5, 4e-4, 1e-3])
def test_cosines_that_are_rounded_differently_do_not_split_a_series(block, write, jitter):
    turn = of(ImageOrientationPatient=lambda k, header: [round(x + jitter * (-1) ** k / 2, 9) for x in header.ImageOrientationPatient])

    same_image(read_volume(write(turn=turn)), block, atol=0.03)


def test_rounded_pixel_spacings_are_the_same(write):
    read = read_volume(write(change=of(PixelSpacing=lambda k, _: [0.85 + 2e-6 * (k % 2), 0.6])))

    assert read.GetSpacing()[:2] == pytest.approx((0.6, 0.85), abs=3e-6)


def test_slightly_uneven_slices_are_read_with_a_warning(write, caplog):
    assert read_volume(write(change=shifted(z=0.1, slices=[2]))).GetSpacing()[2] == pytest.approx(3.3)
    assert "unevenly spaced" in caplog.text


def test_a_scout_in_the_series_is_left_out_and_told(write, caplog):
    scout = of([0], ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"], ImageOrientationPatient=[0, 1, 0, 0, 0, -1])

    assert read_volume(write(ImageType=["ORIGINAL", "PRIMARY", "AXIAL"], scout=scout)).GetSize()[2] == 9
    assert "1 scout images" in caplog.text


def test_a_frame_of_reference_of_its_own_for_each_slice_is_told(block, write, caplog):
    assert read_volume(write(change=of(FrameOfReferenceUID=lambda *_: generate_uid()))).GetSize() == block.GetSize()
    assert "frame of reference of its own" in caplog.text


def test_a_name_that_is_shortened_or_missing_is_no_other_patient(block, write):
    names = ("Test^Phantom", "TEST^PHANTOM^A", "", "Test Phantom", "Test")
    spelled = of(PatientName=lambda k, _: names[k % 5], PatientID=lambda k, _: "" if k == 3 else "T1")

    assert read_volume(write(spelled=spelled)).GetSize() == block.GetSize()


def test_a_uid_that_all_slices_share_hides_none(block, series):
    for file in series.iterdir():
        slice_ = pydicom.dcmread(file)
        slice_.SOPInstanceUID = "1.2.3"
        slice_.save_as(file)

    assert read_volume(series).GetSize() == block.GetSize()


def test_slices_missing_all_along_are_told(write, caplog):
    folder = write(SpacingBetweenSlices=3.3)
    for number in range(1, 11, 2):
        numbered(folder, number).unlink()

    read_volume(folder)

    assert "lie 6.6 mm apart, but their headers say 3.3 mm" in caplog.text


@pytest.mark.parametrize("form", ["explicit", "implicit", "big endian", "meta without preamble", "preamble without meta"])
def test_files_without_preamble_or_meta_header_are_read(block, series, form):
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

    same_image(read_volume(series), block)
    grids_agree(read_volume(series / "IM4"), block[:, :, 4:5])


# What else lies in the folder


def test_of_several_series_the_largest_is_read_and_described_without_names(block, write, caplog):
    write(block[:, :, :2] - 5, SeriesDescription="scout")
    folder = write(SeriesDescription="portal\x1b[31m venous", SeriesNumber=7)
    (folder / "notes.txt").write_text("not DICOM")

    assert read_volume(folder).GetSize() == block.GetSize()

    assert "2 image series" in caplog.text and "Phantom" not in caplog.text
    assert "the largest one, 'portal [31m venous', series 7, CT, of 10 files, is read" in caplog.text
    assert "Not read: 'scout'" in caplog.text


def test_warnings_of_reading_are_among_those_of_the_run(block, write, tmp_path, capfd):
    write(block[:, :, :2] - 5, SeriesDescription="scout")
    folder = write(SeriesDescription="venous")
    for name, image in (("reference", block + 1), ("labels", sitk.Cast(block > 500, sitk.sitkUInt8))):
        sitk.WriteImage(image, str(tmp_path / f"{name}.nrrd"))

    inputs = load_inputs([(tmp_path / "reference.nrrd", tmp_path / "labels.nrrd")], folder)

    assert any(warning.startswith("Target: ") and "'venous'" in warning for warning in inputs.warnings)
    assert "venous" not in capfd.readouterr().err


def test_slices_in_two_subfolders_and_beside_them_are_one_series(block, series):
    for k in range(10):
        place = series / "ABA"[k % 3] if k % 3 < 2 else series
        place.mkdir(exist_ok=True)
        (series / f"IM{k}").rename(place / f"IM{k}")

    same_image(read_volume(series), block)
    assert read_volume(series.parent).GetSize() == block.GetSize()


def test_files_exported_twice_count_once(block, series):
    for file in list(series.iterdir()):
        shutil.copy(file, file.with_suffix(".copy"))

    assert read_volume(series).GetSize() == block.GetSize()


def test_a_dose_in_the_folder_is_not_taken_for_the_image(block, write):
    write(sitk.Resample(block, (50, 50, 10)), Modality="RTDOSE")

    assert read_volume(write()).GetSize() == block.GetSize()


def test_other_objects_beside_the_slices_are_not_taken_for_slices(block, series):
    origin = pydicom.dcmread(series / "IM0")
    for name, kind, modality in (
        ("DICOMDIR", "1.2.840.10008.1.3.10", ""),
        ("sr.dcm", BasicTextSRStorage, "SR"),
        ("rtstruct.dcm", "1.2.840.10008.5.1.4.1.1.481.3", "RTSTRUCT"),
        ("pr.dcm", "1.2.840.10008.5.1.4.1.1.11.1", "PR"),
        ("seg.dcm", "1.2.840.10008.5.1.4.1.1.66.4", "SEG"),
        ("seg2.dcm", "1.2.840.10008.5.1.4.1.1.66.4", ""),
        ("pdf.dcm", "1.2.840.10008.5.1.4.1.1.104.1", "DOC"),
    ):
        (thing,) = item(SOPClassUID=kind, SOPInstanceUID=generate_uid(), Modality=modality, PatientID="T1", PatientName="Test^Phantom")
        thing.SeriesInstanceUID, thing.file_meta = origin.SeriesInstanceUID, origin.file_meta
        thing.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        if "seg" in name:
            thing.Rows, thing.Columns, thing.NumberOfFrames, thing.BitsAllocated = 16, 14, 99, 1
            thing.PixelData = bytes(16 * 14 * 99 // 8 + 1)
        thing.save_as(series / name, enforce_file_format=True)

    same_image(read_volume(series), block)


def test_a_segmentation_without_preamble_is_still_told_from_an_image(block, series, tmp_path):
    volume = read_volume(series)
    segmentation = Segmentation(sitk.Cast(volume > 500, sitk.sitkUInt8), (Structure(1, "part"),))
    write_segmentation(segmentation, tmp_path / "seg.dcm", volume, volume_path=series)
    for bare in (tmp_path / "bare.dcm", series / "bare.dcm"):
        bare.write_bytes((tmp_path / "seg.dcm").read_bytes()[132:])

    with pytest.raises(InputError, match="holds no image"):
        read_volume(tmp_path / "bare.dcm")
    assert read_segmentation(tmp_path / "bare.dcm").structures[0].name == "part"
    assert read_volume(series).GetSize() == block.GetSize()


@pytest.mark.parametrize("kept", [140, 400, 600, 900])
def test_a_damaged_neighbour_spoils_no_sound_series_nor_file(block, series, write, kept):
    other = next(write(name="other").iterdir())
    (series / "broken.dcm").write_bytes(other.read_bytes()[:kept])
    (series / "garbage.dcm").write_bytes(bytes(128) + b"DICM" + np.random.default_rng(0).bytes(3000))
    (series / "copy of IM3").write_bytes((series / "IM3").read_bytes()[:1000])
    (series / "empty.txt").write_bytes(b"")

    same_image(read_volume(series), block)
    grids_agree(read_volume(series / "IM4"), block[:, :, 4:5])


# What is no volume

REFUSED = {
    "two directions": (of((8, 9), ImageOrientationPatient=[0, 1, 0, 0, 0, -1]), r"2 directions \((8, 2|2, 8) images\)"),
    "radial": (
        of(ImageOrientationPatient=lambda k, _: [round(x, 9) for x in (np.cos(np.pi * k / 10), np.sin(np.pi * k / 10), 0, 0, 0, -1)]),
        "10 directions",
    ),
    "zoomed": (of([7], PixelSpacing=[0.425, 0.3]), r"0\.425 x 0\.3 mm in some images, 0\.85 x 0\.6 mm in others"),
    "spacing exchanged": (of([7], PixelSpacing=[0.6, 0.85]), r"0\.6 x 0\.85 mm in some images, 0\.85 x 0\.6 mm in others"),
    "two sizes": (of((8, 9), Rows=8, PixelData=lambda _, header: header.PixelData[: 8 * 14 * 2]), "8 x 14 and 16 x 14 pixels"),
    "two frames of reference": (of(FrameOfReferenceUID=lambda k, _: f"1.2.{k // 5}"), "2 frames of reference"),
    "a series for each": (of(SeriesInstanceUID=lambda *_: generate_uid()), "10 series of one image each"),
    "a slice where another is": (shifted(z=1, slices=[3]), "several images at the same position: 10 images at 9 positions"),
    "tilted": (shifted(x=0.5), "shifted sideways"),
    "tilted by half a degree": (shifted(x=3.3 * np.tan(np.deg2rad(0.5))), "shifted sideways"),
    "radiographs": (without(*WITHOUT_PLACE), "don't form a volume"),
    "colors": (
        of(
            **{"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB", "PlanarConfiguration": 0, "PixelRepresentation": 0},
            **{"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7, "PixelData": bytes(16 * 14 * 3)},
        ),
        "3 values a voxel",
    ),
}


@pytest.mark.parametrize(("change", "match"), REFUSED.values(), ids=REFUSED.keys())
def test_what_is_no_volume_is_refused_with_its_reason(write, change, match):
    with pytest.raises(InputError, match=match):
        read_volume(write(change=change))


def test_a_film_is_refused(block, write):
    folder = write(block[:, :, :1], NumberOfFrames=3, change=of(PixelData=lambda _, header: header.PixelData * 3))

    with pytest.raises(InputError, match="don't form a volume"):
        read_volume(next(folder.iterdir()))


def test_a_folder_without_images_is_refused(tmp_path):
    (tmp_path / "readme.txt").write_text("nothing here")

    with pytest.raises(InputError, match="holds no DICOM images"):
        read_volume(tmp_path)


def test_a_missing_slice_is_refused(series):
    (series / "IM2").unlink()

    with pytest.raises(InputError, match=r"lacks slices: a gap of 6\.6 mm between slices that are 3\.3 mm apart"):
        read_volume(series)


@pytest.mark.parametrize(
    ("keyword", "differing", "words"),
    [
        ("EchoTime", (10, 80), "2 echoes in one (EchoTime 10.0, 80.0)"),
        ("TriggerTime", (0, 30), "2 heart phases"),
        ("TemporalPositionIdentifier", (1, 2), "2 time points"),
        ("DiffusionBValue", (0.0, 1000.0), "2 b-values in one (DiffusionBValue 0.0, 1000.0)"),
        ("AcquisitionNumber", (1, 2), "2 acquisitions"),
        ("SeriesNumber", (1, 1), "slices twice"),
    ],
)
def test_several_volumes_in_a_series_are_refused_with_what_differs(write, keyword, differing, words):
    for value in differing:
        folder = write(**ONE_SERIES, **{keyword: value})

    with pytest.raises(InputError, match="several images at the same position: 20 images at 10 positions") as caught:
        read_volume(folder)
    assert words in caught.value.explanation


@pytest.mark.parametrize(
    "other",
    [{"PatientID": "T2"}, {"PatientID": "", "PatientName": "Other^One"}, {"PatientName": "Other^One"}, {"PatientBirthDate": "19500101"}],
)
@pytest.mark.parametrize("shared", [{}, ONE_SERIES])
def test_another_patient_in_the_folder_is_refused_without_a_name(block, write, other, shared):
    write(block[:, :, :4], PatientBirthDate="19400101", **shared)
    folder = write(block[:, :, 4:], **({"PatientBirthDate": "19400101"} | other), **shared)

    with pytest.raises(InputError, match="more than one patient") as caught:
        read_volume(folder)
    assert not any(name in str(caught.value) for name in ("Phantom", "Other", "T2", "1950"))


# Damage


@pytest.mark.parametrize("keyword", ["ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "RescaleSlope", "RescaleIntercept"])
@pytest.mark.parametrize("value", [b"nan", b"inf", b"1e999", b"wrong", b"1\\2\\", b"1\\2\\3\\4", b"-INF\\0"])
def test_a_number_that_is_none_is_an_error_that_names_file_and_element(write, keyword, value):
    with pytest.raises(InputError, match=pydicom.datadict.dictionary_description(keyword).replace("(", r"\(").replace(")", r"\)")):
        read_volume(write(change=raws([5], **{keyword: value})))


@pytest.mark.parametrize("keyword", ["ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"])
@pytest.mark.parametrize("place", [0, 5, 9])
def test_an_empty_element_is_an_error_and_no_gap(write, keyword, place):
    with pytest.raises(InputError, match=r"1 of the 10 images|pixel spacing is missing"):
        read_volume(write(change=raws([place], **{keyword: b""})))


@pytest.mark.parametrize("place", [0, 4, 9])
@pytest.mark.parametrize("kept", [0, 10, 140, 400, 600, 900, 1000, -4, "zeros"])
def test_a_damaged_slice_is_an_error_wherever_it_lies(series, place, kept):
    file = series / f"IM{place}"
    file.write_bytes(bytes(file.stat().st_size) if kept == "zeros" else file.read_bytes()[:kept])

    with pytest.raises(InputError, match=f"IM{place}|lacks slices"):
        read_volume(series)


def test_no_name_reaches_the_terminal_or_a_log(write, capfd, caplog):
    folder = write(
        odd=raws(
            **{"PatientName": b"SECRET^NAME " * 10, "PatientID": b"SECRETNAME" * 8, "PatientBirthDate": b"SECRETDATE"},
            **{"StudyInstanceUID": b"SECRET-STUDY", "SeriesInstanceUID": b"SECRET-SERIES", "FrameOfReferenceUID": b"SECRET-FRAME"},
        )
    )
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
