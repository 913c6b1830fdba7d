import json

import numpy as np
import pytest
import SimpleITK as sitk

from RAUSlicerLib.errors import InputError
from RAUSlicerLib.imaging.dicom import MODALITY_KEY
from RAUSlicerLib.imaging.files import read_segmentation, read_volume
from RAUSlicerLib.imaging.segmentation import Reference, Segmentation, Structure
from RAUSlicerLib.interpretation.evidence import CENTRE, Quantity
from RAUSlicerLib.interpretation.library import Library
from RAUSlicerLib.interpretation.measuring import measure, measure_annotated
from RAUSlicerLib.interpretation.positions import expected_positions
from RAUSlicerLib.results import Status, StructureResult

TURNED = (np.cos(0.4), -np.sin(0.4), 0, np.sin(0.4), np.cos(0.4), 0, 0, 0, 1)
BOXES = {
    "left kidney": np.s_[8:12, 10:16, 24:32],
    "right kidney": np.s_[8:12, 10:16, 6:12],
    "liver": np.s_[14:22, 8:20, 4:18],
    "spleen": np.s_[15:20, 16:22, 26:33],
}


def case_of(boxes, *, spacing=(1.0, 1.0, 1.0), direction=(1, 0, 0, 0, 1, 0, 0, 0, 1), size=(28, 28, 40), value=None):
    """A case with a box for every name; its intensities are 10 times the label unless they are given."""
    labels = np.zeros(size, np.uint8)
    for label, box in enumerate(boxes.values(), start=1):
        labels[box] = label
    volume = sitk.GetImageFromArray(labels.astype(np.float32) * 10 if value is None else value)
    labelmap = sitk.GetImageFromArray(labels)
    for image in (volume, labelmap):
        image.SetSpacing(spacing)
        image.SetDirection([float(cosine) for cosine in direction])
    return Reference(volume, Segmentation(labelmap, tuple(Structure(label, name) for label, name in enumerate(boxes, start=1))))


def found(case, status=Status.FOUND):
    return [StructureResult(structure, status, 0.8, 0.0, 0.0) for structure in case.segmentation.structures]


def values(findings, quantity):
    return {one.name: taken.value for one in findings if (taken := one.measured(quantity)) is not None}


@pytest.mark.parametrize("direction", [(1, 0, 0, 0, 1, 0, 0, 0, 1), (-1, 0, 0, 0, 1, 0, 0, 0, 1), TURNED, (0, 0, 1, 1, 0, 0, 0, 1, 0)])
def test_volumes_are_exact_on_every_grid(direction):
    findings = measure_annotated(case_of(BOXES, spacing=(0.7, 1.5, 3.0), direction=direction))

    voxel = 0.7 * 1.5 * 3.0 / 1000
    expected = {"left kidney": 192 * voxel, "right kidney": 144 * voxel, "liver": 1344 * voxel, "spleen": 210 * voxel}
    assert values(findings, Quantity.VOLUME) == pytest.approx(expected)
    assert all(one.measured(Quantity.VOLUME).unit == "mL" for one in findings)


def test_extents_are_along_the_patient():
    # x of the voxels runs down the patient, y to the left, z to the back.
    findings = measure_annotated(case_of(BOXES, spacing=(0.5, 2.0, 3.0), direction=(0, 1, 0, 0, 0, 1, -1, 0, 0)))

    liver = next(one for one in findings if one.name == "liver")
    assert liver.measured(Quantity.EXTENT_RIGHT_LEFT).value == pytest.approx(12 * 2.0)
    assert liver.measured(Quantity.EXTENT_ANTERIOR_POSTERIOR).value == pytest.approx(8 * 3.0)
    assert liver.measured(Quantity.EXTENT_SUPERIOR_INFERIOR).value == pytest.approx(14 * 0.5)


def test_mean_and_spread_of_the_voxels_inside():
    intensities = np.random.default_rng(1).normal(100, 20, (28, 28, 40)).astype(np.float32)
    inside = intensities[BOXES["liver"]].astype(np.float64)

    findings = measure_annotated(case_of(BOXES, value=intensities))

    assert values(findings, Quantity.MEAN_INTENSITY)["liver"] == pytest.approx(inside.mean())
    assert values(findings, Quantity.INTENSITY_SPREAD)["liver"] == pytest.approx(inside.std())
    assert findings[0].measured(Quantity.MEAN_INTENSITY).unit == "1"


def test_undefined_voxels_have_no_part_in_the_mean():
    case = case_of(BOXES)
    case.volume[5, 10, 15] = float("nan")

    assert values(measure_annotated(case), Quantity.MEAN_INTENSITY)["liver"] == 30.0


def test_hounsfield_units_are_named_where_they_are_known():
    ct = np.random.default_rng(0).normal(-500, 400, (28, 28, 40)).astype(np.float32)
    guessed, said, denied = case_of(BOXES, value=ct), case_of(BOXES), case_of(BOXES, value=ct)
    said.volume.SetMetaData(MODALITY_KEY, "CT")
    denied.volume.SetMetaData(MODALITY_KEY, "MR")

    units = [measure_annotated(case)[0].measured(Quantity.MEAN_INTENSITY).unit for case in (guessed, said, denied)]

    assert units == ["[hnsf'U]", "[hnsf'U]", "1"]


def test_the_asymmetry_of_a_pair_is_given_to_both_with_the_left_one_first():
    findings = measure_annotated(case_of(BOXES))

    asymmetries = {one.name: taken for one in findings if (taken := one.measured(Quantity.ASYMMETRY)) is not None}
    assert set(asymmetries) == {"left kidney", "right kidney"}
    for asymmetry in asymmetries.values():
        assert asymmetry.value == pytest.approx(100 * (192 - 144) / ((192 + 144) / 2))
        assert asymmetry.structures == ("left kidney", "right kidney")
        assert asymmetry.unit == "%"


def test_a_pair_of_which_one_was_not_found_has_no_asymmetry():
    case = case_of(BOXES)
    results = found(case)
    results[1] = StructureResult(results[1].structure, Status.NOT_FOUND, 0.1, 0.0, 0.0)

    findings = measure(case.volume, case.segmentation, results)

    assert findings[0].measured(Quantity.ASYMMETRY) is None
    assert findings[1].measurements == ()
    assert (findings[1].status, findings[1].confidence, findings[1].node) == (Status.NOT_FOUND, 0.1, "right_kidney")


def test_findings_come_in_the_order_of_the_results_under_distinct_names():
    case = case_of({"liver": BOXES["liver"], "Liver": BOXES["spleen"], "spleen": BOXES["left kidney"]})

    findings = measure(case.volume, case.segmentation, found(case)[::-1])

    assert [one.name for one in findings] == ["spleen", "Liver (label 2)", "liver (label 1)"]
    assert findings[1].measurements[0].structures == ("Liver (label 2)",)
    assert [one.measured(Quantity.VOLUME).value for one in findings] == pytest.approx([0.192, 0.21, 1.344])


def test_what_touches_the_border_is_cut():
    findings = measure_annotated(case_of({"liver": np.s_[0:5, 8:20, 4:18], "spleen": BOXES["spleen"]}))

    assert [one.measured(Quantity.VOLUME).is_cut for one in findings] == [True, False]


def test_overlapping_structures_are_measured_each_by_itself():
    case = case_of({"liver": BOXES["liver"]})
    inner = np.zeros((28, 28, 40), np.uint8)
    inner[16:18, 10:12, 6:9] = 1
    tumour = Structure(1, "tumour", layer=1)
    segmentation = Segmentation(case.segmentation.labelmap, (*case.segmentation.structures, tumour), (sitk.GetImageFromArray(inner),))

    findings = measure_annotated(Reference(case.volume, segmentation))

    assert values(findings, Quantity.VOLUME) == pytest.approx({"liver": 1.344, "tumour": 0.012})
    assert findings[1].node is None


def test_a_found_structure_without_voxels_has_no_measurements():
    case = case_of(BOXES)
    absent = StructureResult(Structure(9, "pancreas"), Status.LOW_CONFIDENCE, 0.3, 0.0, 0.0)

    (finding,) = measure(case.volume, case.segmentation, [absent])

    assert finding.measurements == ()


def test_the_reference_stands_beside_what_was_measured():
    larger = BOXES | {"liver": np.s_[14:22, 8:20, 4:20]}
    target, reference = case_of(BOXES), case_of(larger, spacing=(2.0, 1.0, 1.0))

    findings = {one.name: one for one in measure(target.volume, target.segmentation, found(target), reference)}

    assert findings["liver"].measured(Quantity.VOLUME).comparison.reference == pytest.approx(8 * 12 * 16 * 2 / 1000)
    assert findings["liver"].measured(Quantity.EXTENT_RIGHT_LEFT).comparison.reference == pytest.approx(32.0)
    assert findings["left kidney"].measured(Quantity.ASYMMETRY).comparison.reference == pytest.approx(100 * 48 / 168)
    assert findings["liver"].measured(Quantity.POSITION).comparison.reference is None


def test_intensities_are_compared_in_hounsfield_units_only():
    cases = [case_of(BOXES), case_of(BOXES)]
    assert measure(cases[0].volume, cases[0].segmentation, found(cases[0]), cases[1])[0].measurements[4].comparison.reference is None

    for case in cases:
        case.volume.SetMetaData(MODALITY_KEY, "CT")
    (mean,) = [
        measurement
        for measurement in measure(cases[0].volume, cases[0].segmentation, found(cases[0]), cases[1])[0].measurements
        if measurement.quantity == Quantity.MEAN_INTENSITY
    ]
    assert mean.comparison.reference == 10.0


def test_a_structure_that_the_reference_shows_in_part_is_not_compared_in_size():
    target, reference = case_of(BOXES), case_of(BOXES | {"liver": np.s_[0:8, 8:20, 4:18]})

    findings = {one.name: one for one in measure(target.volume, target.segmentation, found(target), reference)}

    assert findings["liver"].measured(Quantity.VOLUME).comparison.reference is None
    assert findings["spleen"].measured(Quantity.VOLUME).comparison.reference is not None


def test_a_library_stands_beside_it_with_its_number_of_cases():
    library = Library.of_cases("three", [measure_annotated(case_of(BOXES, spacing=(size, 1, 1))) for size in (1.0, 2.0, 3.0)])
    target = case_of(BOXES, spacing=(3.0, 1, 1))

    findings = measure(target.volume, target.segmentation, found(target), library=library)

    comparison = findings[2].measured(Quantity.VOLUME).comparison
    assert (comparison.mean, comparison.spread, comparison.n) == pytest.approx((2 * 1.344, 1.344, 3))
    assert comparison.z_score == pytest.approx(1.0)


def test_a_shifted_copy_lies_where_it_should_and_a_moved_structure_does_not():
    reference = case_of(BOXES)
    target = case_of(BOXES | {"spleen": np.s_[20:25, 16:22, 26:33]})
    for image in (target.volume, target.segmentation.labelmap):
        image.SetOrigin((300.0, -50.0, 7.0))

    distances = values(measure(target.volume, target.segmentation, found(target), reference), Quantity.POSITION)

    assert distances["spleen"] == pytest.approx(5.0)
    assert max(value for name, value in distances.items() if name != "spleen") < 2.5


def test_a_stretched_body_is_followed_where_many_structures_determine_it():
    rng = np.random.default_rng(2)
    reference = rng.uniform(-100, 100, (120, 3))
    stretch = np.array([[1.1, 0.05, 0], [0, 0.9, 0], [0, 0, 1.15]])
    target = reference @ stretch.T + [10, 20, 30]

    expected = expected_positions(reference, target, np.ones(120, bool))

    assert np.linalg.norm(target - reference - [10, 20, 30], axis=1).mean() > 10
    assert np.linalg.norm(expected - target, axis=1).max() < 1


def test_one_other_structure_and_cut_ones_tell_nothing_of_a_position():
    points = np.array([[0.0, 0, 0], [50, 0, 0], [0, 50, 0]])

    assert np.isnan(expected_positions(points[:2], points[:2], np.ones(2, bool))).all()
    assert np.isnan(expected_positions(points, points, np.array([True, False, False]))).all()
    assert np.isfinite(expected_positions(points, points, np.array([True, True, False]))[2]).all()


def test_a_picture_has_no_lengths_and_a_slice_none_along_its_normal():
    boxes = {"left lung": np.s_[:, 4:20, 22:36], "right lung": np.s_[:, 4:22, 4:18]}
    picture, slice_ = case_of(boxes, size=(1, 28, 40)), case_of(boxes, size=(1, 28, 40), spacing=(0.5, 0.5, 1.0))
    slice_.volume.SetMetaData(MODALITY_KEY, "CR")

    of_picture, of_slice = measure_annotated(picture), measure_annotated(slice_)

    assert {one.quantity for one in of_picture[0].measurements} == {
        Quantity.MEAN_INTENSITY,
        Quantity.INTENSITY_SPREAD,
        Quantity.ASYMMETRY,
    }
    assert of_picture[0].measured(Quantity.ASYMMETRY).value == pytest.approx(100 * (224 - 252) / 238)
    assert (of_picture[0].graph, of_picture[0].node) == ("chest_xray", "left_lung")
    assert of_slice[0].measured(Quantity.EXTENT_RIGHT_LEFT).value == pytest.approx(7.0)
    assert of_slice[0].measured(Quantity.EXTENT_SUPERIOR_INFERIOR) is None
    assert of_slice[0].measured(Quantity.VOLUME) is None


def test_exchanged_sides_are_said_in_a_warning():
    exchanged = {"left kidney": BOXES["right kidney"], "right kidney": BOXES["left kidney"], "liver": BOXES["liver"]}

    findings = measure_annotated(case_of(exchanged))

    assert "right of right kidney" in findings[0].warnings[0]
    assert findings[2].warnings == ()


def test_another_grid_is_refused():
    case = case_of(BOXES)

    with pytest.raises(InputError, match="not on the grid"):
        measure(case_of(BOXES, spacing=(2, 1, 1)).volume, case.segmentation, found(case))


@pytest.mark.data
@pytest.mark.parametrize(("folder", "number"), [("abdomen_ct", 0), ("heart_mr", 0), ("brain_t1", 2)])
def test_true_segmentations_are_attached_measured_and_without_warnings(data_folder, folder, number):
    name = json.loads((data_folder / "splits.json").read_text(encoding="utf-8"))[folder]["train"][number]
    case = Reference(read_volume(data_folder / folder / f"{name}.nii.gz"), read_segmentation(data_folder / folder / f"{name}_seg.nii.gz"))

    findings = measure_annotated(case)

    assert [one.name for one in findings if one.node is None or one.warnings or not one.measurements] == []
    assert findings[0].measured(Quantity.MEAN_INTENSITY).unit == ("[hnsf'U]" if folder == "abdomen_ct" else "1")


def test_measuring_can_be_stopped_between_structures(make_ellipsoids):
    case = make_ellipsoids()
    results = [StructureResult(structure, Status.FOUND, 0.9, 1.0, 1.0) for structure in case.segmentation.structures]
    asked = []

    def stop() -> None:
        asked.append(1)
        if len(asked) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measure(case.volume, case.segmentation, results, case, checkpoint=stop)

    assert len(asked) == 3
    asked.clear()
    measure(case.volume, case.segmentation, results, case, checkpoint=lambda: asked.append(1))
    assert len(asked) > 2 * len(results)


def test_the_middle_of_a_structure_is_measured_in_patient_space_and_not_compared(make_ellipsoids):
    case = make_ellipsoids()
    results = [StructureResult(structure, Status.FOUND, 0.9, 1.0, 1.0) for structure in case.segmentation.structures]

    findings = measure(case.volume, case.segmentation, results, case)

    for found, result in zip(findings, results, strict=True):
        index = np.argwhere(case.segmentation.array(result.structure)).mean(axis=0)[::-1]
        middle = [found.measured(quantity) for quantity in CENTRE]
        assert [one.value for one in middle] == pytest.approx(case.volume.TransformContinuousIndexToPhysicalPoint(index.tolist()))
        assert all(one.unit == "mm" and one.comparison.reference is None for one in middle)
