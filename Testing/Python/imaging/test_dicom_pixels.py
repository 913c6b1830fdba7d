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

from .builders import values, write_series

SYNTAXES = {
    "rle": uid.RLELossless,
    "jpeg-ls": uid.JPEGLSLossless,
    "jpeg 2000": uid.JPEG2000Lossless,
    "jpeg lossless": uid.JPEGLosslessSV1,
    "deflated": uid.DeflatedExplicitVRLittleEndian,
}
z, y, x = np.mgrid[:5, :24, :32]
# Values from 0 to 4000 that compress well.
SMOOTH = (2000 + 1900 * np.sin(x / 7 + z) * np.cos(y / 5)).astype(np.int16)


@pytest.fixture
def write(tmp_path) -> Callable[..., Path]:
    """write(kind, pixels, **elements): a folder with a series that is compressed so."""

    def made(kind: str | None = None, pixels: np.ndarray = SMOOTH, **changed: object) -> Path:
        folder = write_series(sitk.GetImageFromArray(pixels), tmp_path / "series", **({"PixelRepresentation": 0} | changed))
        if kind is not None:
            rewrite(folder, lambda slice_: compress(slice_, kind))
        return folder

    return made


def rewrite(folder: Path, change: Callable[[Dataset], None], **options: bool) -> None:
    for file in sorted(folder.iterdir()):
        slice_ = pydicom.dcmread(file)
        change(slice_)
        slice_.save_as(file, **options)


def wrap(slice_: Dataset, frames: list[bytes]) -> None:
    slice_.PixelData = encapsulate(frames)
    slice_["PixelData"].is_undefined_length = True


def compress(slice_: Dataset, kind: str) -> None:
    """Compress the pixels of a file with 16 bits allocated."""
    pixels = slice_.pixel_array
    if kind in ("rle", "jpeg-ls"):
        slice_.compress(SYNTAXES[kind], generate_instance_uid=False)
        return
    slice_.file_meta.TransferSyntaxUID = SYNTAXES[kind]
    if kind != "deflated":
        wrap(slice_, [jpeg_2000(pixels) if kind == "jpeg 2000" else jpeg_lossless(pixels, slice_)])


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


@pytest.mark.parametrize("kind", SYNTAXES)
@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("bits", [12, 16])
def test_a_compressed_series_comes_back_exactly(write, kind, signed, bits):
    if kind == "jpeg 2000" and signed:
        pytest.skip("Pillow writes no signed JPEG 2000")
    stored = SMOOTH - 2000 if signed else SMOOTH
    form = {"PixelRepresentation": int(signed), "BitsStored": bits, "HighBit": bits - 1, "RescaleIntercept": -1000, "RescaleSlope": 2}

    np.testing.assert_array_equal(values(read_volume(write(kind, stored, **form))), stored.astype(int) * 2 - 1000)


@pytest.mark.parametrize("kind", ["rle", "jpeg-ls", "jpeg lossless", "jpeg 2000"])
@pytest.mark.parametrize("kept", [0.3, 0.8, 0.97])
def test_a_compressed_slice_that_ends_early_is_an_error(write, kind, kept):
    folder = write(kind)
    file = sorted(folder.iterdir())[2]
    slice_ = pydicom.dcmread(file)
    frame = next(generate_frames(slice_.PixelData, number_of_frames=1))
    wrap(slice_, [frame[: int(len(frame) * kept)]])
    slice_.save_as(file)

    with pytest.raises(InputError, match=file.name):
        read_volume(folder)


@pytest.mark.parametrize(
    ("kind", "damage"),
    [
        *((kind, lambda content: content[:-300]) for kind in ("rle", "jpeg lossless", "deflated")),
        ("deflated", lambda content: content[:400] + b"\x07" * 40 + content[440:]),
    ],
)
def test_a_compressed_file_that_ends_early_or_is_damaged_is_an_error(write, kind, damage):
    folder = write(kind)
    file = sorted(folder.iterdir())[2]
    file.write_bytes(damage(file.read_bytes()))

    with pytest.raises(InputError, match="" if kind == "deflated" else file.name):
        read_volume(folder)


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2.4.201", "1.2.840.10008.1.2.4.102", "1.2.3.4.5.6"])
def test_what_nothing_here_decodes_is_named_with_the_way_out(write, syntax):
    def change(slice_):
        wrap(slice_, [b"\xff\x4f\xff\x51" + bytes(200)])
        slice_.file_meta.TransferSyntaxUID = syntax

    folder = write()
    rewrite(folder, change, enforce_file_format=False)

    with pytest.raises(InputError, match="can't be decompressed") as caught:
        read_volume(folder)
    assert uid.UID(syntax).name in caught.value.explanation
    assert "Explicit VR Little Endian" in caught.value.solution


def test_signs_and_unused_bits_are_cleaned(write):
    """Twelve bits with an overlay in the upper four, as old scanners store it."""
    signed = SMOOTH - 2000

    def overlaid(k, header):
        stored = (signed[k].astype(np.uint16) & 0x0FFF) | 0x8000 | ((np.arange(32) % 2).astype(np.uint16) << 13)
        header.PixelData = stored.tobytes()

    folder = write(pixels=signed, PixelRepresentation=1, BitsStored=12, HighBit=11, overlaid=overlaid)

    np.testing.assert_array_equal(values(read_volume(folder)), signed)


def test_slices_of_different_types_lose_nothing(write):
    def vary(k, header):
        if k == 2:
            header.PixelRepresentation, header.PixelData = 0, (SMOOTH[k].astype(np.uint16) + 60000).tobytes()
        if k == 3:
            header.BitsAllocated, header.BitsStored, header.HighBit, header.PixelRepresentation = 8, 8, 7, 0
            header.PixelData = (SMOOTH[k] // 16).astype(np.uint8).tobytes()

    expected = SMOOTH.astype(int)
    expected[2] += 60000
    expected[3] //= 16
    np.testing.assert_array_equal(values(read_volume(write(PixelRepresentation=1, vary=vary))), expected)


@pytest.mark.parametrize(("slope", "kind"), [(1, np.int16), (3, np.int32), (0.25, np.float32)])
def test_the_type_holds_every_rescaled_value(write, slope, kind):
    read = values(read_volume(write(PixelRepresentation=1, RescaleSlope=slope, RescaleIntercept=0)))

    assert read.dtype == kind
    np.testing.assert_array_equal(read, SMOOTH * float(slope))


@pytest.mark.parametrize("kind", ["rle", None])
def test_elements_that_have_one_usual_value_may_be_missing(write, kind):
    def change(slice_):
        for keyword in ("SamplesPerPixel", "PhotometricInterpretation", "PixelRepresentation", "BitsStored", "HighBit"):
            delattr(slice_, keyword)

    folder = write(kind)
    rewrite(folder, change)

    np.testing.assert_array_equal(values(read_volume(folder)), SMOOTH)


@pytest.mark.skipif(os.name == "nt", reason="Windows does not let a file be taken from who has it open")
def test_what_a_killed_run_left_of_decoding_goes_with_the_next(write, tmp_path):
    folder = write("jpeg lossless")
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


def test_no_room_for_temporary_files_is_not_called_damage(write, tmp_path, monkeypatch):
    folder = write("jpeg lossless")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "gone"))

    with pytest.raises(InputError, match=r"No temporary files can be written to .*gone") as caught:
        read_volume(folder)

    assert "damaged" not in str(caught.value)
