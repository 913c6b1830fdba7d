"""A data folder of three small hearts, and the data sets of a training on them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from RAUSlicerLib.training.datasets import Datasets, parse


@pytest.fixture(scope="session")
def hearts(tmp_path_factory: pytest.TempPathFactory, make_ellipsoids) -> Path:
    """``splits.json`` and three people of the domain heart_mr, one of them with two frames."""
    data = tmp_path_factory.mktemp("data")
    (data / "heart_mr").mkdir()
    names = ["patient001_frame01", "patient001_frame12", "patient002_frame01", "patient003_frame01"]
    for number, name in enumerate(names):
        case = make_ellipsoids(size=(44, 50, 14), spacing=(2.0, 2.0, 5.0), scale=(1 + 0.03 * number, 1.0, 1.0), seed=number)
        sitk.WriteImage(case.volume, str(data / "heart_mr" / f"{name}.nii.gz"))
        sitk.WriteImage(case.segmentation.labelmap, str(data / "heart_mr" / f"{name}_seg.nii.gz"))
    (data / "splits.json").write_text(json.dumps({"heart_mr": {"train": names, "val": []}}))
    return data


@pytest.fixture(scope="session")
def heart_sets(hearts: Path) -> Datasets:
    """The hearts as the only data set, beside a label set of brains, with small patches."""
    about = {"labels": "heart", "patch": [48, 48, 48], "thick": True, "what": "Made-up hearts", "licence": "CC0-1.0"}
    values = {"label_sets": {"brain": 228, "heart": 4}, "licence": "CC-BY-4.0", "datasets": {"heart_mr": about}}
    return parse(values, Path("hearts.yaml"), hearts)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)
