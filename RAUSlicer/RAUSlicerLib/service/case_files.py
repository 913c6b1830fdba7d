"""A segmented target as files, for requests that ask about it; and the reports and answers that come back."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from ..errors import InputError
from ..imaging.files import read_segmentation, read_volume, write_segmentation
from ..imaging.segmentation import Reference, Segmentation
from ..interpretation.evidence import Answer, Report
from ..interpretation.rendering.json_report import from_values, sentence_of, sentence_values, to_values
from ..support import strict_json
from .exchange import Json, disk_full, result_from_json, result_to_json, structure_from_json, structure_to_json, write_image
from .requests import CaseRequest


def fingerprint_of_case(case: CaseRequest) -> str:
    """The same text for the same voxels, structures and results: it tells the worker whether it has measured a case before."""
    digest = hashlib.blake2b(digest_size=16)
    images = [case.volume, *case.segmentation.layers]
    if case.reference is not None:
        images += [case.reference.volume, *case.reference.segmentation.layers]
        digest.update(repr(case.reference.segmentation.structures).encode())
    for image in images:
        digest.update(repr((image.GetSize(), image.GetSpacing(), image.GetOrigin(), image.GetDirection(), image.GetPixelID())).encode())
        digest.update(np.ascontiguousarray(sitk.GetArrayViewFromImage(image)).data)
    digest.update(json.dumps(_description(case), sort_keys=True).encode())
    return digest.hexdigest()


def write_case(folder: Path, case: CaseRequest) -> Json:
    """Write a case into a folder and return the fields of the request that name the files.

    Raises:
        OutputError: the temporary folder can't be written.
    """
    target, segmentation, description = (str(folder / name) for name in ("target.nrrd", "target.seg.nrrd", "case.json"))
    write_image(case.volume, target)
    write_segmentation(case.segmentation, Path(segmentation), case.volume)
    write_json(Path(description), _description(case))
    fields = {"target": target, "segmentation": segmentation, "description": description}
    if case.reference is not None:
        fields["reference"], fields["reference_segmentation"] = str(folder / "reference.nrrd"), str(folder / "reference.seg.nrrd")
        write_image(case.reference.volume, fields["reference"])
        write_segmentation(case.reference.segmentation, Path(fields["reference_segmentation"]), case.reference.volume)
    return fields


def read_case(request: Mapping[str, Any]) -> CaseRequest:
    """The case that a request names.

    Raises:
        InputError: a file is missing or unreadable.
    """
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
    """Write a marked region (z, y, x; booleans on a grid) into a folder and return the file's path.

    Raises:
        OutputError: the temporary folder can't be written.
    """
    path = str(folder / "region.nrrd")
    image = sitk.GetImageFromArray(region.astype(np.uint8))
    image.CopyInformation(grid)
    write_image(image, path)
    return path


def write_answer(path: Path, answer: Answer) -> None:
    """Write an answer into the temporary folder.

    Raises:
        OutputError: it can't be written.
    """
    sentences = [sentence_values(sentence) for sentence in answer.sentences]
    write_json(path, {"question": answer.question, "is_known": answer.is_known, "sentences": sentences})


def read_answer(path: Path) -> Answer:
    """What ``write_answer`` has written.

    Raises:
        InputError: the file is missing or damaged.
    """
    values = read_json(path)
    try:
        return Answer(str(values["question"]), tuple(sentence_of(item) for item in values["sentences"]), bool(values["is_known"]))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _damaged(path) from error


def write_report(path: Path, report: Report) -> None:
    """Write a report into the temporary folder.

    Raises:
        OutputError: it can't be written.
    """
    write_json(path, to_values(report))


def read_report(path: Path) -> Report:
    """What ``write_report`` has written.

    Raises:
        InputError: the file is missing or damaged.
    """
    return from_values(read_json(path))


def write_json(path: Path, document: Any) -> None:
    """Write a JSON file into the temporary folder.

    Raises:
        OutputError: it can't be written.
    """
    try:
        path.write_text(strict_json.dumps(document), encoding="ascii")
    except OSError as error:
        raise disk_full(path) from error


def read_json(path: Path) -> Any:
    """What is in a JSON file of the temporary folder.

    Raises:
        InputError: it is missing or damaged.
    """
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
