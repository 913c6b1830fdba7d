"""Judges input once, at the boundary: what is refused, what is repaired with a warning, what is taken as it is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
import SimpleITK as sitk

from ..errors import InputError
from ..support.text import name_key
from .dicom import MODALITY_KEY
from .grids import from_array, index_to_world, part_of_lattice, placed, resample_labels, same_grid, same_lattice, with_grid_of
from .intensity import bounds, is_ct
from .labelmap import label_counts
from .places import TwoPlaces, has_no_place, two_places
from .segmentation import Segmentation, Structure

__all__ = [
    "align_segmentation",
    "check_names",
    "check_volume",
    "distinct_names",
    "is_ct_volume",
    "modality_mismatch",
    "same_grid",
    "same_volume",
]

Role = Literal["reference", "target"]

_SPACING_MM = (1e-3, 100.0)
_LARGEST_EXTENT_MM = 5000.0
_SMALLEST_2D = 32
_NOTICEABLE_LOSS = 0.01
_NOTICEABLE_DEGREES = 0.1
_HALF_VOXEL = 0.5

_SCALARS = tuple(getattr(sitk, f"sitk{kind}") for kind in "UInt8 Int8 UInt16 Int16 UInt32 Int32 UInt64 Int64 Float32 Float64".split())


def check_volume(image: sitk.Image, role: Role) -> tuple[sitk.Image, list[str]]:
    """Refuse a volume that can't be worked with; set undefined voxels to its smallest value. Returns it, and sentences for the user.

    Args:
        image: As read from a file or scene.
        role: "reference" or "target", for the messages.

    Raises:
        InputError: not a scalar 3D image, empty, constant, undefined throughout, one voxel thick and small, or of absurd geometry.
    """
    _check_form(image, role)
    _check_geometry(image, role)
    warnings = [*_told_of_two_places(image, f"the {role}"), *_check_thickness(image, role)]
    array = sitk.GetArrayViewFromImage(image)
    if array.dtype.kind == "f":
        finite = np.isfinite(array)
        undefined = int(array.size - np.count_nonzero(finite))
        if undefined == array.size:
            raise _refused(role, "has no defined voxel: all are NaN or infinite.", "It was probably damaged by a computation.", _OTHER_FILE)
        if undefined:
            smallest = bounds(array[finite])[0]
            image = _fill(image, np.where(finite, array, array.dtype.type(smallest)))
            array = sitk.GetArrayViewFromImage(image)
            warnings.append(f"{undefined} voxels of the {role} are NaN or infinite and were set to its smallest value, {smallest:g}.")
    if array.min() == array.max():
        raise _refused(role, f"is constant: every voxel is {array.min():g}.", "There is no anatomy to see in it.", _OTHER_FILE)
    return image, warnings


def align_segmentation(
    segmentation: Segmentation, volume: sitk.Image, *, what: str = "segmentation", expect_empty: bool = False
) -> tuple[Segmentation, list[str]]:
    """Bring a segmentation onto its volume's grid. Returns it, and sentences for the user.

    On the same grid, up to rounding, the labels stay as they are and the geometry becomes the volume's exactly. On another grid every voxel
    of the volume takes the label of the nearest voxel. Structures without any voxel in the volume are left out, with a warning. Where a
    header gives image or segmentation two places, the same one is taken for both.

    Args:
        segmentation: On any grid.
        volume: The image that was segmented.
        what: What the user calls the segmentation.
        expect_empty: Whether nobody need be told of structures without a voxel.

    Raises:
        InputError: no structure has a voxel in the volume; the segmentation has lost its place, or none of its two is the volume's.
    """
    before = _volumes_mm3(segmentation)
    if not any(before):
        raise InputError(
            f"The {what} is empty: none of its {len(segmentation.structures)} structures has a voxel.",
            "There is nothing to look for in another image.",
            f"Draw or load the structures first, or choose another {what}.",
        )
    empty = [] if expect_empty else [s for s, mm3 in zip(segmentation.structures, before, strict=True) if not mm3]
    warnings = _named("no voxels and can't be used", empty)
    segmentation, of_places = _in_one_place(segmentation, volume, what)
    warnings += of_places
    if all(same_grid(layer, volume) for layer in segmentation.layers):
        aligned = segmentation.map_layers(with_grid_of(layer, volume) for layer in segmentation.layers)
        return _only(aligned, [mm3 > 0 for mm3 in before]), warnings
    difference = _difference(segmentation.labelmap, volume)
    if _has_lost_its_place(segmentation.labelmap, volume):
        raise InputError(
            f"The {what} has lost its place: its header does not say where it lies in the patient, unlike that of its volume.",
            f"{difference} A program that saved it has left its geometry out.",
            "Give it the geometry of its volume (in 3D Slicer: load it as a label map, and set spacing, origin and axes in the Volumes "
            "module to those of the image), or export it again from where it was made.",
        )
    aligned = segmentation.map_layers(resample_labels(layer, volume) for layer in segmentation.layers)
    after = _volumes_mm3(aligned)
    if not any(after):
        raise InputError(
            f"The {what} lies elsewhere: none of its structures has a voxel inside the volume.",
            difference,
            f"Check that image and {what} belong together and lost no transform or orientation when they were saved.",
        )
    if not all(same_lattice(layer, volume) for layer in segmentation.layers):
        warnings.append(
            f"The {what} is on another grid than its volume and was resampled; borders may be off by half a voxel. {difference}"
        )
    inside = _volumes_mm3(segmentation.map_layers(_cropped(layer, volume) for layer in segmentation.layers))
    rows = list(zip(segmentation.structures, before, inside, after, strict=True))
    warnings += _named("no voxels on the volume's grid and can't be used", [s for s, old, _, new in rows if old and not new])
    cut = [s for s, old, within, new in rows if new and within < (1 - _NOTICEABLE_LOSS) * old]
    warnings += _named("been cut by the volume's border", cut)
    return _only(aligned, [mm3 > 0 for mm3 in after]), warnings


def check_names(segmentation: Segmentation) -> tuple[Segmentation, list[str]]:
    """Give nameless structures the name "label N"; say which names are shared. Other names stay as they are, in any script."""
    nameless = [structure for structure in segmentation.structures if not structure.name.strip()]
    structures = tuple(replace(s, name=f"label {s.label}") if not s.name.strip() else s for s in segmentation.structures)
    warnings = []
    if nameless:
        warnings.append(f"{len(nameless)} structures without a name are called {', '.join(repr(f'label {s.label}') for s in nameless)}.")
    shared = [name for name, count in Counter(name_key(s.name) for s in structures).items() if count > 1]
    for key in shared:
        same = [name for name, s in zip(distinct_names(structures), structures, strict=True) if name_key(s.name) == key]
        warnings.append(f"{len(same)} structures share a name; in tables they are called {', '.join(repr(name) for name in same)}.")
    return replace(segmentation, structures=structures), warnings


def distinct_names(structures: tuple[Structure, ...]) -> tuple[str, ...]:
    """A name for each structure that no other has, in order: shared names are followed by the label value, then by a count.

    >>> distinct_names((Structure(1, "Kidney"), Structure(2, "Kidney"), Structure(3, "Liver")))
    ('Kidney (label 1)', 'Kidney (label 2)', 'Liver')
    """
    counts = Counter(name_key(structure.name) for structure in structures)
    names: list[str] = []
    for structure in structures:
        unique = counts[name_key(structure.name)] == 1
        base = structure.name if unique else f"{structure.name} (label {structure.label})"
        name, number = base, 1
        while name in names:
            number += 1
            name = f"{base} #{number}"
        names.append(name)
    return tuple(names)


def same_volume(a: sitk.Image, b: sitk.Image) -> bool:
    """Whether two volumes have the same voxels on the same grid."""
    return same_grid(a, b) and np.array_equal(sitk.GetArrayViewFromImage(a), sitk.GetArrayViewFromImage(b))


def is_ct_volume(volume: sitk.Image) -> bool:
    """Whether a volume is CT: DICOM says so; of other files the intensities tell."""
    if volume.HasMetaDataKey(MODALITY_KEY):
        return bool(volume.GetMetaData(MODALITY_KEY) == "CT")
    return is_ct(sitk.GetArrayViewFromImage(volume))


def modality_mismatch(reference: sitk.Image, target: sitk.Image) -> str | None:
    """A warning where one volume is CT and the other is not, None otherwise."""
    reference_ct, target_ct = is_ct_volume(reference), is_ct_volume(target)
    if reference_ct == target_ct:
        return None
    kinds = {True: "CT (Hounsfield units)", False: "another modality"}
    return (
        f"The reference looks like {kinds[reference_ct]}, the target like {kinds[target_ct]}: "
        "structures may look too different to be found, so check the result with care."
    )


_OTHER_FILE = "Choose another image, or export this one again."
_OTHER_SPACING = "Correct the spacing, for example in the Volumes module of 3D Slicer, and save the image again."


def _refused(role: Role, problem: str, explanation: str, solution: str) -> InputError:
    return InputError(f"The {role} volume {problem}", explanation, solution)


def _check_form(image: sitk.Image, role: Role) -> None:
    shown = _times(image.GetSize())
    if image.GetDimension() != 3:
        raise _refused(
            role, f"has {image.GetDimension()} dimensions ({shown}) instead of 3.", "One volume is needed.", "Choose one of its volumes."
        )
    if image.GetPixelID() not in _SCALARS:
        raise _refused(
            role,
            f"has voxels of the type {image.GetPixelIDTypeAsString()}.",
            "One real intensity a voxel is needed; colour, vector and complex images can't be used.",
            "Save one component, or the magnitude, as an image of its own.",
        )
    if 0 in image.GetSize():
        raise _refused(role, f"is empty: it has {shown} voxels.", "There is nothing to see in it.", _OTHER_FILE)


def _check_geometry(image: sitk.Image, role: Role) -> None:
    smallest, largest = _SPACING_MM
    spacing = image.GetSpacing()
    if not all(smallest <= s <= largest for s in spacing):
        raise _refused(
            role,
            f"has voxels of {_times(spacing)} mm.",
            f"Sizes in medical images lie between {smallest:g} and {largest:g} mm; the header is wrong or in another unit.",
            _OTHER_SPACING,
        )
    extents = [n * s for n, s in zip(image.GetSize(), spacing, strict=True)]
    if max(extents) > _LARGEST_EXTENT_MM:
        raise _refused(
            role,
            f"is {_times(extents)} mm large.",
            "No patient is several metres long; the spacing in the header is wrong or in another unit.",
            _OTHER_SPACING,
        )
    direction = np.reshape(image.GetDirection(), (3, 3))
    if not np.isfinite([*image.GetOrigin(), *image.GetDirection()]).all() or not np.allclose(direction.T @ direction, np.eye(3), atol=1e-2):
        raise _refused(
            role,
            "has axes that are undefined or not at right angles.",
            f"Its direction matrix is {np.round(direction, 3).tolist()}; voxels must be boxes.",
            "Resample it to a regular grid, for example in the Resample modules of 3D Slicer.",
        )


def _check_thickness(image: sitk.Image, role: Role) -> list[str]:
    size = sorted(image.GetSize())
    if size[0] > 1:
        return []
    shown = _times(image.GetSize())
    if size[1] < _SMALLEST_2D:
        raise _refused(
            role,
            f"is one voxel thick and small: {shown} voxels.",
            f"A single slice is taken as a 2D image, but needs at least {_SMALLEST_2D} pixels each way.",
            "Choose the whole volume.",
        )
    return [f"The {role} is one voxel thick ({shown} voxels) and is taken as a 2D image."]


def _fill(image: sitk.Image, array: np.ndarray) -> sitk.Image:
    filled = from_array(array, image)
    for key in image.GetMetaDataKeys():
        filled.SetMetaData(key, image.GetMetaData(key))
    return filled


def _told_of_two_places(image: sitk.Image, what: str) -> list[str]:
    places = two_places(image)
    if places is None:
        return []
    return [
        f"The header of {what} gives it two places, by {places.used} and by {places.other}, up to {places.apart_mm:.3g} mm "
        f"({places.apart_voxels:.2g} voxels) apart; that by {places.used} was used, as 3D Slicer does."
    ]


def _in_one_place(segmentation: Segmentation, volume: sitk.Image, what: str) -> tuple[Segmentation, list[str]]:
    """A segmentation where its volume is: the volume's own place where that brings both together, else the other that does."""
    theirs, own = two_places(volume), two_places(segmentation.labelmap)
    if theirs is None and own is None:
        return segmentation, []
    of_volume, of_labels = _ways(volume, theirs), _ways(segmentation.labelmap, own)
    pairs = [(a, b) for a in of_volume for b in of_labels if a == b or theirs is None or own is None]
    pairs = pairs or [(a, b) for a in of_volume for b in of_labels]
    for fits in (same_grid, part_of_lattice):
        for a, b in pairs:
            if fits(placed(segmentation.labelmap, of_labels[b]), placed(volume, of_volume[a])):
                # The volume stays where it is, and takes the labels with it.
                move = index_to_world(volume) @ np.linalg.inv(of_volume[a])
                moved = segmentation.map_layers(placed(layer, move @ of_labels[b]) for layer in segmentation.layers)
                return moved, _told_of_choice(theirs, own, a, b, what)
    apart_voxels = max(places.apart_voxels for places in (theirs, own) if places is not None)
    if apart_voxels <= _HALF_VOXEL:
        return segmentation, _told_of_two_places(segmentation.labelmap, f"the {what}")
    which = " and ".join(name for name, places in (("volume", theirs), (what, own)) if places is not None)
    raise InputError(
        f"It can't be told where the {what} lies in its volume: the header of the {which} names two places, and none fits.",
        " ".join(
            sentence
            for image, name in ((volume, "the volume"), (segmentation.labelmap, f"the {what}"))
            for sentence in _told_of_two_places(image, name)
        )
        + f" {_difference(segmentation.labelmap, volume)}",
        "Set qform and sform of both files to the one that is right, or load both in 3D Slicer, check that they lie on "
        "each other and save both again.",
    )


def _ways(image: sitk.Image, places: TwoPlaces | None) -> dict[str, np.ndarray]:
    """The places of an image by name, the one in use first."""
    here = index_to_world(image)
    return {"": here} if places is None else {places.used: here, places.other: places.affine}


def _told_of_choice(theirs: TwoPlaces | None, own: TwoPlaces | None, of_volume: str, of_labels: str, what: str) -> list[str]:
    if own is not None:
        rest = "as its volume was" if theirs is not None and of_volume == of_labels == theirs.used else "which is where its volume is"
        return [
            f"The header of the {what} gives it two places, by {own.used} and by {own.other}, up to {own.apart_mm:.3g} mm "
            f"({own.apart_voxels:.2g} voxels) apart; it was placed by {of_labels}, {rest}."
        ]
    if theirs is not None and of_volume != theirs.used:
        return [f"The {what} lies where its volume is by {of_volume}, and was laid over it so."]
    return []


def _difference(labelmap: sitk.Image, volume: sitk.Image) -> str:
    """In which way the grids of a segmentation and its volume differ, in a sentence or two."""
    words = []
    if labelmap.GetSize() != volume.GetSize():
        words.append(f"{_times(labelmap.GetSize())} voxels instead of {_times(volume.GetSize())}")
    if not np.allclose(labelmap.GetSpacing(), volume.GetSpacing(), rtol=1e-3):
        words.append(f"voxels of {_times(labelmap.GetSpacing())} mm instead of {_times(volume.GetSpacing())} mm")
    axes, expected = (np.reshape(image.GetDirection(), (3, 3)) for image in (labelmap, volume))
    turned = np.degrees(np.arccos(np.clip((axes * expected).sum(axis=0), -1, 1)))
    if turned.max() > _NOTICEABLE_DEGREES:
        words.append(f"axes that point {_letters(axes)} instead of {_letters(expected)} (up to {turned.max():.0f} degrees apart)")
    if not np.allclose(labelmap.GetOrigin(), volume.GetOrigin(), atol=1e-3):
        words.append(f"its first voxel at {_millimetres(labelmap)} instead of {_millimetres(volume)}")
    middles = [image.TransformContinuousIndexToPhysicalPoint([(n - 1) / 2 for n in image.GetSize()]) for image in (labelmap, volume)]
    words.append(f"its middle {np.linalg.norm(np.subtract(*middles)):.3g} mm from the volume's")
    return f"It has {', '.join(words[:-1]) + ' and ' if words[:-1] else ''}{words[-1]}."


def _has_lost_its_place(labelmap: sitk.Image, volume: sitk.Image) -> bool:
    """Whether a segmentation of its volume's size has a header that says nothing, as programs write it that know of no geometry."""
    return labelmap.GetSize() == volume.GetSize() and (
        (_says_nothing(labelmap) and not _says_nothing(volume)) or (has_no_place(labelmap) and not has_no_place(volume))
    )


def _says_nothing(image: sitk.Image) -> bool:
    axes = np.abs(np.reshape(image.GetDirection(), (3, 3)))
    return np.allclose(image.GetSpacing(), 1) and np.allclose(image.GetOrigin(), 0) and np.allclose(axes, np.eye(3))


def _letters(axes: np.ndarray) -> str:
    """Where the axes point to: R or L, A or P, S or I for each."""
    return "-".join("LPSRAI"[(3 if axis[largest] < 0 else 0) + largest] for axis in axes.T for largest in [int(np.abs(axis).argmax())])


def _times(numbers: Sequence[float]) -> str:
    return " x ".join(str(number) if isinstance(number, int) else f"{number:g}" for number in numbers)


def _volumes_mm3(segmentation: Segmentation) -> list[float]:
    counts = [label_counts(layer) for layer in segmentation.layers]
    voxels = [float(np.prod(layer.GetSpacing())) for layer in segmentation.layers]
    return [counts[s.layer].get(s.label, 0) * voxels[s.layer] for s in segmentation.structures]


def _cropped(labelmap: sitk.Image, volume: sitk.Image) -> sitk.Image:
    """The label map on its own grid, without what lies outside the volume."""
    covered = sitk.Image(volume.GetSize(), sitk.sitkUInt8) + 1
    return sitk.Mask(labelmap, resample_labels(with_grid_of(covered, volume), labelmap))


def _only(segmentation: Segmentation, kept: list[bool]) -> Segmentation:
    return replace(segmentation, structures=tuple(s for s, keep in zip(segmentation.structures, kept, strict=True) if keep))


def _named(fate: str, structures: list[Structure]) -> list[str]:
    if not structures:
        return []
    return [f"{', '.join(repr(s.name) for s in structures)} {'has' if len(structures) == 1 else 'have'} {fate}."]


def _millimetres(image: sitk.Image) -> str:
    return "(" + ", ".join(f"{c:.1f}" for c in image.GetOrigin()) + ") mm (LPS)"
