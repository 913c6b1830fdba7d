from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk

from RAUSlicerLib.errors import InputError
from RAUSlicerLib.imaging.files import write_segmentation
from RAUSlicerLib.imaging.segmentation import Segmentation, Structure
from RAUSlicerLib.training.cases import annotated, load_case, load_cases, load_head, load_label_map, read_labels
from RAUSlicerLib.training.datasets import IGNORE, Dataset


def test_cases_come_cropped_in_the_canonical_frame_with_centres_in_voxels(heart_sets) -> None:
    case = load_cases(heart_sets, ("heart_mr",))[2]
    assert (case.domain, case.name, case.subject) == ("heart_mr", "patient002_frame01", "patient002")
    assert case.image.shape == case.labels.shape and case.image.dtype == case.labels.dtype
    assert case.spacing == pytest.approx((5.0, 2.0, 2.0)) and case.working > 0
    for label, centre in case.centroids.items():
        np.testing.assert_allclose(np.argwhere(case.labels.numpy() == label).mean(0), centre, rtol=1e-6)
    # Left is toward larger x in LPS: the bright ellipsoid lies there.
    assert case.centroids[2][2] > case.centroids[1][2] > case.centroids[3][2]
    assert case.image[case.labels == 2].float().mean() > case.image[case.labels == 3].float().mean()


def test_a_reoriented_file_is_the_same_case(hearts, heart_sets, tmp_path) -> None:
    name = "patient002_frame01"
    for suffix in ("", "_seg"):
        image = sitk.ReadImage(str(hearts / "heart_mr" / f"{name}{suffix}.nii.gz"))
        sitk.WriteImage(sitk.DICOMOrient(image, "ASR"), str(tmp_path / f"{name}{suffix}.nii.gz"))
    about = heart_sets["heart_mr"]
    first, second = (load_case(one, name) for one in (about, replace(about, folder=tmp_path)))
    np.testing.assert_array_equal(first.image, second.image)
    np.testing.assert_array_equal(first.labels, second.labels)
    assert first.spacing == pytest.approx(second.spacing)


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
    whole, brain = (load_head(Dataset("heads", tmp_path, numbering="freesurfer"), "head", stripped=stripped) for stripped in (False, True))
    assert set(whole.labels.unique().tolist()) == {0, 60, 59, 208, 219} and set(brain.labels.unique().tolist()) == {0, 59, 60}
    assert whole.synthetic and brain.working < whole.working
    # The file's first axis runs to the right: in the canonical frame the structure with the smaller index comes out further left.
    assert whole.centroids[60][2] > whole.centroids[59][2]


def test_labels_to_ignore_are_unknown_in_brains_and_in_the_numbers_of_heads(heart_sets, tmp_path) -> None:
    about, name = heart_sets["heart_mr"], "patient002_frame01"
    plain, without = (load_case(one, name) for one in (about, replace(about, ignore=(2,))))
    assert set(without.centroids) == {1, 3} and set(plain.centroids) == {1, 2, 3}
    np.testing.assert_array_equal(without.labels == IGNORE, plain.labels == 2)
    assert [one.label for one in annotated(replace(about, ignore=(2,)), name).segmentation.structures] == [1, 3]
    labels = sitk.GetImageFromArray(np.zeros((20, 24, 22), np.int16))
    labels[6:17, 6:18, 5:15] = 10
    labels[12:16, 8:16, 6:14] = 49
    sitk.WriteImage(labels, str(tmp_path / "head_seg.nii.gz"))
    # A left thalamus is 10 in the file and 60 in training.
    head = load_head(Dataset("heads", tmp_path, numbering="freesurfer", ignore=(60,), foreign=(100, 101)), "head", stripped=False)
    assert set(head.labels.unique().tolist()) == {0, 59, IGNORE} and set(head.centroids) == {59} and head.unmarked == (100, 101)


def test_a_case_is_given_with_names_and_without_small_or_many_structures(heart_sets) -> None:
    about = replace(heart_sets["heart_mr"], names={1: "body"}, parcels=(3, 9))

    def given(**how: object) -> list[str]:
        return [one.name for one in annotated(about, "patient002_frame01", **how).segmentation.structures]

    assert given() == ["body", "label 2"] and given(parcels=True) == ["body", "label 2", "label 3"]
    assert given(fewest=10**5) == []


def _written(folder, labels: np.ndarray, image: bool = True) -> None:
    for suffix, values in (("_seg", labels), *([("", labels * 10.0 + 5)] if image else [])):
        sitk.WriteImage(sitk.GetImageFromArray(values.astype(np.float32 if not suffix else np.uint16)), str(folder / f"a{suffix}.nii.gz"))


def test_structures_that_a_planner_left_out_or_ended_early_are_unknown_there(tmp_path) -> None:
    labels = np.zeros((12, 20, 20), np.uint8)
    labels[:, 5:10, 5:10] = 1
    labels[4:8, 12:15, 12:15] = 2
    _written(tmp_path, labels)
    case = load_case(Dataset("necks", tmp_path, unmarked=True, open_ended=(2,)), "a", 4)
    assert case.unmarked == (3,)
    known = case.labels.numpy()
    assert (known[4:8] != IGNORE).all() and set(np.unique(known[:4])) == {1, IGNORE} and set(np.unique(known[8:])) == {1, IGNORE}


def test_a_label_map_without_an_image_is_a_case_to_make_scans_from(tmp_path) -> None:
    labels = np.zeros((12, 20, 20), np.uint8)
    labels[3:9, 5:15, 5:15] = 3
    _written(tmp_path, labels, image=False)
    case = load_label_map(Dataset("knees", tmp_path, background="tissue"), "a")
    assert case.synthetic and case.filled and set(case.centroids) == {3}


def test_segments_are_numbered_by_their_names_and_brought_onto_the_image(tmp_path) -> None:
    labels = np.zeros((8, 12, 14), np.uint8)
    labels[2:5, 3:9, 4:10], labels[5:7, 3:9, 4:10] = 7, 9
    whole = sitk.GetImageFromArray(labels)
    part = whole[2:, 1:, 1:]
    write_segmentation(Segmentation(part, (Structure(7, "Liver"), Structure(9, "spleen"))), tmp_path / "a.seg.nrrd", part)
    about = Dataset("mine", tmp_path, segmentation="{case}.seg.nrrd", names={1: "spleen", 2: "liver"})
    found = sitk.GetArrayFromImage(read_labels(about, "a", whole))
    np.testing.assert_array_equal(found, np.where(labels == 7, 2, np.where(labels == 9, 1, 0)))
    with pytest.raises(InputError, match="'spleen'; names of the set: liver"):
        read_labels(replace(about, names={2: "liver"}), "a", whole)


def test_labels_that_do_not_fit_into_a_byte_are_refused(tmp_path) -> None:
    _written(tmp_path, np.full((4, 4, 4), 300, np.uint16))
    with pytest.raises(InputError, match="label 300"):
        load_case(Dataset("mine", tmp_path), "a")
