"""Volumes on the grids that go wrong most easily, and the development data."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from .builders import GRIDS, noise, on_grid


@pytest.fixture(params=GRIDS)
def volume(request: pytest.FixtureRequest) -> sitk.Image:
    """A volume of noise of 9 x 8 x 7 voxels on one of the difficult grids."""
    return noise(request.param)


@pytest.fixture
def oblique() -> sitk.Image:
    """The same on one of them."""
    return noise("oblique")


@pytest.fixture
def block() -> sitk.Image:
    """An oblique volume of 14 x 16 x 10 voxels, no two of which are alike."""
    return on_grid(sitk.GetImageFromArray(np.arange(10 * 16 * 14, dtype=np.int16).reshape(10, 16, 14) - 60), "oblique")


@pytest.fixture(scope="session")
def ct_series(data_folder: Path) -> Path:
    """A folder with 20 slices of a CT."""
    folder = data_folder / "ct_mr_samples" / "ct_abdomen_dicom"
    if not folder.is_dir():
        pytest.skip(f"the CT series is not at {folder}")
    return folder
