import json
import shutil

import numpy as np
import pytest
import SimpleITK as sitk

from RAUSlicerLib.training import priors
from RAUSlicerLib.training.cases import IGNORE, load_case, load_cases, load_head, subject_of


def test_cases_come_cropped_in_the_canonical_frame_with_centres_in_voxels(hearts) -> None:
    case = load_cases(hearts, ("heart_mr",))[2]
    assert (case.domain, case.name, case.subject) == ("heart_mr", "patient002_frame01", "patient002")
    assert case.image.shape == case.labels.shape and case.image.dtype == case.labels.dtype
    assert case.spacing == pytest.approx((5.0, 2.0, 2.0)) and case.working > 0
    for label, centre in case.centroids.items():
        np.testing.assert_allclose(np.argwhere(case.labels.numpy() == label).mean(0), centre, rtol=1e-6)
    # Left is toward larger x in LPS: the bright ellipsoid lies there.
    assert case.centroids[2][2] > case.centroids[1][2] > case.centroids[3][2]
    assert case.image[case.labels == 2].float().mean() > case.image[case.labels == 3].float().mean()


def test_a_reoriented_file_is_the_same_case(hearts, tmp_path) -> None:
    (tmp_path / "heart_mr").mkdir()
    name = "patient002_frame01"
    for suffix in ("", "_seg"):
        image = sitk.ReadImage(str(hearts / "heart_mr" / f"{name}{suffix}.nii.gz"))
        sitk.WriteImage(sitk.DICOMOrient(image, "ASR"), str(tmp_path / "heart_mr" / f"{name}{suffix}.nii.gz"))
    first, second = (load_case(folder / "heart_mr", name, "patient002") for folder in (hearts, tmp_path))
    np.testing.assert_array_equal(first.image, second.image)
    np.testing.assert_array_equal(first.labels, second.labels)
    assert first.spacing == pytest.approx(second.spacing)


def test_frames_and_rescans_belong_to_one_person() -> None:
    splits = {"heart_mr": {}, "brain_t1": {"rescan": {"1001_again": "1001"}}}
    assert subject_of("heart_mr", "patient001_frame12", splits) == "patient001"
    assert subject_of("brain_t1", "1001_again", splits) == "1001"
    assert subject_of("brain_t1", "1002", splits) == "1002"


def test_a_label_map_of_a_head_is_read_in_the_numbers_of_the_brains_with_or_without_its_outside(tmp_path) -> None:
    values = np.zeros((20, 24, 22), np.uint8)
    labels = sitk.GetImageFromArray(values.astype(np.int16))
    labels[3:20, 3:22, 2:18] = 507  # outside of the brain
    labels[6:17, 6:18, 5:15] = 24  # fluid around it
    labels[8:12, 8:16, 6:14] = 10  # one thalamus
    labels[12:16, 8:16, 6:14] = 49  # the other
    labels.SetSpacing((8.0, 8.0, 8.0))
    labels.SetDirection((-1, 0, 0, 0, -1, 0, 0, 0, 1))
    sitk.WriteImage(labels, str(tmp_path / "head_seg.nii.gz"))
    whole, brain = (load_head(tmp_path, "head", stripped=stripped) for stripped in (False, True))
    assert set(whole.labels.unique().tolist()) == {0, 60, 59, 208, 219} and set(brain.labels.unique().tolist()) == {0, 59, 60}
    assert whole.synthetic and brain.working < whole.working
    # The file's first axis runs to the right: in the canonical frame the structure with the smaller index comes out further left.
    assert whole.centroids[60][2] > whole.centroids[59][2]


def test_labels_left_out_of_training_are_unknown_in_brains_and_heads_and_stay_in_other_sets(hearts, tmp_path) -> None:
    for domain in ("brain_t1", "heart_mr"):
        shutil.copytree(hearts / "heart_mr", tmp_path / domain)
    names = json.loads((hearts / "splits.json").read_text())["heart_mr"]
    (tmp_path / "splits.json").write_text(json.dumps({"brain_t1": names, "heart_mr": names}))
    brains, others = (load_cases(tmp_path, (domain,), without=(2,)) for domain in ("brain_t1", "heart_mr"))
    for brain, other in zip(brains, others, strict=True):
        # A brain's label 1 marks no structure and is left out anyway.
        assert set(brain.centroids) == {3} and set(other.centroids) == {1, 2, 3}
        np.testing.assert_array_equal(brain.labels == IGNORE, (other.labels == 1) | (other.labels == 2))
    labels = sitk.GetImageFromArray(np.zeros((20, 24, 22), np.int16))
    labels[6:17, 6:18, 5:15] = 10
    labels[12:16, 8:16, 6:14] = 49
    sitk.WriteImage(labels, str(tmp_path / "head_seg.nii.gz"))
    # A left thalamus is 10 in the file and 60 in training.
    head = load_head(tmp_path, "head", stripped=False, without=(60,))
    assert set(head.labels.unique().tolist()) == {0, 59, IGNORE} and set(head.centroids) == {59}


def test_a_training_pair_is_without_the_labels_left_out(hearts, tmp_path) -> None:
    for domain in ("brain_t1", "heart_mr"):
        shutil.copytree(hearts / "heart_mr", tmp_path / domain)

    def labels(domain: str, without: tuple[int, ...]) -> list[int]:
        return [one.label for one in priors.whole(tmp_path, domain, "patient002_frame01", without).segmentation.structures]

    assert labels("brain_t1", ()) == [2, 3]
    assert labels("brain_t1", (2,)) == [3]
    assert labels("heart_mr", (2,)) == [1, 2, 3]
