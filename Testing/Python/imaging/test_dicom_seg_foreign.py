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

from .builders import item, noise, write_series

TISSUE = Code("85756007", "SCT", "Tissue")
LIVER = Code("10200004", "SCT", "Liver")
Change = Callable[[pydicom.Dataset], None]
PIXELS = np.zeros((7, 8, 9), np.uint8)
PIXELS[1:3, 2:4, 3:6], PIXELS[4:6, 1:3, 2:5] = 1, 2
PIXELS[1, 6, 7] = 2


@pytest.fixture(params=["oblique flipped", "plain"])
def series(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return write_series(noise(request.param), tmp_path / "series")


@pytest.fixture
def source(series: Path) -> sitk.Image:
    return read_volume(series)


@pytest.fixture
def foreign(series: Path, tmp_path: Path) -> Callable[..., Path]:
    """foreign(change, pixels, kind, **more): a file with two segments, whose dataset was changed."""

    def write(change: Change | None = None, pixels: np.ndarray = PIXELS, kind: str = "BINARY", **more: object) -> Path:
        sources = [pydicom.dcmread(plane.path) for plane in source_planes(series)]
        descriptions = [hd.seg.SegmentDescription(n, f"part {n}", TISSUE, LIVER, "MANUAL") for n in (1, 2)]
        dataset = hd.seg.Segmentation(sources, pixels, kind, descriptions, hd.UID(), 9, hd.UID(), 1, "maker", "model", "1", "0", **more)
        path = tmp_path / "other.dcm"
        dataset.save_as(path)
        if change is not None:
            dataset = pydicom.dcmread(path)
            change(dataset)
            dataset.save_as(path)
        return path

    return write


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
        for segment in dataset.SegmentSequence:
            for keyword in keywords:
                if empty:
                    setattr(segment, keyword, [] if keyword.endswith("Sequence") else None)
                else:
                    del segment[keyword]

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
def test_what_makers_leave_out_is_made_up_for(foreign, source, change, given):
    read, names = read_back(foreign(CHANGES[change]), source, source if given else None)

    np.testing.assert_array_equal(read, PIXELS)
    # By their type, or by their number where they have none.
    told = {"no label": "Liver Liver", "none of them": "segment 1 segment 2", "all empty": "segment 1 segment 2"}
    assert " ".join(names) == told.get(change, "part 1 part 2")


@pytest.mark.parametrize("lacks", [(), ("SliceThickness",)])
@pytest.mark.parametrize("slices", [(1, 5), (0, 1), (6,), (0, 3, 4)])
def test_annotated_slices_stay_as_many_as_they_are(foreign, source, slices, lacks):
    pixels = np.zeros((7, 8, 9), np.uint8)
    pixels[list(slices), 2:5, 3:6] = 1
    pixels[slices[-1], 6, 7] = 2
    path = foreign(of_measures("SpacingBetweenSlices", *lacks), pixels)

    for given in (source, *([] if lacks else [None])):
        np.testing.assert_array_equal(read_back(path, source, given)[0], pixels)


@pytest.mark.parametrize("syntax", [None, RLELossless, JPEGLSLossless])
@pytest.mark.parametrize("kind", ["LABELMAP", "FRACTIONAL"])
def test_label_maps_and_whole_fractions_are_read_compressed_or_not(foreign, source, kind, syntax):
    more = {} if syntax is None else {"transfer_syntax_uid": syntax}
    stored = PIXELS if kind == "LABELMAP" else np.stack([PIXELS == 1, PIXELS == 2], axis=-1).astype(float)
    path = foreign(None, stored, kind, **more)

    for given in (source, None):
        read, names = read_back(path, source, given)
        np.testing.assert_array_equal(read, PIXELS)
        assert names == ["part 1", "part 2"]


def test_probabilities_are_refused(foreign):
    with pytest.raises(InputError, match="probabilities"):
        read_segmentation(foreign(None, np.random.default_rng(0).random((7, 8, 9, 2)) / 2, "FRACTIONAL"))


def test_a_compression_that_nothing_here_knows_is_told(foreign, source, monkeypatch):
    def nothing(*_given, **_named):
        raise RuntimeError("all plugins are missing dependencies")

    path = foreign(None, PIXELS, "LABELMAP", transfer_syntax_uid=RLELossless)
    monkeypatch.setattr(dicom_seg_reader, "iter_pixels", nothing)

    with pytest.raises(InputError, match="compressed"):
        read_segmentation(path, source)


def test_a_label_map_may_have_another_background(foreign, source):
    def exchange(dataset):
        stored = np.frombuffer(dataset.PixelData, np.uint8)
        dataset.PixelData = np.where(stored == 0, 255, stored).astype(np.uint8).tobytes()
        dataset.PixelPaddingValue = 255

    np.testing.assert_array_equal(read_back(foreign(exchange, PIXELS, "LABELMAP"), source, source)[0], PIXELS)


def test_a_segment_that_nobody_describes_is_read(foreign, source, caplog):
    read, names = read_back(foreign(lambda dataset: dataset.SegmentSequence.pop()), source, source)

    np.testing.assert_array_equal(read, PIXELS)
    assert names == ["part 1", "segment 2"] and "does not describe segment 2" in caplog.text


def test_overlapping_segments_go_into_several_layers(foreign, source):
    masks = np.stack([PIXELS > 0, PIXELS == 2], axis=-1).astype(np.uint8)

    read, _ = align_segmentation(read_segmentation(foreign(scramble, masks), source), source)

    for structure, mask in zip(read.structures, (PIXELS > 0, PIXELS == 2), strict=True):
        np.testing.assert_array_equal(read.array(structure), mask)


def turn(dataset: pydicom.Dataset) -> None:
    shared_to_frames(dataset)
    dataset.PerFrameFunctionalGroupsSequence[0].PlaneOrientationSequence = item(ImageOrientationPatient=[0, 1, 0, 0, 0, 1])


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
    for k, frame in enumerate(dataset.PerFrameFunctionalGroupsSequence):
        frame.PixelMeasuresSequence = item(PixelSpacing=[1 + 0.01 * k, 1])


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
def test_what_is_no_volume_is_refused_with_its_reason(foreign, source, change):
    path = foreign(change)

    for given in (source, None):
        with pytest.raises(InputError, match=REFUSED[change]) as caught:
            read_segmentation(path, given)
        assert caught.value.explanation and caught.value.solution


@pytest.mark.parametrize("keyword", ["SegmentSequence", "PerFrameFunctionalGroupsSequence", "SharedFunctionalGroupsSequence", "PixelData"])
@pytest.mark.parametrize("empty", [True, False])
def test_a_file_without_what_it_needs_is_refused(foreign, source, keyword, empty):
    def change(dataset):
        if empty:
            setattr(dataset, keyword, b"" if keyword == "PixelData" else [])
        else:
            del dataset[keyword]

    path = foreign(change)
    if keyword == "SegmentSequence" and empty:
        assert read_back(path, source, source)[1] == ["segment 1", "segment 2"]
        return

    with pytest.raises(InputError):
        read_segmentation(path, source)


def test_a_file_of_explicit_little_endian_keeps_its_patient_to_itself(foreign, source, capfd, recwarn):
    def name(dataset):
        dataset.PatientName, dataset.PatientBirthDate, dataset.StudyDate = "Geheimrat", "", ""

    path = foreign(name)
    content = path.read_bytes()
    assert pydicom.dcmread(path).file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
    path.write_bytes(content.replace(b"Geheimrat ", b"Geheim\xff\xfe\\\\"))
    recwarn.clear()
    capfd.readouterr()

    read_segmentation(path, source)

    shown = capfd.readouterr()
    assert "Geheim" not in shown.out + shown.err + "".join(str(w.message) for w in recwarn)
