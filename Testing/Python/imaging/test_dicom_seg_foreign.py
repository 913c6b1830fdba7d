"""DICOM SEG as other programs write them: with gaps in their headers, in any order, of part of a series, compressed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from pydicom.pixels.utils import pack_bits
from pydicom.sr.coding import Code
from pydicom.uid import ExplicitVRLittleEndian, JPEGLSLossless, RLELossless

from RAUSlicerLib.errors import InputError
from RAUSlicerLib.imaging import dicom_seg_reader
from RAUSlicerLib.imaging.checks import align_segmentation
from RAUSlicerLib.imaging.dicom import source_planes
from RAUSlicerLib.imaging.files import read_segmentation, read_volume

from .builders import on_grid, write_series

TISSUE = Code("85756007", "SCT", "Tissue")
LIVER = Code("10200004", "SCT", "Liver")
Change = Callable[[pydicom.Dataset], None]


@pytest.fixture(params=["oblique flipped", "plain"])
def series(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    noise = sitk.GetImageFromArray(np.random.default_rng(1).integers(-900, 900, (7, 8, 9)).astype(np.int16))
    return write_series(on_grid(noise, request.param), tmp_path / "series")


@pytest.fixture
def source(series: Path) -> sitk.Image:
    return read_volume(series)


@pytest.fixture
def pixels() -> np.ndarray:
    array = np.zeros((7, 8, 9), np.uint8)
    array[1:3, 2:4, 3:6], array[4:6, 1:3, 2:5] = 1, 2
    array[1, 6, 7] = 2
    return array


def foreign(series: Path, pixels: np.ndarray, path: Path, kind: str = "BINARY", change: Change | None = None, **more: object) -> Path:
    sources = [pydicom.dcmread(plane.path) for plane in source_planes(series)]
    descriptions = [hd.seg.SegmentDescription(n, f"part {n}", TISSUE, LIVER, "MANUAL") for n in (1, 2)]
    dataset = hd.seg.Segmentation(sources, pixels, kind, descriptions, hd.UID(), 9, hd.UID(), 1, "maker", "model", "1", "0", **more)
    dataset.save_as(path)
    if change is not None:
        dataset = pydicom.dcmread(path)
        change(dataset)
        dataset.save_as(path)
    return path


def read_back(path: Path, source: sitk.Image, given: sitk.Image | None) -> tuple[np.ndarray, list[str]]:
    """The labels on the source's grid, and names."""
    read, _ = align_segmentation(read_segmentation(path, given), source)
    array = np.zeros(source.GetSize()[::-1], np.uint8)
    for structure in read.structures:
        array[read.array(structure)] = structure.label
    return array, [structure.name for structure in read.structures]


def scramble(dataset: pydicom.Dataset) -> None:
    count, size = int(dataset.NumberOfFrames), dataset.Rows * dataset.Columns
    bits = np.unpackbits(np.frombuffer(dataset.PixelData, np.uint8), bitorder="little")[: count * size].reshape(count, size)
    order = np.random.default_rng(3).permutation(count)
    dataset.PerFrameFunctionalGroupsSequence = [dataset.PerFrameFunctionalGroupsSequence[k] for k in order]
    dataset.PixelData = pack_bits(bits[order].ravel(), pad=True)


def of_segments(*keywords: str, empty: bool = False) -> Change:
    def change(dataset: pydicom.Dataset) -> None:
        for item in dataset.SegmentSequence:
            for keyword in keywords:
                if empty:
                    setattr(item, keyword, [] if keyword.endswith("Sequence") else None)
                else:
                    del item[keyword]

    return change


def of_measures(*keywords: str) -> Change:
    def change(dataset: pydicom.Dataset) -> None:
        for keyword in keywords:
            del dataset.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0][keyword]

    return change


def shared_to_frames(dataset: pydicom.Dataset) -> None:
    shared = dataset.SharedFunctionalGroupsSequence[0]
    for frame in dataset.PerFrameFunctionalGroupsSequence:
        frame.PlaneOrientationSequence = shared.PlaneOrientationSequence
        frame.PixelMeasuresSequence = shared.PixelMeasuresSequence
    dataset.SharedFunctionalGroupsSequence = []


def fewer_references(dataset: pydicom.Dataset) -> None:
    del dataset.SourceImageSequence, dataset.ReferencedSeriesSequence
    for frame in dataset.PerFrameFunctionalGroupsSequence:
        del frame.DerivationImageSequence


CATEGORY, TYPE = "SegmentedPropertyCategoryCodeSequence", "SegmentedPropertyTypeCodeSequence"
CHANGES = {
    "scrambled": scramble,
    "no algorithm type": of_segments("SegmentAlgorithmType"),
    "no label": of_segments("SegmentLabel"),
    "no category": of_segments(CATEGORY),
    "no type": of_segments(TYPE),
    "none of them": of_segments("SegmentAlgorithmType", "SegmentLabel", CATEGORY, TYPE),
    "empty category": of_segments(CATEGORY, empty=True),
    "empty type": of_segments(TYPE, empty=True),
    "all empty": of_segments("SegmentAlgorithmType", "SegmentLabel", CATEGORY, TYPE, empty=True),
    "no distance": of_measures("SpacingBetweenSlices"),
    "no distance nor thickness": of_measures("SpacingBetweenSlices", "SliceThickness"),
    "groups in the frames": shared_to_frames,
    "no references": fewer_references,
}


@pytest.mark.parametrize("given", [True, False], ids=["with the image", "alone"])
@pytest.mark.parametrize("change", CHANGES)
def test_what_makers_leave_out_is_made_up_for(series, source, pixels, change, given, tmp_path):
    path = foreign(series, pixels, tmp_path / "other.dcm", change=CHANGES[change])

    read, names = read_back(path, source, source if given else None)

    np.testing.assert_array_equal(read, pixels)
    if change in ("no label", "none of them", "all empty"):
        # By their type, or by their number where they have none.
        assert names == (["Liver", "Liver"] if change == "no label" else ["segment 1", "segment 2"])
    else:
        assert names == ["part 1", "part 2"]


@pytest.mark.parametrize("lacks", [(), ("SliceThickness",)])
@pytest.mark.parametrize("slices", [(1, 5), (0, 1), (6,), (0, 3, 4)])
def test_annotated_slices_stay_as_many_as_they_are(series, source, slices, lacks, tmp_path):
    pixels = np.zeros((7, 8, 9), np.uint8)
    pixels[list(slices), 2:5, 3:6] = 1
    pixels[slices[-1], 6, 7] = 2
    path = foreign(series, pixels, tmp_path / "other.dcm", change=of_measures("SpacingBetweenSlices", *lacks))

    read, _ = read_back(path, source, source)

    np.testing.assert_array_equal(read, pixels)
    if not lacks:
        np.testing.assert_array_equal(read_back(path, source, None)[0], pixels)


@pytest.mark.parametrize("syntax", [None, RLELossless, JPEGLSLossless])
@pytest.mark.parametrize("kind", ["LABELMAP", "FRACTIONAL"])
def test_label_maps_and_whole_fractions_are_read_compressed_or_not(series, source, pixels, kind, syntax, tmp_path):
    more = {} if syntax is None else {"transfer_syntax_uid": syntax}
    stored = pixels if kind == "LABELMAP" else np.stack([pixels == 1, pixels == 2], axis=-1).astype(float)
    path = foreign(series, stored, tmp_path / "other.dcm", kind, **more)

    for given in (source, None):
        read, names = read_back(path, source, given)
        np.testing.assert_array_equal(read, pixels)
        assert names == ["part 1", "part 2"]


def test_a_compression_that_nothing_here_knows_is_told(series, source, pixels, tmp_path, monkeypatch):
    def nothing(*_given, **_named):
        raise RuntimeError("all plugins are missing dependencies")

    path = foreign(series, pixels, tmp_path / "other.dcm", "LABELMAP", transfer_syntax_uid=RLELossless)
    monkeypatch.setattr(dicom_seg_reader, "iter_pixels", nothing)

    with pytest.raises(InputError, match="compressed"):
        read_segmentation(path, source)


def test_a_label_map_may_have_another_background(series, source, pixels, tmp_path):
    def exchange(dataset):
        stored = np.frombuffer(dataset.PixelData, np.uint8)
        dataset.PixelData = np.where(stored == 0, 255, stored).astype(np.uint8).tobytes()
        dataset.PixelPaddingValue = 255

    path = foreign(series, pixels, tmp_path / "other.dcm", "LABELMAP", exchange)

    np.testing.assert_array_equal(read_back(path, source, source)[0], pixels)


def test_a_segment_that_nobody_describes_is_read(series, source, pixels, tmp_path, caplog):
    def forget(dataset):
        del dataset.SegmentSequence[1]

    path = foreign(series, pixels, tmp_path / "other.dcm", change=forget)

    read, names = read_back(path, source, source)

    np.testing.assert_array_equal(read, pixels)
    assert names == ["part 1", "segment 2"] and "does not describe segment 2" in caplog.text


def test_overlapping_segments_go_into_several_layers(series, source, pixels, tmp_path):
    masks = np.stack([pixels > 0, pixels == 2], axis=-1).astype(np.uint8)
    path = foreign(series, masks, tmp_path / "other.dcm", change=scramble)

    read, _ = align_segmentation(read_segmentation(path, source), source)

    for structure, mask in zip(read.structures, (pixels > 0, pixels == 2), strict=True):
        np.testing.assert_array_equal(read.array(structure), mask)


def turn(dataset: pydicom.Dataset) -> None:
    shared_to_frames(dataset)
    other = pydicom.Dataset()
    other.ImageOrientationPatient = [0, 1, 0, 0, 0, 1]
    dataset.PerFrameFunctionalGroupsSequence[0].PlaneOrientationSequence = [other]


def shift(dataset: pydicom.Dataset) -> None:
    place = dataset.PerFrameFunctionalGroupsSequence[0].PlanePositionSequence[0]
    orientation = dataset.SharedFunctionalGroupsSequence[0].PlaneOrientationSequence[0].ImageOrientationPatient
    place.ImagePositionPatient = [float(x) + 5 * float(o) for x, o in zip(place.ImagePositionPatient, orientation[:3], strict=True)]


def unplace(dataset: pydicom.Dataset) -> None:
    for frame in dataset.PerFrameFunctionalGroupsSequence:
        del frame.PlanePositionSequence


def empty_place(dataset: pydicom.Dataset) -> None:
    dataset.PerFrameFunctionalGroupsSequence[0].PlanePositionSequence[0].ImagePositionPatient = None


def resize(dataset: pydicom.Dataset) -> None:
    measures = dataset.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    for k, frame in enumerate(dataset.PerFrameFunctionalGroupsSequence):
        frame.PixelMeasuresSequence = [pydicom.Dataset()]
        frame.PixelMeasuresSequence[0].update(measures)
        frame.PixelMeasuresSequence[0].PixelSpacing = [1 + 0.01 * k, 1]


def repeat(dataset: pydicom.Dataset) -> None:
    groups = dataset.PerFrameFunctionalGroupsSequence
    groups[1].PlanePositionSequence = groups[0].PlanePositionSequence


def truncate(dataset: pydicom.Dataset) -> None:
    dataset.PixelData = dataset.PixelData[:2]


REFUSED = {
    turn: "turned",
    shift: "sideways",
    unplace: "all say where",
    empty_place: "all say where",
    resize: "several sizes",
    repeat: "several masks",
    truncate: "damaged",
}


@pytest.mark.parametrize("change", REFUSED)
def test_what_is_no_volume_is_refused_with_its_reason(series, source, pixels, change, tmp_path):
    path = foreign(series, pixels, tmp_path / "other.dcm", change=change)

    for given in (source, None):
        with pytest.raises(InputError, match=REFUSED[change]) as caught:
            read_segmentation(path, given)
        assert caught.value.explanation and caught.value.solution


@pytest.mark.parametrize("keyword", ["SegmentSequence", "PerFrameFunctionalGroupsSequence", "SharedFunctionalGroupsSequence", "PixelData"])
@pytest.mark.parametrize("empty", [True, False])
def test_a_file_without_what_it_needs_is_refused(series, source, pixels, keyword, empty, tmp_path):
    def change(dataset):
        if empty:
            setattr(dataset, keyword, b"" if keyword == "PixelData" else [])
        else:
            del dataset[keyword]

    path = foreign(series, pixels, tmp_path / "other.dcm", change=change)
    if keyword == "SegmentSequence" and empty:
        assert read_back(path, source, source)[1] == ["segment 1", "segment 2"]
        return

    with pytest.raises(InputError):
        read_segmentation(path, source)


def test_a_file_of_explicit_little_endian_keeps_its_patient_to_itself(series, source, pixels, tmp_path, capfd, recwarn):
    def name(dataset):
        dataset.PatientName, dataset.PatientBirthDate = "Geheimrat", ""
        dataset.StudyDate = ""

    path = foreign(series, pixels, tmp_path / "other.dcm", change=name)
    content = path.read_bytes()
    assert pydicom.dcmread(path).file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
    path.write_bytes(content.replace(b"Geheimrat ", b"Geheim\xff\xfe\\\\"))
    recwarn.clear()
    capfd.readouterr()

    read_segmentation(path, source)

    shown = capfd.readouterr()
    assert "Geheim" not in shown.out + shown.err + "".join(str(w.message) for w in recwarn)
