"""What a run's JSON says of a segmentation, and files that say something else."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from RAUSlicerLib.errors import InputError
from RAUSlicerLib.interpretation.segmented import load_reference, load_segmented
from RAUSlicerLib.results import Status


@pytest.fixture
def files(tmp_path: Path) -> Path:
    values = np.random.default_rng(0).integers(0, 900, (6, 40, 40)).astype(np.int16)
    labels = np.zeros(values.shape, np.uint8)
    labels[2:4, 5:20, 5:20] = 1
    for name, array in (("v.nrrd", values), ("s.nrrd", labels)):
        image = sitk.GetImageFromArray(array)
        image.SetSpacing((1.5, 1.5, 4.0))
        sitk.WriteImage(image, str(tmp_path / name))
    (tmp_path / "labels.json").write_text('{"1": "liver"}')
    return tmp_path


def item(**changed: object) -> dict[str, object]:
    fields = {"label": 1, "name": "liver", "status": "found", "confidence": 0.5, "presence": 0.9, "volume_ml": 4.0}
    return fields | {"reference_volume_ml": 5.0, "box_mm": [[0, 0, 0], [1, 1, 1]]} | changed


def test_what_a_run_said_is_read(files: Path) -> None:
    (files / "r.json").write_text(json.dumps({"structures": [item(), item(label=2, name="spleen", status="not found")]}))

    case = load_segmented(files / "v.nrrd", files / "s.nrrd", files / "r.json")

    assert [(result.structure.name, result.status) for result in case.results] == [("liver", Status.FOUND), ("spleen", Status.NOT_FOUND)]


@pytest.mark.parametrize(
    "content",
    [
        *(
            json.dumps({"structures": [item(**{key: value})]})
            for key in ("confidence", "presence")
            for value in (float("nan"), float("inf"))
        ),
        *(json.dumps({"structures": [item(**changed)]}) for changed in ({"label": [1]}, {"name": 5}, {"name": None}, {"status": "lost"})),
        *(
            json.dumps({"structures": [item(box_mm=box)]})
            for box in ([[0, 0, float("nan")], [1, 1, 1]], [[0], [1]], "ab", [["a", "b", "c"], [1, 1, 1]])
        ),
        json.dumps({"structures": [item()]}).replace("0.5", "1e400"),
        json.dumps({"structures": [item()]}).replace("0.5", "9" * 400),
        json.dumps({"structures": [item()]}).replace("0.5", "9" * 6000),
        *("[" * 200000, "null", "[]", "", '{"structures": 5}', '{"structures": [5]}', "\x00"),
    ],
    ids=lambda content: content[:40],
)
def test_a_result_file_that_holds_something_else_is_refused(content: str, files: Path) -> None:
    (files / "r.json").write_text(content)

    with pytest.raises(InputError, match="result file"):
        load_segmented(files / "v.nrrd", files / "s.nrrd", files / "r.json")


def test_only_what_a_run_has_said_itself_is_not_said_again(files: Path) -> None:
    """An empty segment is no surprise then; that the segmentation was resampled is one."""
    other = sitk.ReadImage(str(files / "s.nrrd"))
    other.SetOrigin((0.7, 0.7, 0.0))
    sitk.WriteImage(other, str(files / "s.nrrd"))
    (files / "r.json").write_text(json.dumps({"structures": [item()]}))

    assert any("resampled" in warning for warning in load_segmented(files / "v.nrrd", files / "s.nrrd", files / "r.json").warnings)


def test_what_is_odd_about_a_reference_is_told(files: Path, caplog: pytest.LogCaptureFixture) -> None:
    other = sitk.ReadImage(str(files / "s.nrrd"))
    other.SetOrigin((0.7, 0.7, 0.0))
    sitk.WriteImage(other, str(files / "s.nrrd"))
    with caplog.at_level(logging.WARNING):
        load_reference(files / "v.nrrd", files / "s.nrrd")

    assert "Reference: The segmentation is on another grid" in caplog.text
