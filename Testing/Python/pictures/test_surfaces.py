"""Surfaces lie where the structure lies, face outwards and have its colour."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image

from RAUSlicerLib.errors import OutputError
from RAUSlicerLib.imaging.segmentation import Segmentation, Structure
from RAUSlicerLib.pictures import picture_3d
from RAUSlicerLib.pictures.surfaces import VIEWS, build_mesh

from .cases import LEFT_BLOCK_MM, RED, ball_on_the_left, grid


@pytest.mark.parametrize("orientation", ("LPS", "RAS", "PIR", "SAL"))
def test_surface_surrounds_the_structure_and_faces_outwards(orientation: str) -> None:
    _, segmentation = ball_on_the_left(orientation)

    mesh = build_mesh(segmentation, segmentation.structures)

    from_center = mesh.points.mean(axis=1) - np.asarray(LEFT_BLOCK_MM)
    radii = np.linalg.norm(from_center, axis=1)
    assert np.abs(radii - 12).max() < 3
    outward = np.einsum("ij,ij->i", from_center / radii[:, None], mesh.normals)
    assert np.quantile(outward, 0.01) > 0.7


def test_surface_of_an_oblique_volume_lies_in_patient_space() -> None:
    rotation = sitk.Euler3DTransform((0.0, 0.0, 0.0), 0.4, -0.3, 0.8)
    _, segmentation = ball_on_the_left()
    labelmap = sitk.Image(segmentation.labelmap)
    labelmap.SetDirection(rotation.GetMatrix())
    labelmap.SetOrigin(rotation.TransformPoint(labelmap.GetOrigin()))

    mesh = build_mesh(Segmentation(labelmap, segmentation.structures), segmentation.structures)

    center = mesh.points.reshape(-1, 3).min(axis=0) / 2 + mesh.points.reshape(-1, 3).max(axis=0) / 2
    assert np.allclose(center, rotation.TransformPoint(LEFT_BLOCK_MM), atol=1.5)


def test_a_single_voxel_has_a_surface() -> None:
    labelmap = grid()
    labelmap[5, 5, 5] = 1

    mesh = build_mesh(Segmentation(labelmap, (Structure(1, "Voxel", RED),)), (Structure(1, "Voxel", RED),))

    assert len(mesh.points) > 0
    assert np.all(mesh.colors == RED)


def test_the_views_are_right_handed_and_named_for_where_the_viewer_stands() -> None:
    for view in VIEWS:
        assert np.allclose(np.cross(view.right, view.up), view.viewer)
    above = next(view for view in VIEWS if "above" in view.name)
    assert np.allclose((above.right, above.up), ((-1, 0, 0), (0, -1, 0)))


def test_picture_shows_the_structure_in_its_colour(tmp_path: Path) -> None:
    _, segmentation = ball_on_the_left(color=RED)

    picture_3d(segmentation, tmp_path / "surfaces.png")

    pixels = np.asarray(Image.open(tmp_path / "surfaces.png").convert("RGB")).astype(int)
    red = pixels[..., 0] - pixels[..., 1:].max(axis=2) > 60
    thirds = np.array_split(red, 3, axis=1)
    assert all(third.sum() > 5000 for third in thirds)


def test_an_empty_segmentation_says_that_nothing_was_found(tmp_path: Path) -> None:
    picture_3d(Segmentation(grid(), (Structure(1, "Ball", RED),)), tmp_path / "surfaces.png")

    pixels = np.asarray(Image.open(tmp_path / "surfaces.png").convert("L"))
    middle = pixels[pixels.shape[0] // 3 : -pixels.shape[0] // 3]
    assert (middle > 150).any()


def test_a_slice_can_be_shown(tmp_path: Path) -> None:
    labels = sitk.Image((64, 48, 1), sitk.sitkUInt8)
    labels[10:30, 10:30, 0:1] = 1

    picture_3d(Segmentation(labels, (Structure(1, "Heart", RED),)), tmp_path / "surfaces.png")

    assert (tmp_path / "surfaces.png").stat().st_size > 0


def test_an_unwritable_place_is_named_in_the_error(tmp_path: Path) -> None:
    _, segmentation = ball_on_the_left()

    with pytest.raises(OutputError, match="nowhere"):
        picture_3d(segmentation, tmp_path / "nowhere" / "surfaces.png")
