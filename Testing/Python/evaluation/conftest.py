import json
from collections.abc import Callable
from pathlib import Path

import pytest
import SimpleITK as sitk

from RAUSlicerLib.evaluation.records import Run, StructureScore

NAMES = {"1": "body", "2": "left organ", "3": "right organ"}


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory, make_ellipsoids) -> Path:
    """Two tiny data sets of ellipsoids in the layout of the real ones; target y lacks the right organ."""
    root = tmp_path_factory.mktemp("data")
    splits = {}
    for number, domain in enumerate(("bodies", "others")):
        (root / domain).mkdir()
        (root / domain / "labels.json").write_text(json.dumps(NAMES if domain == "bodies" else NAMES | {"2": "Gallbladder"}))
        splits[domain] = {"train": ["a", "b", "c", "d"], "val": ["x", "y"]}
        for seed, case in enumerate("abcdxy", start=10 * number):
            made = make_ellipsoids(scale=(1 + 0.02 * (seed % 5), 1.0, 1.0), seed=seed)
            labelmap = made.segmentation.labelmap
            if case == "y":
                labelmap = sitk.Mask(labelmap, labelmap != 3)
            sitk.WriteImage(made.volume, str(root / domain / f"{case}.nii.gz"))
            sitk.WriteImage(labelmap, str(root / domain / f"{case}_seg.nii.gz"))
    splits["unsplit"] = {"train": ["a"]}
    (root / "splits.json").write_text(json.dumps(splits))
    return root


MakeScore = Callable[..., StructureScore]
MakeRun = Callable[..., Run]


@pytest.fixture(scope="session")
def make_score() -> MakeScore:
    """Builds a structure's score; what isn't given is that of a structure that is there and was said to be."""

    def make(label: int = 1, dice: float | None = 0.5, **other) -> StructureScore:
        values = {"name": f"structure {label}", "is_present": True, "said_present": True, "hd95_mm": 1.0, "mask_box_iou": dice}
        return StructureScore(label=label, dice=dice, **{**values, **other})

    return make


@pytest.fixture(scope="session")
def make_run(make_score: MakeScore) -> MakeRun:
    """Builds a run; ``dice`` is a number for each structure, by label from 1 on."""

    def make(method: str = "rauslicer", target: str = "x", dice=(0.5,), structures=None, **other) -> Run:
        values = {
            "domain": "brain_t1",
            "references": ("a",),
            "variant": "natural",
            "model": "",
            "seconds": 10.0,
            "load_seconds": None,
            "peak_mb": 100.0,
        }
        scores = tuple(make_score(label, value) for label, value in enumerate(dice, start=1)) if structures is None else tuple(structures)
        return Run(method=method, target=target, structures=scores, **{**values, **other})

    return make
