"""Small volumes, segmentations and DICOM objects on the grids that go wrong most easily."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, EnhancedMRImageStorage, ExplicitVRLittleEndian, generate_uid
from pydicom.valuerep import DSfloat
from scipy.spatial.transform import Rotation

from RAUSlicerLib.errors import InputError
from RAUSlicerLib.imaging.files import read_segmentation, read_volume
from RAUSlicerLib.imaging.frame import from_array
from RAUSlicerLib.imaging.segmentation import Segmentation, Structure

_GENERAL = "Segmentation category and type - 3D Slicer General Anatomy list~SCT^123037004^Anatomical Structure"
LIVER = f"{_GENERAL}~SCT^10200004^Liver~^^~Anatomic codes - DICOM master list~^^~^^"
LEFT_KIDNEY = f"{_GENERAL}~SCT^64033007^Kidney~SCT^7771000^Left~Anatomic codes - DICOM master list~^^~^^"


def _turned(x: float, y: float, z: float) -> np.ndarray:
    return Rotation.from_euler("yxz", (y, x, z), degrees=True).as_matrix()


GRIDS = {
    "plain": (np.eye(3), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0)),
    "anisotropic": (np.eye(3), (0.7421875, 0.7421875, 5.0), (-123.4, 56.78, -901.25)),
    "flipped": (np.diag([-1.0, -1.0, 1.0]), (0.9, 1.1, 2.5), (80.0, 90.0, -40.0)),
    "left-handed": (np.diag([1.0, -1.0, 1.0]), (0.9, 1.1, 2.5), (80.0, 90.0, -40.0)),
    "sagittal": (np.array([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0], [0.0, -1.0, 0.0]]), (1.0, 1.0, 1.2), (-88.0, -120.0, 130.0)),
    "oblique": (_turned(12.0, -23.0, 37.0), (0.6, 0.85, 3.3), (-61.7, 17.3, 245.9)),
    "oblique flipped": (_turned(-8.0, 41.0, 5.0) @ np.diag([-1.0, 1.0, 1.0]), (0.6, 0.85, 3.3), (61.7, -17.3, 245.9)),
}


def on_grid(image: sitk.Image, grid: str) -> sitk.Image:
    """The image itself, put on a named grid."""
    direction, spacing, origin = GRIDS[grid]
    image.SetDirection(direction.ravel().tolist())
    image.SetSpacing(spacing)
    image.SetOrigin(origin)
    return image


def noise(grid: str = "plain", shape: tuple[int, ...] = (7, 8, 9), low: int = -900, high: int = 900, dtype: Any = np.int16) -> sitk.Image:
    """A volume of noise, by default of 9 x 8 x 7 voxels, on a named grid."""
    return on_grid(sitk.GetImageFromArray(np.random.default_rng(1).integers(low, high, shape).astype(dtype)), grid)


def values(image: sitk.Image) -> np.ndarray:
    return sitk.GetArrayFromImage(image)


def make_segmentation(volume: sitk.Image, overlapping: bool = False) -> Segmentation:
    """Four structures on a volume's grid; two of them in a second layer if they shall overlap."""
    first, second = np.zeros((2, *volume.GetSize()[::-1]), np.uint16)
    first[1:4, 2:6, 1:5] = 3
    first[4:6, 1:3, 5:9] = 300
    further = second if overlapping else first
    further[2:3, 3:7, 3:4] = 7
    further[0:1, 0:2, 0:8] = 12
    structures = (
        Structure(3, "Leber", (221 / 255, 130 / 255, 101 / 255), LIVER, id="liver"),
        Structure(300, "左腎 / ľavá oblička", (0.0, 1.0, 0.2), LEFT_KIDNEY, id="Segment_9"),
        Structure(7, "tumour: a|b ~ c^d", (1.0, 0.0, 0.0), None, layer=int(overlapping), id="t"),
        Structure(12, "Leber", (0.2, 0.2, 0.2), None, layer=int(overlapping), id="liver-2"),
    )
    layers = [from_array(array, volume) for array in ((first, second) if overlapping else (first,))]
    return Segmentation(layers[0], structures, tuple(layers[1:]))


def grids_agree(a: sitk.Image, b: sitk.Image, atol: float = 1e-3) -> None:
    """Asserts that two images have the same grid to a thousandth of a voxel, far finer than the library's own tolerance."""
    assert a.GetSize() == b.GetSize()
    last = [n - 1 for n in a.GetSize()]
    for index in ([0, 0, 0], last, [last[0], 0, 0], [0, last[1], 0], [0, 0, last[2]]):
        found = b.TransformPhysicalPointToContinuousIndex(a.TransformIndexToPhysicalPoint(index))
        np.testing.assert_allclose(found, index, rtol=0, atol=atol)


def same_image(read: sitk.Image, expected: sitk.Image, atol: float = 1e-3) -> None:
    """Asserts that two images have the same grid and the same voxels."""
    grids_agree(read, expected, atol)
    np.testing.assert_array_equal(values(read), values(expected))


def same_layers(read: Segmentation, expected: Segmentation, atol: float = 1e-3) -> None:
    """Asserts that two segmentations have the same label maps in the same place."""
    for a, b in zip(read.layers, expected.layers, strict=True):
        same_image(a, b, atol)


def same_masks(read: Segmentation, expected: Segmentation) -> None:
    """Asserts that two segmentations have the same voxels, structure by structure."""
    for found, structure in zip(read.structures, expected.structures, strict=True):
        np.testing.assert_array_equal(read.array(found), expected.array(structure))


def right_handed(volume: sitk.Image) -> sitk.Image:
    """DICOM's slice axis always makes the axes right-handed, so a left-handed grid comes back with its slices reversed."""
    return volume if np.linalg.det(np.reshape(volume.GetDirection(), (3, 3))) > 0 else sitk.Flip(volume, [False, False, True])


def item(**elements: Any) -> list[Dataset]:
    """A sequence of one item."""
    dataset = Dataset()
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
    return [dataset]


def decimals(numbers: Iterable[float]) -> list[DSfloat]:
    return [DSfloat(float(x), auto_format=True) for x in numbers]


def _geometry(volume: sitk.Image) -> tuple[list[DSfloat], list[DSfloat], DSfloat]:
    """Orientation, pixel spacing and thickness as DICOM has them."""
    columns, rows, slices = decimals(volume.GetSpacing())
    return decimals(np.reshape(volume.GetDirection(), (3, 3))[:, :2].T.ravel()), [rows, columns], slices


def _image(pixels: np.ndarray, **elements: Any) -> Dataset:
    """A header with what images of any kind say, and with these pixels."""
    usual = {
        **{"SOPInstanceUID": generate_uid(), "StudyInstanceUID": "1.2.4", "SeriesInstanceUID": "1.2.3", "FrameOfReferenceUID": "1.2.5"},
        **{"SeriesNumber": 1, "InstanceNumber": 1, "PatientName": "Test^Phantom", "PatientID": "T1", "PatientBirthDate": ""},
        **{"PatientSex": "O", "StudyDate": "20260101", "StudyTime": "120000", "StudyID": "1", "AccessionNumber": ""},
        **{"ReferringPhysicianName": "", "SamplesPerPixel": 1, "PhotometricInterpretation": "MONOCHROME2"},
        **{"BitsAllocated": 16, "BitsStored": 16, "HighBit": 15, "PixelRepresentation": int(pixels.dtype.kind == "i")},
        **{"Rows": pixels.shape[-2], "Columns": pixels.shape[-1], "PixelData": pixels.tobytes()},
    }
    (image,) = item(**usual | elements)
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return image


def _changed(image: Dataset, k: int, changed: dict[str, Any]) -> Dataset:
    for keyword, value in changed.items():
        if callable(value):
            value(k, image)
        else:
            setattr(image, keyword, value)
    return image


def write_series(volume: sitk.Image, folder: Path, **changed: Any) -> Path:
    """Writes a volume as a DICOM series of CT slices, in shuffled order, and returns its folder.

    ``changed`` overrides header elements; a callable gets the slice's index and header and changes it in place.
    """
    folder.mkdir(exist_ok=True)
    own = {f"{kind}UID": generate_uid() for kind in ("StudyInstance", "SeriesInstance", "FrameOfReference")}
    orientation, spacing, thickness = _geometry(volume)
    pixels = values(volume).astype(np.int16)
    for k in np.random.default_rng(0).permutation(len(pixels)).tolist():
        slice_ = _image(
            pixels[k],
            **{"SOPClassUID": CTImageStorage, "Modality": "CT", "InstanceNumber": k + 1, "RescaleSlope": 1, "RescaleIntercept": 0},
            **{"ImagePositionPatient": decimals(volume.TransformIndexToPhysicalPoint((0, 0, k))), "ImageOrientationPatient": orientation},
            **{"PixelSpacing": spacing, "SliceThickness": thickness},
            **own,
        )
        _changed(slice_, k, changed).save_as(folder / f"{slice_.SOPInstanceUID}.dcm", enforce_file_format=True)
    return folder


def write_enhanced(
    volume: sitk.Image, path: Path, order: Sequence[int] | None = None, change: Callable[[int, Dataset], None] | None = None, **changed: Any
) -> Path:
    """Writes slices of a volume as the frames of an enhanced MR image, in the given order; returns the file.

    The thickness of slices is in the shared groups, their distance nowhere. ``change`` gets each frame's number and functional groups,
    ``changed`` is as for ``write_series``.
    """
    pixels = values(volume)
    pixels = pixels if pixels.dtype == np.uint16 else pixels.astype(np.int16)
    order = list(range(len(pixels)) if order is None else order)
    orientation, spacing, thickness = _geometry(volume)
    frames = []
    for number, k in enumerate(order):
        place = decimals(volume.TransformIndexToPhysicalPoint((0, 0, int(k))))
        frames += item(PlanePositionSequence=item(ImagePositionPatient=place), FrameContentSequence=item(StackID="1"))
        if change is not None:
            change(number, frames[-1])
    image = _image(
        pixels[order],
        **{
            "SOPClassUID": EnhancedMRImageStorage,
            "Modality": "MR",
            "NumberOfFrames": len(order),
            "PerFrameFunctionalGroupsSequence": frames,
        },
        SharedFunctionalGroupsSequence=item(
            PlaneOrientationSequence=item(ImageOrientationPatient=orientation),
            PixelMeasuresSequence=item(PixelSpacing=spacing, SliceThickness=thickness),
        ),
    )
    path.parent.mkdir(exist_ok=True)
    _changed(image, 0, changed).save_as(path, enforce_file_format=True)
    return path


def counted_reads(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often pydicom reads each file from now on, by its name."""
    counted: Counter[str] = Counter()
    real = pydicom.dcmread

    def read(file: Any, *given: Any, **named: Any) -> Dataset:
        counted[Path(str(getattr(file, "name", file))).name] += 1
        return real(file, *given, **named)

    monkeypatch.setattr(pydicom, "dcmread", read)
    return counted


SIZE = (8, 7, 6)
VOXELS = np.random.default_rng(0).integers(1, 900, SIZE[::-1]).astype("<i2")
"""What the files hold that are made of the headers below."""


def metaimage(data: str | bytes = "LOCAL", more: bytes = b"", **changed: str | None) -> bytes:
    """A MetaImage's header; a field that is None is left out, ``more`` are lines before the last one."""
    fields: dict[str, str | None] = {
        **{"ObjectType": "Image", "NDims": "3", "BinaryData": "True", "BinaryDataByteOrderMSB": "False", "CompressedData": "False"},
        **{"TransformMatrix": "1 0 0 0 1 0 0 0 1", "Offset": "0 0 0", "ElementSpacing": "1 2 3", "DimSize": " ".join(map(str, SIZE))},
        **{"ElementType": "MET_SHORT"},
    } | changed
    lines = "".join(f"{key} = {value}\n" for key, value in fields.items() if value is not None).encode()
    return lines + more + b"ElementDataFile = " + (data if isinstance(data, bytes) else f"{data}\n".encode())


def nrrd(data: str | bytes | None = None, more: bytes = b"", **changed: str | None) -> bytes:
    """An NRRD's header without the empty line that ends it."""
    fields: dict[str, str | None] = {
        **{"type": "short", "dimension": "3", "space": "left-posterior-superior", "sizes": " ".join(map(str, SIZE))},
        **{"space directions": "(1,0,0) (0,2,0) (0,0,3)", "kinds": "domain domain domain", "endian": "little", "encoding": "raw"},
        "space origin": "(0,0,0)",
    } | {key.replace("_", " "): value for key, value in changed.items()}
    lines = "NRRD0004\n" + "".join(f"{key}: {value}\n" for key, value in fields.items() if value is not None)
    ending = b"" if data is None else b"data file: " + (data if isinstance(data, bytes) else f"{data}\n".encode())
    return lines.encode() + more + ending


def whole(path: Path, header: bytes, voxels: np.ndarray | bytes = VOXELS) -> Path:
    """Writes a header and the voxels behind it."""
    between = b"\n" if header.startswith(b"NRRD") else b""
    path.write_bytes(header + between + (voxels if isinstance(voxels, bytes) else voxels.tobytes()))
    return path


def slices(folder: Path, *names: str) -> None:
    """Writes each plane of the voxels to s00.raw, s01.raw and so on, and all of them to the files of these names."""
    for k, plane in enumerate(VOXELS):
        (folder / f"s{k:02d}.raw").write_bytes(plane.tobytes())
    for name in names:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(VOXELS.tobytes())


def is_read(path: Path) -> sitk.Image:
    """Asserts that a file is read as the voxels; returns the volume."""
    volume = read_volume(path)
    np.testing.assert_array_equal(values(volume), VOXELS)
    return volume


def is_refused(path: Path, match: str = "can't be read") -> InputError:
    """Asserts that a file is refused for this reason, as a volume and as a segmentation; returns the former's error."""
    errors = []
    for read in (read_volume, read_segmentation):
        with pytest.raises(InputError, match=match) as caught:
            read(path)
        assert caught.value.explanation and caught.value.solution
        errors.append(caught.value)
    return errors[0]
