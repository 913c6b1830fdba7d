"""The sample data is what its README says it is."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk

from RAUSlicerLib.cli.demo import load_sample
from RAUSlicerLib.imaging.segmentation import Reference
from RAUSlicerLib.support.resources import resource_path


@pytest.fixture(scope="module")
def sample() -> tuple[Reference, sitk.Image]:
    return load_sample()


def test_it_is_small_enough_to_be_shipped() -> None:
    size = sum(path.stat().st_size for path in resource_path("SampleData").rglob("*") if path.is_file())

    assert size <= 5_000_000


def test_the_licences_are_shipped_with_it() -> None:
    texts = {path.name: path.read_text(encoding="utf-8") for path in resource_path("SampleData", "licenses").iterdir()}

    assert "Louis Collins" in texts["MNI-ICBM152.txt"]
    assert "Chris Rorden" in texts["mricron-data-copyright.txt"]
    assert "The nilearn developers" in texts["nilearn-LICENSE.txt"]
    assert "GNU GENERAL PUBLIC LICENSE" in texts["GPL-2.txt"]


def test_the_segmentation_lies_on_the_reference(sample: tuple[Reference, sitk.Image]) -> None:
    reference, _ = sample
    labelled = sitk.GetArrayViewFromImage(reference.segmentation.labelmap) > 0
    brain = sitk.GetArrayViewFromImage(reference.volume) > 0

    assert reference.segmentation.labelmap.GetOrigin() == pytest.approx(reference.volume.GetOrigin())
    assert reference.segmentation.labelmap.GetDirection() == pytest.approx(reference.volume.GetDirection())
    assert brain[labelled].mean() > 0.9


def test_all_of_aal_is_there_with_unique_names_that_a_list_can_hold(sample: tuple[Reference, sitk.Image]) -> None:
    structures = sample[0].segmentation.structures

    assert [structure.label for structure in structures] == list(range(1, 117))
    assert len({structure.name for structure in structures}) == 116
    # --structures "a,b" splits at commas.
    assert not any("," in structure.name for structure in structures)
    assert structures[36].id == "Hippocampus_L" and structures[36].name == "Left hippocampus"


def test_every_structure_has_voxels_and_a_colour(sample: tuple[Reference, sitk.Image]) -> None:
    segmentation = sample[0].segmentation
    counts = np.bincount(sitk.GetArrayViewFromImage(segmentation.labelmap).ravel(), minlength=117)

    assert counts[1:].min() > 0
    assert all(structure.color is not None for structure in segmentation.structures)


def test_left_lies_on_the_left(sample: tuple[Reference, sitk.Image]) -> None:
    segmentation = sample[0].segmentation
    shapes = sitk.LabelShapeStatisticsImageFilter()
    shapes.Execute(segmentation.labelmap)

    for structure in segmentation.structures:
        x = shapes.GetCentroid(structure.label)[0]
        if structure.name.startswith("Left"):
            assert x > 0, structure.name
        elif structure.name.startswith("Right"):
            assert x < 0, structure.name
        else:
            assert structure.name.startswith("Vermis")


def test_terminology_names_structure_and_side(sample: tuple[Reference, sitk.Image]) -> None:
    named = {structure.name: structure.terminology for structure in sample[0].segmentation.structures}

    assert "SCT^5366008^Hippocampus~SCT^7771000^Left" in (named["Left hippocampus"] or "")
    assert "SCT^42695009^Thalamus~SCT^24028007^Right" in (named["Right thalamus"] or "")
    assert named["Left precentral gyrus"] is None


@pytest.mark.parametrize("which", ("reference", "target"))
def test_brains_are_stripped_and_whole(sample: tuple[Reference, sitk.Image], which: str) -> None:
    image = sample[0].volume if which == "reference" else sample[1]
    brain = sitk.GetArrayViewFromImage(image) > 0
    border = brain.copy()
    border[1:-1, 1:-1, 1:-1] = False

    assert image.GetSpacing() == (1.0, 1.0, 1.0)
    assert 1_200 < brain.sum() / 1000 < 2_200
    # A few voxels of the source touch the end of its own field.
    assert border.sum() < 200
