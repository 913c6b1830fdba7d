"""Small volumes and segmentations on the grids that go wrong most easily, and the development data."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid
from pydicom.valuerep import DSfloat

from RAUSlicerLib.imaging.segmentation import Segmentation, Structure

LIVER = (
    "Segmentation category and type - 3D Slicer General Anatomy list~SCT^123037004^Anatomical Structure~SCT^10200004^Liver~^^"
    "~Anatomic codes - DICOM master list~^^~^^"
)
LEFT_KIDNEY = (
    "Segmentation category and type - 3D Slicer General Anatomy list~SCT^123037004^Anatomical Structure~SCT^64033007^Kidney"
    "~SCT^7771000^Left~Anatomic codes - DICOM master list~^^~^^"
)


def _rotation(degrees: tuple[float, float, float]) -> np.ndarray:
    transform = sitk.Euler3DTransform()
    transform.SetRotation(*np.deg2rad(degrees))
    return np.reshape(transform.GetMatrix(), (3, 3))


GRIDS = {
    "plain": (np.eye(3), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0)),
    "anisotropic": (np.eye(3), (0.7421875, 0.7421875, 5.0), (-123.4, 56.78, -901.25)),
    "flipped": (np.diag([-1.0, -1.0, 1.0]), (0.9, 1.1, 2.5), (80.0, 90.0, -40.0)),
    "left-handed": (np.diag([1.0, -1.0, 1.0]), (0.9, 1.1, 2.5), (80.0, 90.0, -40.0)),
    "sagittal": (np.array([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0], [0.0, -1.0, 0.0]]), (1.0, 1.0, 1.2), (-88.0, -120.0, 130.0)),
    "oblique": (_rotation((12.0, -23.0, 37.0)), (0.6, 0.85, 3.3), (-61.7, 17.3, 245.9)),
    "oblique flipped": (_rotation((-8.0, 41.0, 5.0)) @ np.diag([-1.0, 1.0, 1.0]), (0.6, 0.85, 3.3), (61.7, -17.3, 245.9)),
}


@pytest.fixture(params=GRIDS)
def volume(request: pytest.FixtureRequest) -> sitk.Image:
    """A volume of noise of 9 x 8 x 7 voxels on one of the difficult grids."""
    return place(sitk.GetImageFromArray(np.random.default_rng(1).integers(-900, 900, (7, 8, 9)).astype(np.int16)), request.param)


@pytest.fixture
def block() -> sitk.Image:
    """An oblique volume of 14 x 16 x 10 voxels, no two of which are alike."""
    return place(sitk.GetImageFromArray(np.arange(10 * 16 * 14, dtype=np.int16).reshape(10, 16, 14) - 60), "oblique")


@pytest.fixture
def on_grid() -> Callable[[sitk.Image, str], sitk.Image]:
    """Puts an image on a named grid."""
    return place


def place(image: sitk.Image, grid: str) -> sitk.Image:
    direction, spacing, origin = GRIDS[grid]
    image.SetDirection(direction.ravel().tolist())
    image.SetSpacing(spacing)
    image.SetOrigin(origin)
    return image


@pytest.fixture
def make_segmentation() -> Callable[..., Segmentation]:
    """Makes a segmentation of four structures on a volume's grid; two of them in a second layer if they shall overlap."""

    def make(volume: sitk.Image, overlapping: bool = False) -> Segmentation:
        shape = volume.GetSize()[::-1]
        first, second = np.zeros(shape, np.uint16), np.zeros(shape, np.uint16)
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
        images = [sitk.GetImageFromArray(array) for array in ((first, second) if overlapping else (first,))]
        for image in images:
            image.CopyInformation(volume)
        return Segmentation(images[0], structures, tuple(images[1:]))

    return make


@pytest.fixture
def grids_agree() -> Callable[..., None]:
    """Asserts that two images have the same grid to a thousandth of a voxel, far finer than the library's own tolerance."""

    def check(a: sitk.Image, b: sitk.Image, atol: float = 1e-3) -> None:
        assert a.GetSize() == b.GetSize()
        last = [n - 1 for n in a.GetSize()]
        for index in ([0, 0, 0], last, [last[0], 0, 0], [0, last[1], 0], [0, 0, last[2]]):
            np.testing.assert_allclose(
                b.TransformPhysicalPointToContinuousIndex(a.TransformIndexToPhysicalPoint(index)), index, rtol=0, atol=atol
            )

    return check


@pytest.fixture(scope="session")
def data_folder() -> Path:
    folder = Path(os.environ.get("RAUSLICER_DATA", Path(__file__).parents[3].parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"the development data is not at {folder}")
    return folder


@pytest.fixture(scope="session")
def ct_series(data_folder: Path) -> Path:
    """A folder with 20 slices of a CT."""
    folder = data_folder / "ct_mr_samples" / "ct_abdomen_dicom"
    if not folder.is_dir():
        pytest.skip(f"the CT series is not at {folder}")
    return folder


@pytest.fixture
def write_series() -> Callable[..., Path]:
    """Writes a volume as a DICOM series of CT slices, in shuffled order, and returns its folder."""
    return _write_series


def _write_series(volume: sitk.Image, folder: Path, **changed: object) -> Path:
    """``changed`` overrides header elements; a callable gets the slice's index and header and changes it in place."""
    folder.mkdir(exist_ok=True)
    series, frame_of_reference, study = generate_uid(), generate_uid(), generate_uid()
    spacing = volume.GetSpacing()
    direction = np.reshape(volume.GetDirection(), (3, 3))
    pixels = sitk.GetArrayFromImage(volume).astype(np.int16)
    for k in np.random.default_rng(0).permutation(volume.GetSize()[2]).tolist():
        slice_ = Dataset()
        slice_.SOPClassUID, slice_.SOPInstanceUID = CTImageStorage, generate_uid()
        slice_.StudyInstanceUID, slice_.SeriesInstanceUID, slice_.FrameOfReferenceUID = study, series, frame_of_reference
        slice_.Modality, slice_.SeriesNumber, slice_.InstanceNumber = "CT", 1, k + 1
        slice_.PatientName, slice_.PatientID, slice_.PatientBirthDate, slice_.PatientSex = "Test^Phantom", "T1", "", "O"
        slice_.StudyDate, slice_.StudyTime, slice_.StudyID, slice_.AccessionNumber = "20260101", "120000", "1", ""
        slice_.ReferringPhysicianName = ""
        slice_.ImagePositionPatient = [DSfloat(x, auto_format=True) for x in volume.TransformIndexToPhysicalPoint((0, 0, k))]
        slice_.ImageOrientationPatient = [DSfloat(x, auto_format=True) for x in direction[:, :2].T.ravel()]
        slice_.PixelSpacing = [DSfloat(spacing[1], auto_format=True), DSfloat(spacing[0], auto_format=True)]
        slice_.SliceThickness = DSfloat(spacing[2], auto_format=True)
        slice_.Rows, slice_.Columns = pixels.shape[1:]
        slice_.SamplesPerPixel, slice_.PhotometricInterpretation = 1, "MONOCHROME2"
        slice_.BitsAllocated, slice_.BitsStored, slice_.HighBit, slice_.PixelRepresentation = 16, 16, 15, 1
        slice_.RescaleSlope, slice_.RescaleIntercept = 1, 0
        slice_.PixelData = pixels[k].tobytes()
        for keyword, value in changed.items():
            if callable(value):
                value(k, slice_)
            else:
                setattr(slice_, keyword, value)
        slice_.file_meta = FileMetaDataset()
        slice_.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        slice_.save_as(folder / f"{slice_.SOPInstanceUID}.dcm", enforce_file_format=True)
    return folder
