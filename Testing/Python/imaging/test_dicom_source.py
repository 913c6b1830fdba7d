"""The series that a DICOM object belongs to: its headers are read once a run, without a word, and errors in reading it name it."""

from __future__ import annotations

import errno
import logging
import warnings
from pathlib import Path

import pydicom
import pytest

from RAUSlicerLib.errors import InputError, OutputError
from RAUSlicerLib.imaging.dicom import source_planes
from RAUSlicerLib.imaging.dicom_source import VolumeSource
from RAUSlicerLib.imaging.files import check_output, prove_output, read_volume, write_result, write_segmentation

from .builders import counted_reads, make_segmentation, write_series


def test_headers_are_read_once_for_all_checks_and_the_file(oblique, monkeypatch, tmp_path):
    series = write_series(oblique, tmp_path / "series")
    names = {file.name for file in series.iterdir()}
    source, reads = VolumeSource(series), counted_reads(monkeypatch)

    check_output(tmp_path / "out.dcm", volume_path=source)
    image = read_volume(series)
    segmentation = make_segmentation(image)
    prove_output(tmp_path / "out.dcm", segmentation, segmentation.structures, image, volume_path=source)
    write_result(segmentation, tmp_path / "out.dcm", image, volume_path=source)

    of_series = [reads[name] for name in names]
    # Once for the objects and twice for the image; what they repeat of patient and study is in the header of one file.
    assert max(of_series) <= 4 and sorted(of_series)[:-1] == [3] * 6
    reads.clear()
    write_segmentation(segmentation, tmp_path / "again.dcm", image, volume_path=series)
    assert sum(reads[name] for name in names) == 8


def test_another_source_of_the_same_path_is_read_anew(oblique, tmp_path):
    series = write_series(oblique, tmp_path / "series", PatientID="before")
    image = read_volume(series)
    written = []
    for name in ("before", "after"):
        for file in series.iterdir():
            dataset = pydicom.dcmread(file)
            dataset.PatientID = name
            dataset.save_as(file)
        write_segmentation(make_segmentation(image), tmp_path / f"{name}.dcm", image, volume_path=series)
        written.append(pydicom.dcmread(tmp_path / f"{name}.dcm").PatientID)

    assert written == ["before", "after"]


def test_writing_does_not_change_what_is_kept(oblique, tmp_path):
    source = VolumeSource(write_series(oblique, tmp_path / "series", SliceThickness=None))
    image = read_volume(tmp_path / "series")
    told = []
    for name in ("a.dcm", "b.dcm"):
        told.append(write_segmentation(make_segmentation(image), tmp_path / name, image, volume_path=source))

    assert told[0] == told[1] and any("how thick" in sentence for sentence in told[0])


def odd(_k: int, header: pydicom.Dataset) -> None:
    header.add_new("SeriesInstanceUID", "UI", "1.2.3")
    header["SeriesInstanceUID"]._value = "not a uid"
    header.SliceThickness = 1


def test_looking_at_a_source_warns_of_nothing(oblique, tmp_path, caplog, capfd):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        series = write_series(oblique, tmp_path / "series", odd=odd, SpacingBetweenSlices=1.1)
        write_series(oblique[:, :, :3], tmp_path / "series")
    capfd.readouterr()
    with caplog.at_level(logging.WARNING):
        read_volume(series)
    assert "2 image series" in caplog.text and "not as the standard demands" in caplog.text
    caplog.clear()

    with caplog.at_level(logging.DEBUG), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        source_planes(series)
        check_output(tmp_path / "out.dcm", volume_path=series)

    assert (caplog.text, capfd.readouterr().err, caught) == ("", "", [])


@pytest.mark.parametrize("check", [True, False])
def test_an_error_in_reading_the_source_names_the_source(oblique, check, tmp_path, monkeypatch):
    series = write_series(oblique, tmp_path / "series")
    image = read_volume(series)
    bad = sorted(series.iterdir())[2]
    real = Path.open

    def failing(path, *given, **named):
        if path == bad:
            raise OSError(errno.EIO, "Input/output error", str(path))
        return real(path, *given, **named)

    monkeypatch.setattr(Path, "open", failing)
    with pytest.raises(InputError) as caught:
        if check:
            check_output(tmp_path / "out.dcm", volume_path=series)
        else:
            write_segmentation(make_segmentation(image), tmp_path / "out.dcm", image, volume_path=series)

    assert str(bad) in caught.value.problem and "out.dcm" not in str(caught.value)
    assert "Input/output error" in caught.value.explanation


def test_a_series_that_can_not_be_read_as_a_volume_says_so(oblique, tmp_path):
    series = write_series(oblique, tmp_path / "series")
    for file in series.iterdir():
        if pydicom.dcmread(file).InstanceNumber == 4:
            file.unlink()

    with pytest.raises(InputError, match="lacks slices"):
        check_output(tmp_path / "out.dcm", volume_path=series)


@pytest.mark.parametrize("source", [None, "missing", "text.txt"])
def test_what_is_no_series_is_refused_with_a_way_out(source, tmp_path):
    (tmp_path / "text.txt").write_text("no image")

    with pytest.raises(OutputError) as caught:
        check_output(tmp_path / "out.dcm", volume_path=None if source is None else tmp_path / source)

    assert ".seg.nrrd" in caught.value.solution and str(tmp_path / "out.dcm") in caught.value.problem
