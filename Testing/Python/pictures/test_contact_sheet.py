"""The contact sheet shows every structure in its colour, on its own side of the sheet."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image

from RAUSlicerLib.errors import OutputError
from RAUSlicerLib.imaging.segmentation import Reference, Segmentation, Structure
from RAUSlicerLib.pictures import contact_sheet
from RAUSlicerLib.results import Status, StructureResult, Transfer

from .cases import GREEN, RED, ball_on_the_left, grid


def transfer_of(segmentation: Segmentation, status: Status = Status.FOUND) -> Transfer:
    results = tuple(StructureResult(structure, status, 0.9, 7.0, 7.0) for structure in segmentation.structures)
    return Transfer(segmentation, results, {})


def colored(path: Path, color: tuple[float, float, float]) -> np.ndarray:
    """Pixels in which the colour's channel clearly leads, without the legend at the bottom; shape (height, width)."""
    pixels = np.asarray(Image.open(path).convert("RGB")).astype(int)
    channel = int(np.argmax(color))
    others = np.delete(pixels, channel, axis=2).max(axis=2)
    lead = pixels[..., channel] - others
    lead[-90:] = 0
    return np.asarray(lead > 60)


def halves(mask: np.ndarray) -> tuple[int, int]:
    middle = mask.shape[1] // 2
    return int(mask[:, :middle].sum()), int(mask[:, middle:].sum())


def test_reference_is_on_the_left_and_the_result_on_the_right(tmp_path: Path) -> None:
    volume, red = ball_on_the_left(color=RED)
    _, green = ball_on_the_left(color=GREEN)

    contact_sheet(Reference(volume, red), volume, transfer_of(green), tmp_path / "sheet.png")

    red_left, red_right = halves(colored(tmp_path / "sheet.png", RED))
    green_left, green_right = halves(colored(tmp_path / "sheet.png", GREEN))
    assert red_left > 1000 and red_right == 0
    assert green_right > 1000 and green_left == 0


def test_a_structure_that_was_not_found_is_only_in_the_reference(tmp_path: Path) -> None:
    volume, segmentation = ball_on_the_left()
    nothing = Segmentation(grid(), segmentation.structures)

    contact_sheet(Reference(volume, segmentation), volume, transfer_of(nothing, Status.NOT_FOUND), tmp_path / "sheet.png")

    left, right = halves(colored(tmp_path / "sheet.png", RED))
    assert left > 1000 and right == 0


def test_structures_that_were_not_asked_for_are_not_drawn(tmp_path: Path) -> None:
    volume, segmentation = ball_on_the_left(color=RED)
    other = Structure(2, "Other", GREEN)
    reference = Reference(volume, Segmentation(segmentation.labelmap, (*segmentation.structures, other)))
    only_other = Segmentation(grid(), (other,))

    contact_sheet(reference, volume, transfer_of(only_other), tmp_path / "sheet.png")

    assert not colored(tmp_path / "sheet.png", RED).any()


def test_low_confidence_has_a_broken_outline(tmp_path: Path) -> None:
    volume, segmentation = ball_on_the_left()
    for status in (Status.FOUND, Status.LOW_CONFIDENCE):
        contact_sheet(Reference(volume, segmentation), volume, transfer_of(segmentation, status), tmp_path / f"{status.name}.png")

    def outline(status: Status) -> int:
        pixels = np.asarray(Image.open(tmp_path / f"{status.name}.png").convert("RGB")).astype(int)
        right = pixels[:-120, pixels.shape[1] // 2 :]
        # Pure red is outline: the fill lets the image through.
        return int(((right[..., 0] > 240) & (right[..., 1] < 60)).sum())

    assert 0 < outline(Status.LOW_CONFIDENCE) < 0.85 * outline(Status.FOUND)


def test_anisotropic_voxels_are_drawn_in_proportion(tmp_path: Path) -> None:
    volume, segmentation = ball_on_the_left()
    thick = (20, 24, 8)
    spacing = [n * step / m for n, step, m in zip(volume.GetSize(), volume.GetSpacing(), thick, strict=True)]
    origin = [o + (new - old) / 2 for o, old, new in zip(volume.GetOrigin(), volume.GetSpacing(), spacing, strict=True)]
    target, labels = (
        sitk.Resample(image, thick, sitk.Transform(), sitk.sitkNearestNeighbor, origin, spacing, volume.GetDirection())
        for image in (volume, segmentation.labelmap)
    )

    contact_sheet(
        Reference(volume, segmentation), target, transfer_of(Segmentation(labels, segmentation.structures)), tmp_path / "sheet.png"
    )

    left, right = halves(colored(tmp_path / "sheet.png", RED))
    assert right == pytest.approx(left, rel=0.25)


def test_a_radiograph_can_be_shown(tmp_path: Path) -> None:
    image = sitk.Image((64, 48, 1), sitk.sitkUInt8)
    labels = sitk.Image((64, 48, 1), sitk.sitkUInt8)
    labels[10:30, 10:30, 0:1] = 1
    segmentation = Segmentation(labels, (Structure(1, "Heart", RED),))

    contact_sheet(Reference(image, segmentation), image, transfer_of(segmentation), tmp_path / "sheet.png")

    left, right = halves(colored(tmp_path / "sheet.png", RED))
    assert left > 1000 and right > 1000


def test_overlapping_structures_are_both_drawn(tmp_path: Path) -> None:
    volume, segmentation = ball_on_the_left(color=RED)
    overlay = sitk.Image(segmentation.labelmap)
    both = Segmentation(segmentation.labelmap * 0, (Structure(1, "Part", GREEN, layer=1),), (overlay,))

    contact_sheet(Reference(volume, segmentation), volume, transfer_of(both), tmp_path / "sheet.png")

    assert colored(tmp_path / "sheet.png", GREEN).sum() > 1000


def test_names_may_hold_any_characters(tmp_path: Path) -> None:
    volume, segmentation = ball_on_the_left()
    odd = Segmentation(segmentation.labelmap, (Structure(1, "Größe $\\nonsense$", RED), Structure(2, "", None)))

    contact_sheet(Reference(volume, odd), volume, transfer_of(odd), tmp_path / "sheet.png")

    assert Image.open(tmp_path / "sheet.png").width > 1000


def test_a_folder_that_is_missing_is_named_in_the_error(tmp_path: Path) -> None:
    volume, segmentation = ball_on_the_left()

    with pytest.raises(OutputError, match="nowhere"):
        contact_sheet(Reference(volume, segmentation), volume, transfer_of(segmentation), tmp_path / "nowhere" / "sheet.png")
