"""Reads and writes segmentations in .seg.nrrd files, in the form 3D Slicer gives them."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from ..errors import InputError
from ..support.header_fields import is_finite
from ..support.text import is_text
from .grids import from_array
from .labelmap import as_labels, present_labels
from .palette import label_color, shown_color
from .segmentation import Segmentation, Structure

_log = logging.getLogger(__name__)

SUFFIXES = (".seg.nrrd", ".seg.nhdr")

_SEGMENT_FIELD = re.compile(r"Segment(\d{1,9})_(?:ID|Name|LabelValue|Layer)$")
_LARGEST_LABEL = (1 << 32) - 1
_MOST_LISTED = 10
_TERMINOLOGY_TAG = "TerminologyEntry"
# Slicer gives this to every segment that nobody classified; it says nothing about the structure.
UNCLASSIFIED_ENTRY = (
    "Segmentation category and type - 3D Slicer General Anatomy list~SCT^85756007^Tissue~SCT^85756007^Tissue~^^"
    "~Anatomic codes - DICOM master list~^^~^^"
)


def has_segments(image: sitk.Image) -> bool:
    """Whether an image's header describes segments as Slicer does."""
    return bool(_segment_numbers(image)) or image.HasMetaDataKey("Segmentation_MasterRepresentation")


def parse(image: sitk.Image, path: Path) -> Segmentation:
    """The segmentation in an image as ITK reads a .seg.nrrd: one component a layer, segments described in the metadata.

    Files written since Slicer 4.11 put several segments into a layer and say each one's layer and label value; older ones have a layer a
    segment. The layers of the latter are merged as far as segments do not overlap. The header's origin is that of the stored block of
    voxels, so the reference image's extent offset needs no correction. Where a field is missing, what it says is told from the voxels or
    not at all; voxels that no segment describes become a structure of their own for each label value, which is logged as a warning.

    Raises:
        InputError: the header names a layer that the file does not have, holds something other than text and numbers, lacks a field that
            voxels do not tell, or describes fractions.
    """
    if image.GetDimension() != 3:
        raise _damaged(path, f"Its image has {image.GetDimension()} dimensions instead of 3.")
    kind = _field(image, "Segmentation_MasterRepresentation")
    if kind is not None and kind.strip().lower() == "fractional labelmap":
        raise InputError(
            f"The segmentation {str(path)!r} holds fractions.",
            "Its segments are a fractional label map: each voxel says how much of it belongs to a segment, on a scale that the file leaves "
            "out, so where a segment ends can't be told.",
            "In the Segmentations module of 3D Slicer make the binary label map the source representation and save it again.",
        )
    layers = _layers(image, path)
    numbers = _segment_numbers(image)
    older = not any(image.HasMetaDataKey(f"Segment{number}_{field}") for number in numbers for field in ("Layer", "LabelValue"))
    if older and any(len(present_labels(layer)) > 1 for layer in layers):
        # Layers of one segment each hold it as one value: these are label maps, and nothing says which value is which segment.
        return _with_undescribed(Segmentation(layers[0], (), tuple(layers[1:])), path)
    if older:
        # A segment's number is that of its layer, unless segments were removed and the others kept their numbers.
        places = numbers if all(number < len(layers) for number in numbers) else list(range(len(numbers)))
        structures = tuple(_structure(image, number, 1, place, path) for number, place in zip(numbers, places, strict=True))
        _require_layers(structures, layers, path)
        return _merge_one_segment_layers(layers, structures, path)
    structures = tuple(_structure(image, number, *place, path) for number, place in _places(image, numbers, layers, path).items())
    _require_layers(structures, layers, path)
    _tell_of_twins(structures, path)
    return _with_undescribed(Segmentation(layers[0], structures, tuple(layers[1:])), path)


def compose(segmentation: Segmentation) -> sitk.Image:
    """The image whose file is a .seg.nrrd: one component a layer, segments described in the metadata.

    Structures without a color get the palette's, those without an id get "Segment_N".
    """
    widest = max(segmentation.layers, key=lambda layer: layer.GetSizeOfPixelComponent()).GetPixelID()
    layers = [sitk.Cast(layer, widest) for layer in segmentation.layers]
    image = layers[0] if len(layers) == 1 else sitk.Compose(layers)
    for key in image.GetMetaDataKeys():
        image.EraseMetaData(key)
    extent = " ".join(f"0 {n - 1}" for n in image.GetSize())
    for index, (structure, segment_id) in enumerate(zip(segmentation.structures, _unique_ids(segmentation.structures), strict=True)):
        color = shown_color(structure.color, structure.label)
        tags = f"{_TERMINOLOGY_TAG}:{structure.terminology or UNCLASSIFIED_ENTRY}|"
        for key, value in {
            "ID": segment_id,
            "Name": structure.name,
            "NameAutoGenerated": "0",
            "Color": " ".join(format(channel, ".9g") for channel in color),
            "ColorAutoGenerated": "0",
            # Slicer cuts a layer to the extent of its first segment, so all of them get the whole one.
            "Extent": extent,
            "Layer": str(structure.layer),
            "LabelValue": str(structure.label),
            "Tags": tags,
        }.items():
            # Halves of characters, as an id from a file with a broken encoding may hold them, have no UTF-8.
            image.SetMetaData(f"Segment{index}_{key}", value.encode("utf-8", "backslashreplace").decode("utf-8"))
    image.SetMetaData("Segmentation_ContainedRepresentationNames", "Binary labelmap|")
    image.SetMetaData("Segmentation_MasterRepresentation", "Binary labelmap")
    image.SetMetaData("Segmentation_ReferenceImageExtentOffset", "0 0 0")
    return image


def write(segmentation: Segmentation, path: Path) -> sitk.Image:
    """Write a .seg.nrrd file; return the image that it holds."""
    image = compose(segmentation)
    sitk.WriteImage(image, str(path), useCompression=True)
    if segmentation.overlays:
        # ITK calls the layers' axis a vector; Slicer and the tools that follow it call it a list, and some look for that word.
        path.write_bytes(path.read_bytes().replace(b"\nkinds: vector ", b"\nkinds: list ", 1))
    return image


def _layers(image: sitk.Image, path: Path) -> list[sitk.Image]:
    if image.GetNumberOfComponentsPerPixel() == 1:
        return [as_labels(image, path)]
    return [as_labels(sitk.VectorIndexSelectionCast(image, k), path) for k in range(image.GetNumberOfComponentsPerPixel())]


def _segment_numbers(image: sitk.Image) -> list[int]:
    """The numbers that segments have in the header, ascending; there may be gaps."""
    found = (_SEGMENT_FIELD.match(key) for key in image.GetMetaDataKeys())
    return sorted({int(match[1]) for match in found if match})


def _places(image: sitk.Image, numbers: Sequence[int], layers: Sequence[sitk.Image], path: Path) -> dict[int, tuple[int, int]]:
    """Label value and layer of each segment by its number; where one of them is missing, it is what no other segment has, if that is clear.

    Raises:
        InputError: it is not clear.
    """
    labels, places = ({number: _whole(image, f"Segment{number}_{field}", path) for number in numbers} for field in ("LabelValue", "Layer"))
    if len(layers) == 1:
        places = {number: 0 if place is None else place for number, place in places.items()}
    taken = {(labels[number], places[number]) for number in numbers}
    free = [(label, place) for place, layer in enumerate(layers) for label in present_labels(layer) if (label, place) not in taken]
    whole: dict[int, tuple[int, int]] = {}
    for number in numbers:
        label, place = labels[number], places[number]
        if label is None or place is None:
            fitting = [(a, b) for a, b in free if label in (None, a) and place in (None, b)]
            if len(fitting) != 1:
                name = _field(image, f"Segment{number}_Name") or f"Segment {number}"
                raise _damaged(path, f"It does not say which voxels are those of {name!r}: its label value or layer is missing.")
            label, place = fitting[0]
            free.remove((label, place))
        whole[number] = label, place
    return whole


def _require_layers(structures: Sequence[Structure], layers: Sequence[sitk.Image], path: Path) -> None:
    for structure in structures:
        if structure.layer not in range(len(layers)):
            raise _damaged(path, f"Segment {structure.name!r} is said to be in layer {structure.layer}, but there are {len(layers)}.")
        if not 0 < structure.label <= _LARGEST_LABEL:
            raise _damaged(path, f"Segment {structure.name!r} is said to have the label value {structure.label}.")


def _tell_of_twins(structures: Sequence[Structure], path: Path) -> None:
    by_place: dict[tuple[int, int], list[str]] = {}
    for structure in structures:
        by_place.setdefault((structure.label, structure.layer), []).append(structure.name)
    for names in by_place.values():
        if len(names) > 1:
            _log.warning("In %r the segments %s are the same voxels.", path.name, ", ".join(repr(name) for name in names))


def _with_undescribed(segmentation: Segmentation, path: Path) -> Segmentation:
    """The segmentation, with a structure for every label value that voxels have and no segment."""
    described = {(structure.label, structure.layer) for structure in segmentation.structures}
    more = [
        Structure(label, f"label {label}", label_color(label), layer=place)
        for place, layer in enumerate(segmentation.layers)
        for label in present_labels(layer)
        if (label, place) not in described
    ]
    if not more:
        return segmentation
    _tell_of_undescribed([structure.name for structure in more], path)
    return replace(segmentation, structures=(*segmentation.structures, *more))


def _tell_of_undescribed(names: Sequence[str], path: Path) -> None:
    listed = ", ".join(repr(name) for name in names[:_MOST_LISTED]) + (" and so on" if len(names) > _MOST_LISTED else "")
    _log.warning("Some voxels in %r belong to no segment that the file describes; they are called %s.", path.name, listed)


def _structure(image: sitk.Image, number: int, label: int, layer: int, path: Path) -> Structure:
    def value(key: str, default: str) -> str:
        found = _field(image, f"Segment{number}_{key}")
        return default if found is None else found

    segment_id = value("ID", "")
    tags = dict(tag.split(":", 1) for tag in value("Tags", "").split("|") if ":" in tag)
    terminology = tags.get(_TERMINOLOGY_TAG)
    color = value("Color", value("DefaultColor", ""))
    channels = [float(channel) for channel in color.split() if is_finite(channel)]
    if color.strip() and not len(channels) == len(color.split()) == 3:
        _log.warning("The color of the segment %r in %r is no color; it has another one here.", value("Name", segment_id), path.name)
        channels = []
    red, green, blue = channels or label_color(label)
    return Structure(
        label=label,
        name=value("Name", segment_id),
        color=(min(max(red, 0.0), 1.0), min(max(green, 0.0), 1.0), min(max(blue, 0.0), 1.0)),
        terminology=None if terminology == UNCLASSIFIED_ENTRY else terminology,
        layer=layer,
        id=segment_id,
    )


def _field(image: sitk.Image, key: str) -> str | None:
    return _text(image.GetMetaData(key)) if image.HasMetaDataKey(key) else None


def _whole(image: sitk.Image, key: str, path: Path) -> int | None:
    text = _field(image, key)
    try:
        return None if text is None else int(text)
    except ValueError as error:
        raise _damaged(path, f"Its field {key} is not a number: {text!r}.") from error


def _text(value: str) -> str:
    """A header's text; bytes that are not UTF-8, as programs on Windows once wrote them, are taken for Western European letters."""
    return value if is_text(value) else value.encode("utf-8", "surrogateescape").decode("cp1252", "replace")


def _merge_one_segment_layers(layers: list[sitk.Image], structures: tuple[Structure, ...], path: Path) -> Segmentation:
    """Put each segment into the first label map in which its voxels are free, under a label value of its own."""
    described = {structure.layer for structure in structures}
    more = [place for place, layer in enumerate(layers) if place not in described and present_labels(layer)]
    structures = (*structures, *(Structure(1, f"layer {place}", layer=place) for place in more))
    dtype = np.uint8 if len(structures) < 256 else np.uint16
    merged = [np.zeros_like(sitk.GetArrayViewFromImage(layers[0]), dtype=dtype)]
    moved: list[Structure] = []
    for label, structure in enumerate(structures, start=1):
        mask = sitk.GetArrayViewFromImage(layers[structure.layer]) != 0
        place = next((k for k, array in enumerate(merged) if not np.any(array[mask])), len(merged))
        if place == len(merged):
            merged.append(np.zeros_like(merged[0]))
        merged[place][mask] = label
        moved.append(replace(structure, label=label, layer=place))
    images = [from_array(array, layers[0]) for array in merged]
    if more:
        _tell_of_undescribed([f"layer {place}" for place in more], path)
    return Segmentation(images[0], tuple(moved), tuple(images[1:]))


def _unique_ids(structures: tuple[Structure, ...]) -> list[str]:
    """Slicer looks segments up by id, so that two of the same id would become one."""
    taken = {structure.id for structure in structures if structure.id}
    ids: list[str] = []
    for number, structure in enumerate(structures, start=1):
        candidate = structure.id if structure.id and structure.id not in ids else f"Segment_{number}"
        while candidate in ids or (candidate != structure.id and candidate in taken):
            candidate += "_"
        ids.append(candidate)
    return ids


def _damaged(path: Path, reason: str) -> InputError:
    return InputError(
        f"The segmentation {str(path)!r} is damaged.", reason, "Open it in 3D Slicer, check it and save it again as .seg.nrrd."
    )
