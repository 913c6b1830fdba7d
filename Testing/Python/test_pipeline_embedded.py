"""The whole way with the embedded weights, on the middle of the sample data and on two hearts."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from RAUSlicerLib.cli.demo import load_sample
from RAUSlicerLib.confidence.scoring import OTHER_PART_WARNING
from RAUSlicerLib.imaging.files import read_segmentation, read_volume
from RAUSlicerLib.imaging.grids import same_grid
from RAUSlicerLib.imaging.segmentation import Reference
from RAUSlicerLib.pipeline import Pipeline
from RAUSlicerLib.results import Status, Transfer


def dice(first: np.ndarray, second: np.ndarray) -> float:
    return 2 * np.count_nonzero(first & second) / max(np.count_nonzero(first) + np.count_nonzero(second), 1)


@pytest.fixture(scope="module")
def sample() -> tuple[Reference, sitk.Image]:
    """The middle of both heads, in thicker slices, so that a run takes seconds."""
    reference, target = load_sample()

    def part(image: sitk.Image) -> sitk.Image:
        return image[:, :, 60:96:3]

    return Reference(part(reference.volume), reference.segmentation.map_layers(map(part, reference.segmentation.layers))), part(target)


@pytest.fixture(scope="module")
def embedded() -> Pipeline:
    return Pipeline("embedded", "cpu")


STRUCTURES = ["left thalamus", "right thalamus", "left insula", "right insula"]


@pytest.fixture(scope="module")
def plain(embedded: Pipeline, sample: tuple[Reference, sitk.Image]) -> Transfer:
    return embedded.transfer(*sample, STRUCTURES)


def test_embedded_model_keeps_left_on_the_left(plain: Transfer, sample: tuple[Reference, sitk.Image]) -> None:
    assert same_grid(plain.segmentation.labelmap, sample[1])
    middle = sample[1].TransformContinuousIndexToPhysicalPoint([(n - 1) / 2 for n in sample[1].GetSize()])[0]
    for structure in plain.segmentation.structures:
        indices = np.argwhere(plain.segmentation.array(structure))[:, ::-1]
        assert len(indices) > 50, structure.name
        x = sample[1].TransformContinuousIndexToPhysicalPoint(indices.mean(0).tolist())[0]
        assert (x > middle + 4) == structure.name.lower().startswith("left"), structure.name


def test_embedded_model_tells_another_part_of_the_body(
    embedded: Pipeline, plain: Transfer, sample: tuple[Reference, sitk.Image], make_ellipsoids: Callable[..., Reference]
) -> None:
    result = embedded.transfer(make_ellipsoids(), sample[1])
    assert OTHER_PART_WARNING in result.warnings and Status.FOUND not in result.statuses.values()
    assert OTHER_PART_WARNING not in plain.warnings and set(plain.statuses.values()) == {Status.FOUND}


def test_embedded_model_lands_on_the_atlas(plain: Transfer, sample: tuple[Reference, sitk.Image]) -> None:
    atlas = sitk.Resample(sample[0].segmentation.labelmap, sample[1], sitk.Transform(), sitk.sitkNearestNeighbor, 0)
    labels = sitk.GetArrayFromImage(atlas)
    assert np.mean([dice(plain.segmentation.array(s), labels == s.label) for s in plain.segmentation.structures]) > 0.5


@pytest.mark.parametrize("code", ["RAS", "SLA"])
def test_embedded_model_gives_a_flipped_or_permuted_copy_the_same(
    embedded: Pipeline, plain: Transfer, sample: tuple[Reference, sitk.Image], code: str
) -> None:
    result = embedded.transfer(sample[0], sitk.DICOMOrient(sample[1], code), STRUCTURES)
    back = sitk.GetArrayFromImage(sitk.DICOMOrient(result.segmentation.labelmap, "LPS"))
    straight = sitk.GetArrayFromImage(sitk.DICOMOrient(plain.segmentation.labelmap, "LPS"))
    assert dice(back > 0, straight > 0) >= 0.98
    assert np.mean((back == straight)[straight > 0]) >= 0.98


@pytest.fixture(scope="module")
def hearts(data_folder: Path) -> tuple[Reference, Reference]:
    """Two annotated hearts in slices of 10 mm."""
    cases = []
    for name in ("patient003_frame01", "patient004_frame01"):
        volume = read_volume(data_folder / "heart_mr" / f"{name}.nii.gz")
        cases.append(Reference(volume, read_segmentation(data_folder / "heart_mr" / f"{name}_seg.nii.gz", volume)))
    return cases[0], cases[1]


def tilted(image: sitk.Image, degrees: float) -> sitk.Image:
    """The same voxels, tilted from foot to front by their header."""
    turn = sitk.Euler3DTransform()
    turn.SetRotation(np.radians(degrees), 0.0, 0.0)
    copy = sitk.Image(image)
    copy.SetDirection((np.reshape(turn.GetMatrix(), (3, 3)) @ np.reshape(image.GetDirection(), (3, 3))).ravel().tolist())
    return copy


def wild(image: sitk.Image) -> sitk.Image:
    changed = sitk.Cast(image, sitk.sitkFloat32) * 1e-9
    for index, value in (((0, 0, 0), -32768.0), ((50, 60, 3), -3.0e38), ((101, 90, 5), 3.0e38), ((30, 200, 9), 65535.0)):
        changed[index] = value
    return changed


@pytest.mark.parametrize("case", ["tilted by 41 and 50 degrees", "tiny intensities and wild voxels"])
def test_a_heart_is_found_whatever_header_and_unit_say(embedded: Pipeline, hearts: tuple[Reference, Reference], case: str) -> None:
    reference, target = hearts
    volume = target.volume
    if case.startswith("tilted"):
        layers = [tilted(layer, 41) for layer in reference.segmentation.layers]
        reference, volume = Reference(tilted(reference.volume, 41), reference.segmentation.map_layers(layers)), tilted(volume, 50)
    else:
        volume = wild(volume)

    result = embedded.transfer(reference, volume)

    assert same_grid(result.segmentation.labelmap, volume)
    usual = {"right ventricle cavity": 0.915, "left ventricular myocardium": 0.827, "left ventricle cavity": 0.955}
    for structure in result.segmentation.structures:
        found = dice(result.segmentation.array(structure), target.segmentation.array(structure))
        assert found == pytest.approx(usual[structure.name], abs=0.01), structure.name
