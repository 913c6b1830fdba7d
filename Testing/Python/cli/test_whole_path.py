import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from RAUSlicerLib.cli.app import main
from RAUSlicerLib.models.store import EMBEDDED, list_models

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def oblique(make_ellipsoids, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A reference in LPS order and a target that is stored flipped, tilted and with other voxels, as files."""
    if EMBEDDED not in [model.name for model in list_models()]:
        pytest.skip("the embedded model is not in Resources/Models")
    folder = tmp_path_factory.mktemp("oblique")
    reference = make_ellipsoids()
    target = make_ellipsoids(size=(40, 52, 44), spacing=(2.3, 2.1, 1.9), scale=(1.05, 0.97, 1.0), seed=1)
    angle = np.deg2rad(20)
    tilt = np.array([[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]])
    for name, image in (("target", target.volume), ("truth", target.segmentation.labelmap)):
        stored = sitk.DICOMOrient(image, "RAI")
        stored.SetDirection((tilt @ np.reshape(stored.GetDirection(), (3, 3))).ravel().tolist())
        sitk.WriteImage(stored, str(folder / f"{name}.nrrd"))
    sitk.WriteImage(reference.volume, str(folder / "reference.nii.gz"))
    sitk.WriteImage(reference.segmentation.labelmap, str(folder / "segmentation.nii.gz"))
    (folder / "labels.json").write_text(json.dumps({"1": "body", "2": "left organ", "3": "right organ"}))
    return folder


@pytest.mark.parametrize("localizer", ["vlm", "registration"])
def test_files_in_files_out(oblique, localizer, tmp_path):
    inputs = ["--reference", f"{oblique}/reference.nii.gz", "--reference-segmentation", f"{oblique}/segmentation.nii.gz"]
    outputs = ["--output", f"{tmp_path}/out.nrrd", "--json", f"{tmp_path}/out.json", "--pictures", f"{tmp_path}/pictures"]

    assert main(["transfer", *inputs, "--target", f"{oblique}/target.nrrd", "--localizer", localizer, *outputs]) == 0

    result, target = sitk.ReadImage(f"{tmp_path}/out.nrrd"), sitk.ReadImage(f"{oblique}/target.nrrd")
    assert result.GetSize() == target.GetSize()
    for ours, theirs in ((result.GetOrigin(), target.GetOrigin()), (result.GetDirection(), target.GetDirection())):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)
    labels, truth = sitk.GetArrayFromImage(result), sitk.GetArrayFromImage(sitk.ReadImage(f"{oblique}/truth.nrrd"))
    assert set(np.unique(labels)) <= {0, 1, 2, 3}
    document = json.loads((tmp_path / "out.json").read_text())
    assert [structure["name"] for structure in document["structures"]] == ["body", "left organ", "right organ"]
    assert {path.name for path in (tmp_path / "pictures").iterdir()} == {"contact_sheet.png", "volume_3d.png"}
    body = labels > 0
    assert 2 * np.count_nonzero(body & (truth > 0)) / (np.count_nonzero(body) + np.count_nonzero(truth)) > 0.8
    # Left on the left: what is called an organ lies over that organ, never over the one of the other side.
    for label, other in ((2, 3), (3, 2)):
        assert np.count_nonzero((labels == label) & (truth == other)) == 0
