"""Pixels of DICOM images: every way to compress them, signs, unused bits, and what is damaged."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from PIL import Image
from pydicom import uid
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, generate_frames

from RAUSlicerLib.errors import InputError
from RAUSlicerLib.imaging.files import read_volume

WriteSeries = Callable[..., Path]
SYNTAXES = {
    "rle": uid.RLELossless,
    "jpeg-ls": uid.JPEGLSLossless,
    "jpeg 2000": uid.JPEG2000Lossless,
    "jpeg lossless": uid.JPEGLosslessSV1,
    "deflated": uid.DeflatedExplicitVRLittleEndian,
}


@pytest.fixture
def smooth() -> np.ndarray:
    """Values from 0 to 4000 that compress well, shape (5, 24, 32)."""
    z, y, x = np.mgrid[:5, :24, :32]
    return (2000 + 1900 * np.sin(x / 7 + z) * np.cos(y / 5)).astype(np.int16)


def compress(slice_: Dataset, kind: str) -> None:
    """Compress the pixels of a file with 16 bits allocated."""
    pixels = slice_.pixel_array
    if kind in ("rle", "jpeg-ls"):
        slice_.compress(SYNTAXES[kind], generate_instance_uid=False)
        return
    frames = pixels.reshape(-1, slice_.Rows, slice_.Columns)
    slice_.file_meta.TransferSyntaxUID = SYNTAXES[kind]
    if kind == "deflated":
        return
    slice_.PixelData = encapsulate([jpeg_2000(frame) if kind == "jpeg 2000" else jpeg_lossless(frame, slice_) for frame in frames])
    slice_["PixelData"].is_undefined_length = True


def jpeg_2000(frame: np.ndarray) -> bytes:
    buffer = BytesIO()
    Image.fromarray(frame.astype(np.uint16)).save(buffer, "JPEG2000", no_jp2=True, irreversible=False)
    return buffer.getvalue()


def jpeg_lossless(frame: np.ndarray, form: Dataset) -> bytes:
    """By GDCM, which SimpleITK writes DICOM with."""
    path = Path(form.filename).with_name("scratch.tmp.dcm")
    writer = sitk.ImageFileWriter()
    writer.SetImageIO("GDCMImageIO")
    writer.UseCompressionOn()
    writer.SetCompressor("JPEG")
    writer.SetFileName(str(path))
    writer.Execute(sitk.GetImageFromArray(frame[None]))
    written = pydicom.dcmread(path)
    assert written.file_meta.TransferSyntaxUID == uid.JPEGLosslessSV1
    path.unlink()
    return next(generate_frames(written.PixelData, number_of_frames=1))


def compress_all(folder: Path, kind: str) -> None:
    for file in list(folder.iterdir()):
        slice_ = pydicom.dcmread(file)
        compress(slice_, kind)
        slice_.save_as(file)


@pytest.mark.parametrize("kind", SYNTAXES)
@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("bits", [12, 16])
def test_a_compressed_series_comes_back_exactly(
    smooth: np.ndarray, write_series: WriteSeries, tmp_path: Path, kind: str, signed: bool, bits: int
) -> None:
    if kind == "jpeg 2000" and signed:
        pytest.skip("Pillow writes no signed JPEG 2000")
    values = smooth - 2000 if signed else smooth
    form = {"PixelRepresentation": int(signed), "BitsStored": bits, "HighBit": bits - 1, "RescaleIntercept": -1000, "RescaleSlope": 2}
    folder = write_series(sitk.GetImageFromArray(values), tmp_path / "series", **form)
    compress_all(folder, kind)

    read = read_volume(folder)

    np.testing.assert_array_equal(sitk.GetArrayFromImage(read), values.astype(int) * 2 - 1000)


@pytest.mark.parametrize("kind", ["rle", "jpeg-ls", "jpeg lossless", "jpeg 2000"])
@pytest.mark.parametrize("kept", [0.3, 0.8, 0.97])
def test_a_compressed_slice_that_ends_early_is_an_error(
    smooth: np.ndarray, write_series: WriteSeries, tmp_path: Path, kind: str, kept: float
) -> None:
    folder = write_series(sitk.GetImageFromArray(smooth), tmp_path / "series", PixelRepresentation=0)
    compress_all(folder, kind)
    file = sorted(folder.iterdir())[2]
    slice_ = pydicom.dcmread(file)
    frame = next(generate_frames(slice_.PixelData, number_of_frames=1))
    slice_.PixelData = encapsulate([frame[: int(len(frame) * kept)]])
    slice_["PixelData"].is_undefined_length = True
    slice_.save_as(file)

    with pytest.raises(InputError, match=file.name):
        read_volume(folder)


@pytest.mark.parametrize("kind", ["rle", "jpeg lossless"])
def test_a_compressed_file_that_ends_early_is_an_error(smooth: np.ndarray, write_series: WriteSeries, tmp_path: Path, kind: str) -> None:
    folder = write_series(sitk.GetImageFromArray(smooth), tmp_path / "series", PixelRepresentation=0)
    compress_all(folder, kind)
    file = sorted(folder.iterdir())[2]
    file.write_bytes(file.read_bytes()[:-200])

    with pytest.raises(InputError, match=file.name):
        read_volume(folder)


def test_a_damaged_deflated_file_is_an_error(smooth: np.ndarray, write_series: WriteSeries, tmp_path: Path) -> None:
    folder = write_series(sitk.GetImageFromArray(smooth), tmp_path / "series")
    compress_all(folder, "deflated")
    file = sorted(folder.iterdir())[2]
    content = file.read_bytes()
    for damaged in (content[:-300], content[:400] + b"\x07" * 40 + content[440:]):
        file.write_bytes(damaged)
        with pytest.raises(InputError):
            read_volume(folder)


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2.4.201", "1.2.840.10008.1.2.4.102", "1.2.3.4.5.6"])
def test_what_nothing_here_decodes_is_named_with_the_way_out(
    smooth: np.ndarray, write_series: WriteSeries, tmp_path: Path, syntax: str
) -> None:
    folder = write_series(sitk.GetImageFromArray(smooth), tmp_path / "series")
    for file in folder.iterdir():
        slice_ = pydicom.dcmread(file)
        slice_.PixelData = encapsulate([b"\xff\x4f\xff\x51" + bytes(200)])
        slice_["PixelData"].is_undefined_length = True
        slice_.file_meta.TransferSyntaxUID = syntax
        slice_.save_as(file, enforce_file_format=False)

    with pytest.raises(InputError, match="can't be decompressed") as caught:
        read_volume(folder)
    assert uid.UID(syntax).name in caught.value.explanation
    assert "Explicit VR Little Endian" in caught.value.solution


def test_signs_and_unused_bits_are_cleaned(smooth: np.ndarray, write_series: WriteSeries, tmp_path: Path) -> None:
    """Twelve bits with an overlay in the upper four, as old scanners store it."""
    values = smooth - 2000

    def overlaid(k: int, header: Dataset) -> None:
        header.BitsStored, header.HighBit = 12, 11
        stored = (values[k].astype(np.uint16) & 0x0FFF) | 0x8000 | ((np.arange(32) % 2).astype(np.uint16) << 13)
        header.PixelData = stored.tobytes()

    folder = write_series(sitk.GetImageFromArray(values), tmp_path / "series", overlaid=overlaid)

    np.testing.assert_array_equal(sitk.GetArrayFromImage(read_volume(folder)), values)


def test_slices_of_different_types_lose_nothing(smooth: np.ndarray, write_series: WriteSeries, tmp_path: Path) -> None:
    def vary(k: int, header: Dataset) -> None:
        if k == 2:
            header.PixelRepresentation = 0
            header.PixelData = (smooth[k].astype(np.uint16) + 60000).tobytes()
        if k == 3:
            header.BitsAllocated, header.BitsStored, header.HighBit, header.PixelRepresentation = 8, 8, 7, 0
            header.PixelData = (smooth[k] // 16).astype(np.uint8).tobytes()

    folder = write_series(sitk.GetImageFromArray(smooth), tmp_path / "series", vary=vary)

    expected = smooth.astype(int)
    expected[2] += 60000
    expected[3] //= 16
    np.testing.assert_array_equal(sitk.GetArrayFromImage(read_volume(folder)), expected)


@pytest.mark.parametrize(("slope", "kind"), [(1, np.int16), (3, np.int32), (0.25, np.float32)])
def test_the_type_holds_every_rescaled_value(
    smooth: np.ndarray, write_series: WriteSeries, tmp_path: Path, slope: float, kind: type
) -> None:
    folder = write_series(sitk.GetImageFromArray(smooth), tmp_path / "series", RescaleSlope=slope, RescaleIntercept=0)

    read = sitk.GetArrayFromImage(read_volume(folder))

    assert read.dtype == kind
    np.testing.assert_array_equal(read, smooth * float(slope))


@pytest.mark.parametrize("compressed", [True, False])
def test_elements_that_have_one_usual_value_may_be_missing(
    smooth: np.ndarray, write_series: WriteSeries, tmp_path: Path, compressed: bool
) -> None:
    folder = write_series(sitk.GetImageFromArray(smooth), tmp_path / "series", PixelRepresentation=0)
    if compressed:
        compress_all(folder, "rle")
    for file in folder.iterdir():
        slice_ = pydicom.dcmread(file)
        for keyword in ("SamplesPerPixel", "PhotometricInterpretation", "PixelRepresentation", "BitsStored", "HighBit"):
            delattr(slice_, keyword)
        slice_.save_as(file)

    np.testing.assert_array_equal(sitk.GetArrayFromImage(read_volume(folder)), smooth)


@pytest.mark.skipif(os.name == "nt", reason="Windows does not let a file be taken from who has it open")
def test_what_a_killed_run_left_of_decoding_goes_with_the_next(smooth: np.ndarray, write_series: WriteSeries, tmp_path: Path) -> None:
    folder = write_series(sitk.GetImageFromArray(smooth), tmp_path / "series", PixelRepresentation=0)
    compress_all(folder, "jpeg lossless")
    (tmp_path / "temp").mkdir()
    environment = {**os.environ, "TMPDIR": str(tmp_path / "temp"), "PYTHONPATH": os.pathsep.join(sys.path)}
    program = """
import os, sys
from RAUSlicerLib.imaging import dicom_pixels, files
if sys.argv[2] == "killed":
    dicom_pixels.sitk.ReadImage = lambda *given, **named: os.kill(os.getpid(), 9)
files.read_volume(sys.argv[1])
"""
    for how in ("killed", "whole"):
        ended = subprocess.run([sys.executable, "-c", program, str(folder), how], env=environment, check=False).returncode
        assert (ended != 0) == (how == "killed")
        assert (list((tmp_path / "temp").iterdir()) != []) == (how == "killed")


def test_no_room_for_temporary_files_is_not_called_damage(
    smooth: np.ndarray, write_series: WriteSeries, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_series(sitk.GetImageFromArray(smooth), tmp_path / "series", PixelRepresentation=0)
    compress_all(folder, "jpeg lossless")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "gone"))

    with pytest.raises(InputError, match=r"No temporary files can be written to .*gone") as caught:
        read_volume(folder)

    assert "damaged" not in str(caught.value)
