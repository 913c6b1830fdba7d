from dataclasses import replace
from pathlib import Path

import pytest
import SimpleITK as sitk

from RAUSlicerLib.errors import InputError
from RAUSlicerLib.imaging.segmentation import Reference, Structure
from RAUSlicerLib.inputs import check_inputs, load_inputs, split_names


def pair(case: Reference) -> tuple:
    return case.volume, case.segmentation


def test_sound_inputs_pass_without_a_warning(make_ellipsoids) -> None:
    reference, target = make_ellipsoids(), make_ellipsoids(seed=1)
    inputs = check_inputs([pair(reference)], target.volume)
    assert inputs.warnings == ()
    assert [structure.name for structure in inputs.references[0].segmentation.structures] == ["body", "left organ", "right organ"]
    assert inputs.target.GetSize() == target.volume.GetSize()


def test_no_reference_is_refused(make_ellipsoids) -> None:
    with pytest.raises(InputError, match="no reference"):
        check_inputs([], make_ellipsoids().volume)


def test_the_reference_as_its_own_target_is_allowed_and_warned_of(make_ellipsoids) -> None:
    reference = make_ellipsoids()
    inputs = check_inputs([pair(reference)], reference.volume)
    assert len(inputs.warnings) == 1 and "itself" in inputs.warnings[0]


def test_a_ct_reference_for_another_target_is_allowed_and_warned_of(make_ellipsoids) -> None:
    reference, target = make_ellipsoids(), make_ellipsoids(seed=1)
    hounsfield = sitk.Cast(reference.volume * 10 - 1000, sitk.sitkInt16)
    inputs = check_inputs([(hounsfield, reference.segmentation)], target.volume)
    assert any("CT" in warning for warning in inputs.warnings)


def test_warnings_of_several_references_say_which(make_ellipsoids) -> None:
    references = [make_ellipsoids(), make_ellipsoids(seed=2)]
    inputs = check_inputs([pair(reference) for reference in references], references[1].volume)
    assert [warning[:11] for warning in inputs.warnings] == ["Reference 2"]


def test_a_segmentation_on_another_grid_is_brought_onto_the_volume(make_ellipsoids) -> None:
    reference = make_ellipsoids()
    cut = reference.segmentation.map_layers([reference.segmentation.labelmap[4:, 3:, 2:]])
    inputs = check_inputs([(reference.volume, cut)], make_ellipsoids(seed=1).volume)
    assert inputs.references[0].segmentation.labelmap.GetSize() == reference.volume.GetSize()


def test_a_segmentation_elsewhere_is_refused(make_ellipsoids) -> None:
    reference = make_ellipsoids()
    away = sitk.Image(reference.segmentation.labelmap)
    away.SetOrigin((5000.0, 0.0, 0.0))
    with pytest.raises(InputError):
        check_inputs([(reference.volume, reference.segmentation.map_layers([away]))], make_ellipsoids(seed=1).volume)


def test_files_pass_through_the_same_gate(make_ellipsoids, tmp_path: Path) -> None:
    reference = make_ellipsoids()
    sitk.WriteImage(reference.volume, str(tmp_path / "r.nii.gz"))
    sitk.WriteImage(reference.segmentation.labelmap, str(tmp_path / "s.nii.gz"))
    sitk.WriteImage(make_ellipsoids(seed=1).volume, str(tmp_path / "t.nrrd"))
    inputs = load_inputs([(tmp_path / "r.nii.gz", tmp_path / "s.nii.gz")], tmp_path / "t.nrrd")
    assert [structure.label for structure in inputs.references[0].segmentation.structures] == [1, 2, 3]


@pytest.mark.parametrize("missing", ["r.nii.gz", "s.nii.gz", "t.nii.gz"])
def test_a_missing_file_is_named(make_ellipsoids, tmp_path: Path, missing: str) -> None:
    reference = make_ellipsoids()
    for name, image in (("r", reference.volume), ("s", reference.segmentation.labelmap), ("t", reference.volume)):
        sitk.WriteImage(image, str(tmp_path / f"{name}.nii.gz"))
    (tmp_path / missing).unlink()
    with pytest.raises(InputError, match=missing):
        load_inputs([(tmp_path / "r.nii.gz", tmp_path / "s.nii.gz")], tmp_path / "t.nii.gz")


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("liver,spleen", ["liver", "spleen"]),
        (" Liver , spleen ", ["Liver", "spleen"]),
        ("kidney, left,liver", ["kidney, left", "liver"]),
        ("liver", ["liver"]),
        ("", [""]),
        ("liver,", ["liver", ""]),
        ("Ösophagus,肝", ["Ösophagus", "肝"]),
    ],
)
def test_names_are_split_at_commas_that_are_not_part_of_one(make_ellipsoids, text: str, names: list[str]) -> None:
    case = make_ellipsoids()
    structures = tuple(Structure(label, name) for label, name in enumerate(("liver", "spleen", "kidney, left"), start=1))
    reference = Reference(case.volume, replace(case.segmentation, structures=structures))
    assert split_names(text, [reference]) == names
