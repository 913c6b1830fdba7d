"""A run's volumes and results as files, and what goes into the messages beside them.

What writes raises an OutputError where the temporary folder can't be written, what reads an InputError where a file is missing or damaged.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from ..correction.edits import Correction
from ..errors import OutputError
from ..imaging.files import read_segmentation, read_volume, write_segmentation
from ..imaging.segmentation import Reference, Segmentation, Structure
from ..results import Localization, Status, StructureResult, Transfer

Json = dict[str, Any]


def write_request(folder: Path, reference: Reference, target: sitk.Image) -> Json:
    """Write a run's input into a folder and return the fields of the request that name the files."""
    paths = {name: str(folder / f"{name}.nrrd") for name in ("reference", "target")}
    write_image(reference.volume, paths["reference"])
    write_image(target, paths["target"])
    segmentation = folder / "reference.seg.nrrd"
    write_labels(reference.segmentation, segmentation, reference.volume)
    fields = {**paths, "reference_segmentation": str(segmentation), "output": str(folder / "result.seg.nrrd")}
    return {**fields, "case": fingerprint(reference, target)}


def write_image(image: sitk.Image, path: str) -> None:
    """Write an image into the temporary folder."""
    try:
        sitk.WriteImage(image, path)
    except RuntimeError as error:
        raise disk_full(Path(path)) from error
    # The image library does not notice that the end of a file could not be written.
    if Path(path).stat().st_size <= image.GetNumberOfPixels() * image.GetSizeOfPixelComponent():
        raise disk_full(Path(path))


def write_labels(segmentation: Segmentation, path: Path, volume: sitk.Image) -> None:
    """Write the segmentation of a volume into the temporary folder."""
    try:
        write_segmentation(segmentation, path, volume, force=True)
    except OutputError as error:
        raise disk_full(path) from error


def disk_full(path: Path) -> OutputError:
    """What is said where the temporary folder can't be written."""
    return OutputError(
        f"The file {path.name!r} can't be written to the temporary folder {str(path.parent)!r}.",
        "The disk may be full.",
        "Free some space, or set the TMPDIR environment variable to a folder on another disk.",
    )


def fingerprint(reference: Reference, target: sitk.Image) -> str:
    """The same text for the same voxels, geometry and structures: it tells the worker whether it has seen a pair before."""
    return digest((target, reference.volume, *reference.segmentation.layers), repr(reference.segmentation.structures))


def digest(images: Iterable[sitk.Image], *texts: str) -> str:
    """The same text for the same voxels, geometry and texts."""
    made = hashlib.blake2b(digest_size=16)
    for image in images:
        made.update(repr((image.GetSize(), image.GetSpacing(), image.GetOrigin(), image.GetDirection(), image.GetPixelID())).encode())
        made.update(np.ascontiguousarray(sitk.GetArrayViewFromImage(image)).data)
    for text in texts:
        made.update(text.encode())
    return made.hexdigest()


def write_correction(folder: Path, correction: Correction) -> Json:
    """Write a correction's mask into a folder and return the fields of the request that describe the correction."""
    mask = None
    if correction.mask is not None:
        mask = str(folder / "corrected.nrrd")
        write_image(sitk.Cast(correction.mask != 0, sitk.sitkUInt8), mask)
    return {
        "structure": correction.structure,
        "mask": mask,
        "slices": [[int(axis), int(index)] for axis, index in correction.slices],
        "box_mm": None if correction.box_mm is None else [[float(value) for value in corner] for corner in correction.box_mm],
        "output": str(folder / "result.seg.nrrd"),
    }


def read_correction(request: Mapping[str, Any]) -> Correction:
    """The correction that a request describes."""
    box = request["box_mm"]
    return Correction(
        request["structure"],
        None if request["mask"] is None else read_volume(request["mask"]),
        tuple((axis, index) for axis, index in request["slices"]),
        None if box is None else (tuple(box[0]), tuple(box[1])),
    )


def read_request(request: Mapping[str, Any]) -> tuple[Reference, sitk.Image]:
    """The reference and the target that a request names."""
    reference = read_volume(request["reference"])
    segmentation = read_segmentation(request["reference_segmentation"])
    return Reference(reference, segmentation), read_volume(request["target"])


def write_result(transfer: Transfer, output: Path) -> Json:
    """Write a result's voxels to a file and return the fields of the reply."""
    write_labels(transfer.segmentation, output, transfer.segmentation.labelmap)
    return {
        "segmentation": str(output),
        "structures": [structure_to_json(structure) for structure in transfer.segmentation.structures],
        "results": [result_to_json(result) for result in transfer.results],
        "timings": transfer.timings,
        "warnings": list(transfer.warnings),
        "cancelled": transfer.cancelled,
        "model": transfer.model,
        "localizer": transfer.localizer,
    }


def read_result(reply: Mapping[str, Any]) -> Transfer:
    """The result that a reply describes."""
    voxels = read_segmentation(reply["segmentation"])
    structures = tuple(structure_from_json(item) for item in reply["structures"])
    return Transfer(
        segmentation=Segmentation(voxels.labelmap, structures, voxels.overlays),
        results=tuple(result_from_json(item) for item in reply["results"]),
        timings=dict(reply["timings"]),
        warnings=tuple(reply["warnings"]),
        cancelled=bool(reply["cancelled"]),
        model=reply["model"],
        localizer=reply["localizer"],
    )


def structure_to_json(structure: Structure) -> Json:
    """A structure as values that JSON has."""
    return asdict(structure)


def structure_from_json(item: Mapping[str, Any]) -> Structure:
    """What ``structure_to_json`` was given."""
    color = item["color"]
    return Structure(**{**item, "color": None if color is None else (color[0], color[1], color[2])})


def result_to_json(result: StructureResult) -> Json:
    """A structure's outcome as values that JSON has."""
    return {
        "structure": structure_to_json(result.structure),
        "status": result.status.value,
        # JSON has no NaN; unknown is none.
        "confidence": None if math.isnan(result.confidence) else float(result.confidence),
        "volume_ml": float(result.volume_ml),
        "reference_volume_ml": float(result.reference_volume_ml),
        "localization": None if result.localization is None else _localization_to_json(result.localization),
    }


def result_from_json(item: Mapping[str, Any]) -> StructureResult:
    """What ``result_to_json`` was given."""
    structure = structure_from_json(item["structure"])
    return StructureResult(
        structure=structure,
        status=Status(item["status"]),
        confidence=math.nan if item["confidence"] is None else item["confidence"],
        volume_ml=item["volume_ml"],
        reference_volume_ml=item["reference_volume_ml"],
        localization=None if item["localization"] is None else _localization_from_json(item["localization"], structure),
    )


def _localization_to_json(localization: Localization) -> Json:
    return {
        "presence": float(localization.presence),
        "box_mm": None if localization.box_mm is None else [[float(value) for value in corner] for corner in localization.box_mm],
        "slice_boxes": {str(index): [float(value) for value in box] for index, box in localization.slice_boxes.items()},
    }


def _localization_from_json(item: Mapping[str, Any], structure: Structure) -> Localization:
    low_high = item["box_mm"]
    return Localization(
        structure=structure,
        presence=item["presence"],
        box_mm=None if low_high is None else (tuple(low_high[0]), tuple(low_high[1])),
        slice_boxes={int(index): tuple(box) for index, box in item["slice_boxes"].items()},
    )
