"""A segmented target as files, for requests that ask about it; and the reports and answers that come back.

Errors are those of ``exchange``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from ..errors import InputError
from ..imaging.files import read_segmentation, read_volume
from ..imaging.grids import from_array
from ..imaging.segmentation import Reference, Segmentation
from ..interpretation.evidence import Answer, Report
from ..interpretation.rendering.json_report import from_values, sentence_of, sentence_values, to_values
from ..support import strict_json
from .exchange import (
    Json,
    digest,
    disk_full,
    result_from_json,
    result_to_json,
    structure_from_json,
    structure_to_json,
    write_image,
    write_labels,
)
from .requests import CaseRequest


def fingerprint_of_case(case: CaseRequest) -> str:
    """The same text for the same voxels, structures and results: it tells the worker whether it has measured a case before."""
    images, said = [case.volume, *case.segmentation.layers], [json.dumps(_description(case), sort_keys=True)]
    if case.reference is not None:
        images += [case.reference.volume, *case.reference.segmentation.layers]
        said.append(repr(case.reference.segmentation.structures))
    return digest(images, *said)


def write_case(folder: Path, case: CaseRequest) -> Json:
    """Write a case into a folder and return the fields of the request that name the files."""
    fields = {"target": "target.nrrd", "segmentation": "target.seg.nrrd", "description": "case.json"}
    if case.reference is not None:
        fields |= {"reference": "reference.nrrd", "reference_segmentation": "reference.seg.nrrd"}
        write_image(case.reference.volume, str(folder / fields["reference"]))
        write_labels(case.reference.segmentation, folder / fields["reference_segmentation"], case.reference.volume)
    write_image(case.volume, str(folder / fields["target"]))
    write_labels(case.segmentation, folder / fields["segmentation"], case.volume)
    write_json(folder / fields["description"], _description(case))
    return {field: str(folder / name) for field, name in fields.items()}


def read_case(request: Mapping[str, Any]) -> CaseRequest:
    """The case that a request names."""
    voxels = read_segmentation(request["segmentation"])
    path = Path(request["description"])
    said = read_json(path)
    try:
        structures = tuple(structure_from_json(item) for item in said["structures"])
        results = tuple(result_from_json(item) for item in said["results"])
        source = {str(heading): str(text) for heading, text in said["source"].items()}
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise _damaged(path) from error
    reference = None
    if request.get("reference"):
        reference = Reference(read_volume(request["reference"]), read_segmentation(request["reference_segmentation"]))
    segmentation = Segmentation(voxels.labelmap, structures, voxels.overlays)
    return CaseRequest(read_volume(request["target"]), segmentation, results, reference, source)


def write_region(folder: Path, region: np.ndarray, grid: sitk.Image) -> str:
    """Write a marked region (z, y, x; booleans on a grid) into a folder and return the file's path."""
    path = str(folder / "region.nrrd")
    write_image(from_array(region.astype(np.uint8), grid), path)
    return path


def write_answer(path: Path, answer: Answer) -> None:
    """Write an answer into the temporary folder."""
    sentences = [sentence_values(sentence) for sentence in answer.sentences]
    write_json(path, {"question": answer.question, "is_known": answer.is_known, "sentences": sentences})


def read_answer(path: Path) -> Answer:
    """What ``write_answer`` has written."""
    values = read_json(path)
    try:
        return Answer(str(values["question"]), tuple(sentence_of(item) for item in values["sentences"]), bool(values["is_known"]))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _damaged(path) from error


def write_report(path: Path, report: Report) -> None:
    """Write a report into the temporary folder."""
    write_json(path, to_values(report))


def read_report(path: Path) -> Report:
    """What ``write_report`` has written."""
    return from_values(read_json(path))


def write_json(path: Path, document: Any) -> None:
    """Write a JSON file into the temporary folder."""
    try:
        path.write_text(strict_json.dumps(document), encoding="ascii")
    except OSError as error:
        raise disk_full(path) from error


def read_json(path: Path) -> Any:
    """What is in a JSON file of the temporary folder."""
    try:
        return strict_json.load(path)
    except (OSError, ValueError) as error:
        raise _damaged(path) from error


def _damaged(path: Path) -> InputError:
    problem = f"The temporary file {path.name!r} is missing or damaged."
    return InputError(problem, "Something removed it, or the disk was full.", "Try again.")


def _description(case: CaseRequest) -> Json:
    return {
        "structures": [structure_to_json(structure) for structure in case.segmentation.structures],
        "results": [result_to_json(result) for result in case.results],
        "source": dict(case.source),
    }
