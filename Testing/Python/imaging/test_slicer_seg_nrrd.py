"""Segmentation files exchanged with 3D Slicer's own storage node, both ways."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from RAUSlicerLib.errors import InputError
from RAUSlicerLib.imaging.checks import align_segmentation
from RAUSlicerLib.imaging.files import read_segmentation, write_segmentation
from RAUSlicerLib.imaging.grids import from_array
from RAUSlicerLib.imaging.segmentation import Segmentation, Structure
from RAUSlicerLib.imaging.slicer_seg_nrrd import UNCLASSIFIED_ENTRY

from .builders import make_segmentation, same_layers

vtk = pytest.importorskip("vtk", reason="slicer-core is not installed")
slicer = pytest.importorskip("slicer", reason="slicer-core is not installed")
from vtk.util.numpy_support import vtk_to_numpy  # noqa: E402


@pytest.fixture
def scene() -> Any:
    scene = slicer.vtkMRMLScene()
    logic = slicer.vtkSlicerSegmentationsModuleLogic()
    logic.SetMRMLScene(scene)
    yield scene
    logic.SetMRMLScene(None)
    scene.Clear(True)


def load_in_slicer(scene: Any, path: Path) -> Any:
    node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode")
    storage = scene.AddNewNodeByClass("vtkMRMLSegmentationStorageNode")
    storage.SetFileName(str(path))
    assert storage.ReadData(node)
    return node


def save_with_slicer(scene: Any, node: Any, path: Path) -> None:
    storage = scene.AddNewNodeByClass("vtkMRMLSegmentationStorageNode")
    storage.SetFileName(str(path))
    assert storage.WriteData(node)


def slicer_mask(node: Any, segment_id: str, volume: sitk.Image) -> np.ndarray:
    """A segment's voxels on the volume's grid, looked up in Slicer's world (RAS) point by point."""
    image = slicer.vtkOrientedImageData()
    node.GetBinaryLabelmapRepresentation(segment_id, image)
    world_to_image = vtk.vtkMatrix4x4()
    image.GetWorldToImageMatrix(world_to_image)
    matrix = np.array([[world_to_image.GetElement(i, j) for j in range(4)] for i in range(4)])
    extent = image.GetExtent()
    shape = (extent[5] - extent[4] + 1, extent[3] - extent[2] + 1, extent[1] - extent[0] + 1)
    voxels = vtk_to_numpy(image.GetPointData().GetScalars()).reshape(shape)
    mask = np.zeros(volume.GetSize()[::-1], bool)
    for z, y, x in np.ndindex(mask.shape):
        left, posterior, superior = volume.TransformIndexToPhysicalPoint((x, y, z))
        i, j, k = np.rint((matrix @ (-left, -posterior, superior, 1))[:3]).astype(int) - (extent[0], extent[2], extent[4])
        if 0 <= k < shape[0] and 0 <= j < shape[1] and 0 <= i < shape[2]:
            mask[z, y, x] = voxels[k, j, i] != 0
    return mask


@pytest.mark.parametrize("overlapping", [False, True])
def test_slicer_opens_what_we_write_with_all_of_it(volume, overlapping, scene, tmp_path):
    segmentation = make_segmentation(volume, overlapping)
    write_segmentation(segmentation, tmp_path / "ours.seg.nrrd", volume)

    node = load_in_slicer(scene, tmp_path / "ours.seg.nrrd")

    segments = node.GetSegmentation()
    assert [segments.GetNthSegmentID(n) for n in range(segments.GetNumberOfSegments())] == [s.id for s in segmentation.structures]
    assert segments.GetNumberOfLayers() == len(segmentation.layers)
    for structure in segmentation.structures:
        segment = segments.GetSegment(structure.id)
        assert segment.GetName() == structure.name
        assert segment.GetLabelValue() == structure.label
        np.testing.assert_allclose(segment.GetColor(), structure.color, atol=1e-8)
        terminology = vtk.reference("")
        segment.GetTag("TerminologyEntry", terminology)
        assert str(terminology) == (structure.terminology or UNCLASSIFIED_ENTRY)
        np.testing.assert_array_equal(slicer_mask(node, structure.id, volume), segmentation.array(structure))


@pytest.mark.parametrize("overlapping", [False, True])
def test_we_read_what_slicer_saves_again_with_all_of_it(volume, overlapping, scene, tmp_path):
    segmentation = make_segmentation(volume, overlapping)
    write_segmentation(segmentation, tmp_path / "ours.seg.nrrd", volume)
    save_with_slicer(scene, load_in_slicer(scene, tmp_path / "ours.seg.nrrd"), tmp_path / "theirs.seg.nrrd")

    # Slicer stores the smallest block that holds all segments and gives segments new label values.
    read, warnings = align_segmentation(read_segmentation(tmp_path / "theirs.seg.nrrd"), volume)

    assert warnings == []
    assert len(read.layers) == len(segmentation.layers)
    for expected, found in zip(segmentation.structures, read.structures, strict=True):
        assert (found.name, found.id, found.terminology) == (expected.name, expected.id, expected.terminology)
        np.testing.assert_allclose(found.color, expected.color, atol=1e-5)
        np.testing.assert_array_equal(read.array(found), segmentation.array(expected))


@pytest.mark.parametrize("overlapping", [False, True])
def test_what_we_write_we_read_unchanged(volume, overlapping, tmp_path):
    segmentation = make_segmentation(volume, overlapping)
    write_segmentation(segmentation, tmp_path / "a.seg.nrrd", volume)

    read = read_segmentation(tmp_path / "a.seg.nrrd")

    assert [replace(s, color=None) for s in read.structures] == [replace(s, color=None) for s in segmentation.structures]
    np.testing.assert_allclose([s.color for s in read.structures], [s.color for s in segmentation.structures], atol=1e-8)
    same_layers(read, segmentation, atol=1e-12)


def test_layers_are_called_a_list_as_slicer_calls_them(volume, tmp_path):
    write_segmentation(make_segmentation(volume, overlapping=True), tmp_path / "a.seg.nrrd", volume)

    header = (tmp_path / "a.seg.nrrd").read_bytes().split(b"\n\n")[0]

    assert b"kinds: list domain domain domain" in header.splitlines()


def test_a_file_of_the_older_form_is_merged_where_segments_do_not_overlap(volume, tmp_path):
    segmentation = make_segmentation(volume, overlapping=True)
    older = sitk.Compose([segmentation.mask(structure) for structure in segmentation.structures])
    for index, structure in enumerate(segmentation.structures):
        older.SetMetaData(f"Segment{index}_ID", structure.id)
        older.SetMetaData(f"Segment{index}_Name", structure.name)
        older.SetMetaData(f"Segment{index}_Color", "0.5 0.25 1")
        older.SetMetaData(f"Segment{index}_Tags", "Segmentation.Status:inprogress|")
    older.SetMetaData("Segmentation_MasterRepresentation", "Binary labelmap")
    sitk.WriteImage(older, str(tmp_path / "older.seg.nrrd"))

    read = read_segmentation(tmp_path / "older.seg.nrrd")

    assert len(read.layers) == 2
    assert [s.label for s in read.structures] == [1, 2, 3, 4]
    assert [s.color for s in read.structures] == [(0.5, 0.25, 1.0)] * 4
    for expected, found in zip(segmentation.structures, read.structures, strict=True):
        assert found.name == expected.name
        np.testing.assert_array_equal(read.array(found), segmentation.array(expected))


def test_structures_of_the_same_id_become_segments_of_their_own(volume, scene, tmp_path):
    segmentation = make_segmentation(volume)
    ids = ("Segment_2", None, "Segment_2", None)
    segmentation = replace(segmentation, structures=tuple(replace(s, id=id_) for s, id_ in zip(segmentation.structures, ids, strict=True)))
    write_segmentation(segmentation, tmp_path / "a.seg.nrrd", volume)

    node = load_in_slicer(scene, tmp_path / "a.seg.nrrd")

    assert node.GetSegmentation().GetNumberOfSegments() == 4


def test_an_empty_segmentation_of_slicer_has_no_structures(scene, tmp_path):
    node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode")
    save_with_slicer(scene, node, tmp_path / "empty.seg.nrrd")

    assert read_segmentation(tmp_path / "empty.seg.nrrd").structures == ()


def test_a_layer_that_the_file_lacks_is_refused(volume, tmp_path):
    write_segmentation(make_segmentation(volume), tmp_path / "a.seg.nrrd", volume)
    content = (tmp_path / "a.seg.nrrd").read_bytes()
    (tmp_path / "b.seg.nrrd").write_bytes(content.replace(b"Segment1_Layer:=0", b"Segment1_Layer:=5"))

    with pytest.raises(InputError, match="layer 5"):
        read_segmentation(tmp_path / "b.seg.nrrd")


def test_a_name_in_an_old_code_page_is_read(volume, tmp_path):
    write_segmentation(make_segmentation(volume), tmp_path / "a.seg.nrrd", volume)
    content = (tmp_path / "a.seg.nrrd").read_bytes()
    (tmp_path / "b.seg.nrrd").write_bytes(content.replace(b"Segment0_Name:=Leber", "Segment0_Name:=Drüse".encode("cp1252")))

    assert read_segmentation(tmp_path / "b.seg.nrrd").structures[0].name == "Drüse"


slicer_like = st.one_of(
    st.sampled_from([*'a%20b;100%;%0A;say "x";Leber ß;肝臓;Éa|b;a:b;a: b;a:=b;a=b;\\;a\\nb;a\\\\n; lead;trail '.split(";"), "é" * 300]),
    st.text(st.characters(exclude_categories=("C", "Zl", "Zp")), min_size=1, max_size=40),
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=slicer_like, segment_id=slicer_like)
def test_names_and_ids_come_back_as_they_were(volume, tmp_path, name, segment_id):
    mask = np.zeros(volume.GetSize()[::-1], np.uint8)
    mask[1, 2, 3] = 1
    labelmap = from_array(mask, volume)
    structure = Structure(1, name, (0.1, 0.2, 0.3), id=segment_id)
    write_segmentation(Segmentation(labelmap, (structure,)), tmp_path / "s.seg.nrrd", volume, force=True)

    read = read_segmentation(tmp_path / "s.seg.nrrd").structures[0]

    assert (read.name, read.id) == (name, segment_id)
