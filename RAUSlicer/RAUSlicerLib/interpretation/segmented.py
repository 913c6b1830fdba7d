"""A segmented target from files: the volume, its segmentation, and what a run said of each structure."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import SimpleITK as sitk

from ..errors import InputError
from ..imaging.checks import align_segmentation, check_names, check_volume
from ..imaging.files import read_segmentation, read_volume
from ..imaging.labelmap import label_counts
from ..imaging.segmentation import Reference, Segmentation, Structure
from ..results import Localization, Status, StructureResult
from ..support import strict_json
from ..support.notices import noticed
from ..support.text import name_key

_log = logging.getLogger(__name__)

UNKNOWN = math.nan
"""The confidence of a structure of which no run has said anything."""


@dataclass(frozen=True)
class Segmented:
    """A target with its structures.

    ``results`` hold the structures of ``segmentation``, then those that the run looked for and that have no voxel. ``source`` says what
    they come from (model, localizer), as far as it is known. ``warnings`` are sentences for the user.
    """

    volume: sitk.Image
    segmentation: Segmentation
    results: tuple[StructureResult, ...]
    source: Mapping[str, str]
    warnings: tuple[str, ...] = ()


def load_segmented(target: Path, segmentation: Path, result: Path | None = None) -> Segmented:
    """Read and check a target and its segmentation, and what ``rauslicer transfer --json`` wrote about them where there is such a file.

    Raises:
        InputError: a file is missing, unreadable or unusable.
    """
    with noticed() as of_files:
        volume, warnings = check_volume(read_volume(target), "target")
        read = read_segmentation(segmentation, volume)
    document = {} if result is None else _read(result)
    # An empty segment of which the run said that nothing was found is no surprise.
    expected = bool(document.get("structures"))
    aligned, of_segmentation = align_segmentation(read, volume, expect_empty=expected)
    named, of_names = check_names(aligned)
    whole, results = described(named, document.get("structures", ()))
    source = {heading: str(document[heading]) for heading in ("model", "localizer") if document.get(heading)}
    return Segmented(volume, whole, results, source, (*of_files, *warnings, *of_segmentation, *of_names))


def load_reference(volume: Path, segmentation: Path) -> Reference:
    """Read and check a reference; what is odd about it is logged as a warning.

    Raises:
        InputError: a file is missing, unreadable or unusable.
    """
    image, of_volume = check_volume(read_volume(volume), "reference")
    aligned, of_segmentation = align_segmentation(read_segmentation(segmentation, image), image)
    named, of_names = check_names(aligned)
    for sentence in (*of_volume, *of_segmentation, *of_names):
        _log.warning("Reference: %s", sentence)
    return Reference(image, named)


def described(segmentation: Segmentation, said: Sequence[Mapping[str, Any]]) -> tuple[Segmentation, tuple[StructureResult, ...]]:
    """Results for all structures of a segmentation, from what a run's JSON says of them.

    Args:
        segmentation: On the target's grid.
        said: The ``structures`` of the file; a structure that it does not name is one that somebody drew, whose confidence is unknown.

    Returns:
        The segmentation, with the structures that the run looked for and that have no voxel, and a result for each.
    """
    counts = [label_counts(layer) for layer in segmentation.layers]
    voxel_ml = math.prod(segmentation.labelmap.GetSpacing()) / 1000
    named = {_key(item["name"], item.get("label")): item for item in said} | {_key(item["name"]): item for item in said}
    results, used = [], set()
    for structure in segmentation.structures:
        item = named.get(_key(structure.name, structure.label)) or named.get(_key(structure.name))
        volume = counts[structure.layer].get(structure.label, 0) * voxel_ml
        used.add(id(item))
        results.append(_result(structure, item, volume))
    highest = max([structure.label for structure in segmentation.structures], default=0)
    lost = [item for item in said if id(item) not in used]
    for number, item in enumerate(lost, start=1):
        # A label of its own, that no voxel has.
        results.append(_result(Structure(highest + number, str(item["name"])), {**item, "status": Status.NOT_FOUND}, 0.0))
    return replace(segmentation, structures=tuple(result.structure for result in results)), tuple(results)


def _result(structure: Structure, item: Mapping[str, Any] | None, volume: float) -> StructureResult:
    if item is None:
        return StructureResult(structure, Status.FOUND if volume else Status.NOT_FOUND, UNKNOWN, volume, 0.0)
    presence, box = item.get("presence"), item.get("box_mm")
    place = None if presence is None else Localization(structure, _share(presence), None if box is None else _corners(box))
    status = Status(item["status"]) if volume else Status.NOT_FOUND
    return StructureResult(structure, status, _share(item["confidence"]), volume, _number(item["reference_volume_ml"]), place)


def _number(value: Any, low: float = 0.0, high: float = math.inf) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise ValueError(f"{value!r} stands where a number is needed")
    return float(value)


def _share(value: Any) -> float:
    return _number(value, 0.0, 1.0)


def _corners(box: Any) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    (a, b, c), (d, e, f) = ([_number(value, -math.inf) for value in corner] for corner in box)
    return (a, b, c), (d, e, f)


def _key(name: str, label: int | None = None) -> tuple[str, int | None]:
    return name_key(name), label


def _read(path: Path) -> dict[str, Any]:
    try:
        document: dict[str, Any] = strict_json.load(path)
        for item in document["structures"]:
            if not isinstance(item["name"], str) or not isinstance(item.get("label"), int | None):
                raise ValueError("a name is no text, or a label no whole number")
            _result(Structure(1, item["name"]), item, 1.0)
    except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError, OverflowError, RecursionError) as error:
        raise InputError(
            f"The result file {str(path)!r} can't be used: {error}.",
            "It has to be what 'rauslicer transfer --json FILE' wrote about the segmentation.",
            "Give that file, or leave it out: confidences are then unknown.",
        ) from error
    return document
