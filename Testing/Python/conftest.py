"""Fixtures that every room's tests share: development data where it is at hand, small synthetic volumes everywhere."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from RAUSlicerLib.imaging.segmentation import Reference, Segmentation, Structure

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The development data set; tests that ask for it are skipped where it is absent."""
    folder = Path(os.environ.get("RAUSLICER_DATA") or REPOSITORY.parent / "shared" / "data")
    if not (folder / "splits.json").is_file():
        pytest.skip(f"no development data at {folder} (set RAUSLICER_DATA)")
    return folder


MakeEllipsoids = Callable[..., Reference]


@pytest.fixture(scope="session")
def make_ellipsoids() -> MakeEllipsoids:
    """Builds a volume of one large ellipsoid with a bright one on its left and a dark one on its right, all labelled."""

    def make(
        size: tuple[int, int, int] = (48, 56, 40),
        spacing: tuple[float, float, float] = (2.0, 2.0, 2.0),
        scale: tuple[float, float, float] = (1.0, 1.0, 1.0),
        shift: tuple[float, float, float] = (0.0, 0.0, 0.0),
        seed: int = 0,
    ) -> Reference:
        axes = [(np.arange(n) - (n - 1) / 2) * step for n, step in zip(size, spacing, strict=True)]
        z, y, x = np.meshgrid(axes[2], axes[1], axes[0], indexing="ij")

        def ellipsoid(centre: tuple[float, float, float], radii: tuple[float, float, float]) -> np.ndarray:
            terms = [((w / s - c - d / s) / r) ** 2 for w, s, c, d, r in zip((x, y, z), scale, centre, shift, radii, strict=True)]
            return sum(terms) < 1

        labels = np.zeros(x.shape, np.uint8)
        labels[ellipsoid((0, 0, 0), (36, 44, 30))] = 1
        labels[ellipsoid((15, 5, 2), (9, 14, 10))] = 2
        labels[ellipsoid((-16, -8, -4), (8, 10, 12))] = 3
        noise = np.random.default_rng(seed).normal(0, 3, x.shape)
        volume = sitk.GetImageFromArray((np.array([0, 100, 180, 40])[labels] + noise * (labels > 0)).astype(np.float32))
        labelmap = sitk.GetImageFromArray(labels)
        for image in (volume, labelmap):
            image.SetSpacing(spacing)
            image.SetOrigin((-50.0, 20.0, 300.0))
        structures = (Structure(1, "body"), Structure(2, "left organ"), Structure(3, "right organ"))
        return Reference(volume, Segmentation(labelmap, structures))

    return make
