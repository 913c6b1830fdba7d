"""The package as it is used from Python: paths, images and arrays."""

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

import rauslicer
from RAUSlicerLib.imaging.files import read_segmentation
from RAUSlicerLib.imaging.segmentation import Reference

pytestmark = pytest.mark.usefixtures("coarse")
NAMES = {1: "body", 2: "left organ", 3: "right organ"}


@pytest.fixture(scope="module")
def arrays(case: Reference) -> tuple[np.ndarray, np.ndarray]:
    return sitk.GetArrayFromImage(case.volume), sitk.GetArrayFromImage(case.segmentation.labelmap)


def test_files_in_and_out(case: Reference, tiny_model: Path, tmp_path: Path) -> None:
    target = sitk.DICOMOrient(case.volume, "RAS")
    for image, name in ((case.volume, "ref.nii.gz"), (case.segmentation.labelmap, "ref_seg.nii.gz"), (target, "target.nii.gz")):
        sitk.WriteImage(image, str(tmp_path / name))

    result = rauslicer.transfer(
        tmp_path / "ref.nii.gz", str(tmp_path / "ref_seg.nii.gz"), tmp_path / "target.nii.gz", model=str(tiny_model), device="cpu"
    )
    result.save(tmp_path / "out.seg.nrrd")

    written = read_segmentation(tmp_path / "out.seg.nrrd")
    assert written.labelmap.GetDirection() == pytest.approx(sitk.ReadImage(str(tmp_path / "target.nii.gz")).GetDirection())
    np.testing.assert_array_equal(written.array(written.structures[1]), result.mask(result.segmentation.structures[1].name))
    with pytest.raises(rauslicer.OutputError):
        result.save(tmp_path / "out.seg.nrrd")
    result.save(tmp_path / "out.seg.nrrd", force=True)
    with pytest.raises(rauslicer.OutputError):
        result.save(tmp_path / "target.nii.gz", force=True)


def test_images_and_arrays_come_to_the_same(case: Reference, arrays: tuple, tiny_model: Path) -> None:
    given = {"names": NAMES, "structures": ["left organ"], "model": str(tiny_model), "device": "cpu"}
    by_images = rauslicer.transfer(case.volume, case.segmentation.labelmap, case.volume, **given)
    by_arrays = rauslicer.transfer(arrays[0], arrays[1], arrays[0], spacing=case.volume.GetSpacing(), **given)

    truth = arrays[1] == 2
    for result in (by_images, by_arrays):
        found = result.mask("left organ")
        assert found.shape == truth.shape and 2 * (found & truth).sum() / (found.sum() + truth.sum()) > 0.8
        assert set(result.confidences) == set(result.statuses) == {"left organ"}
        np.testing.assert_array_equal(result.labels == 2, found)
    assert any("reference itself" in sentence for sentence in by_images.warnings)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (lambda volume, labels: (volume, labels[:-1]), "voxels"),
        (lambda volume, labels: (volume, labels + 0.5), "not a label map"),
        (lambda volume, labels: (volume, labels.astype(int) - 1), "not a label map"),
        (lambda volume, labels: (volume[None], labels), "dimensions"),
        (lambda volume, labels: ([volume, volume], labels), "2 references and 1 segmentations"),
        (lambda volume, labels: (volume.astype(object), labels), "array of object"),
    ],
)
def test_what_does_not_fit_is_refused_before_any_model_is_opened(arrays: tuple, wrong, says: str) -> None:
    volume, labels = wrong(*arrays)
    with pytest.raises(rauslicer.InputError, match=says):
        rauslicer.transfer(volume, labels, arrays[0], model="there is none")


@pytest.mark.parametrize("spacing", [(1.0, 1.0), 2.0, (1.0, 0.0, 1.0), (1.0, -1.0, 1.0), (1.0, 1.0, float("nan"))])
def test_a_spacing_that_is_none_is_refused(arrays: tuple, spacing: object) -> None:
    with pytest.raises(rauslicer.InputError, match="voxel size"):
        rauslicer.transfer(arrays[0], arrays[1], arrays[0], spacing=spacing, model="there is none")
