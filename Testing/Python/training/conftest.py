"""A data folder of three small hearts, and training stages cut down to them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import yaml

from RAUSlicerLib.training import datasets


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
def only_hearts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped data sets with all steps on small patches of hearts."""
    values = yaml.safe_load(datasets.SHIPPED.read_text())
    for name, entry in values["datasets"].items():
        entry["share"] = float(name == "heart_mr")
    values["datasets"]["heart_mr"]["patch"] = [48, 48, 48]
    values["invented"]["share"] = 0.0
    file = tmp_path_factory.mktemp("datasets") / "datasets.yaml"
    file.write_text(yaml.safe_dump(values, sort_keys=False))
    return file


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)
