"""A run's volumes and results as files, and what goes into the messages beside them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import SimpleITK as sitk

from ..errors import OutputError
from ..imaging.files import read_segmentation, read_volume, write_segmentation
from ..imaging.segmentation import Reference, Segmentation, Structure
from ..results import Localization, Status, StructureResult, Transfer

Json = dict[str, Any]


def write_request(folder: Path, reference: Reference, target: sitk.Image) -> Json:
    """Write a run's input into a folder and return the fields of the request that name the files.

    Raises:
        OutputError: the temporary folder can't be written.
    """
    paths = {name: str(folder / f"{name}.nrrd") for name in ("reference", "target")}
    try:
        sitk.WriteImage(reference.volume, paths["reference"])
        sitk.WriteImage(target, paths["target"])
    except RuntimeError as error:
        raise OutputError(
            f"The volumes can't be written to the temporary folder {str(folder)!r}.",
            "The disk may be full.",
            "Free some space, or set the TMPDIR environment variable to a folder on another disk.",
        ) from error
    segmentation = folder / "reference.seg.nrrd"
    write_segmentation(reference.segmentation, segmentation, reference.volume)
    return {**paths, "reference_segmentation": str(segmentation), "output": str(folder / "result.seg.nrrd")}


def read_request(request: Mapping[str, Any]) -> tuple[Reference, sitk.Image]:
    """The reference and the target that a request names.

    Raises:
        InputError: a file is missing or unreadable.
    """
    reference = read_volume(request["reference"])
    segmentation = read_segmentation(request["reference_segmentation"])
    return Reference(reference, segmentation), read_volume(request["target"])


def write_result(transfer: Transfer, output: Path) -> Json:
    """Write a result's voxels to a file and return the fields of the reply."""
    write_segmentation(transfer.segmentation, output, transfer.segmentation.labelmap, force=True)
    return {
        "segmentation": str(output),
        "structures": [_structure_to_json(structure) for structure in transfer.segmentation.structures],
        "results": [_result_to_json(result) for result in transfer.results],
        "timings": transfer.timings,
        "warnings": list(transfer.warnings),
        "cancelled": transfer.cancelled,
        "model": transfer.model,
        "localizer": transfer.localizer,
    }


def read_result(reply: Mapping[str, Any]) -> Transfer:
    """The result that a reply describes.

    Raises:
        InputError: its file is missing or damaged.
    """
    voxels = read_segmentation(reply["segmentation"])
    structures = tuple(_structure_from_json(item) for item in reply["structures"])
    return Transfer(
        segmentation=Segmentation(voxels.labelmap, structures, voxels.overlays),
        results=tuple(_result_from_json(item) for item in reply["results"]),
        timings=dict(reply["timings"]),
        warnings=tuple(reply["warnings"]),
        cancelled=bool(reply["cancelled"]),
        model=reply["model"],
        localizer=reply["localizer"],
    )


def _structure_to_json(structure: Structure) -> Json:
    return {
        "label": structure.label,
        "name": structure.name,
        "color": structure.color,
        "terminology": structure.terminology,
        "parent": structure.parent,
        "layer": structure.layer,
        "id": structure.id,
    }


def _structure_from_json(item: Mapping[str, Any]) -> Structure:
    color = item["color"]
    return Structure(**{**item, "color": None if color is None else (color[0], color[1], color[2])})


def _result_to_json(result: StructureResult) -> Json:
    return {
        "structure": _structure_to_json(result.structure),
        "status": result.status.value,
        "confidence": float(result.confidence),
        "volume_ml": float(result.volume_ml),
        "reference_volume_ml": float(result.reference_volume_ml),
        "localization": None if result.localization is None else _localization_to_json(result.localization),
    }


def _result_from_json(item: Mapping[str, Any]) -> StructureResult:
    structure = _structure_from_json(item["structure"])
    return StructureResult(
        structure=structure,
        status=Status(item["status"]),
        confidence=item["confidence"],
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
