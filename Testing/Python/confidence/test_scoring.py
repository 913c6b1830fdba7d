"""What structures that were found are judged by."""

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from RAUSlicerLib.confidence.scoring import label_support
from RAUSlicerLib.imaging.segmentation import Segmentation, Structure
from RAUSlicerLib.matching.label_posteriors import LabelEvidence

# A column of eight voxels: the training labels say 1 of the first four, half of it of the next two, and 2 of the last two.
INDEX = torch.tensor([1, 1, 1, 1, 1, 1, 2, 2], dtype=torch.uint8).view(1, 8, 1, 1)
SHARE = torch.tensor([255, 255, 255, 255, 51, 51, 255, 255], dtype=torch.uint8).view(1, 8, 1, 1)
# For the first structure label 1 speaks and label 2 speaks against it; for the second one it is the other way.
EVIDENCE = LabelEvidence(INDEX, SHARE, torch.tensor([[0.5, 1.0, 0.0], [0.5, 0.0, 1.0]]))
LIVER, TUMOUR = Structure(70_000, "liver"), Structure(3, "tumour", layer=1)


def grid(spacing: float = 1.0, size: int = 8) -> sitk.Image:
    image = sitk.Image([1, 1, size], sitk.sitkUInt8)
    image.SetSpacing((1, 1, spacing))
    return image


def column(values: list[int]) -> sitk.Image:
    image = sitk.GetImageFromArray(np.array(values, np.uint32).reshape(-1, 1, 1))
    image.SetSpacing((1, 1, 8 / len(values)))
    image.SetOrigin((0, 0, (8 / len(values) - 1) / 2))
    return image


def test_what_labels_say_is_averaged_where_a_structure_was_found() -> None:
    found = Segmentation(column([0, 0, 70_000, 70_000, 70_000, 0, 0, 0]), (LIVER, TUMOUR), (column([0] * 4 + [3] * 4),))
    said = label_support(EVIDENCE, grid(), found, {LIVER: 0, TUMOUR: 1})
    assert said == pytest.approx({LIVER: (1 + 1 + 0.6) / 3, TUMOUR: (0.4 + 0.4 + 1 + 1) / 4})


def test_the_grids_may_differ_and_what_vanishes_on_the_working_grid_is_left_out() -> None:
    found = Segmentation(column([70_000] * 4 + [0] * 28), (LIVER, TUMOUR), (column([0] * 15 + [3] + [0] * 16),))
    assert label_support(EVIDENCE, grid(), found, {LIVER: 0, TUMOUR: 1}) == {LIVER: 1.0}


def test_without_training_labels_nothing_is_said() -> None:
    assert label_support(None, grid(), Segmentation(column([70_000] * 8), (LIVER,)), {LIVER: 0}) == {}
