"""Labelled cases in the canonical frame, ready to be cut into patches."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch
from scipy import ndimage
from torch import Tensor

from ..errors import InputError
from ..imaging.checks import align_segmentation
from ..imaging.files import read_segmentation, read_volume
from ..imaging.frame import canonical, foreground_box, working_spacing
from ..imaging.intensity import normalize
from ..imaging.label_values import numbered
from ..imaging.segmentation import Reference, Segmentation, Structure
from ..support.text import name_key
from .datasets import IGNORE, Dataset, Datasets, span

# FreeSurfer's numbers (head_labelmaps) for what Neuromorphometrics' numbers (brain_t1) mean; the others get numbers of their own.
SHARED = {
    **{2: 45, 4: 52, 5: 50, 7: 41, 8: 39, 10: 60, 11: 37, 12: 58, 13: 56, 14: 4, 15: 11, 16: 35, 17: 48, 18: 32, 26: 30, 28: 62, 30: 64},
    **{41: 44, 43: 51, 44: 49, 46: 40, 47: 38, 49: 59, 50: 36, 51: 57, 52: 55, 53: 47, 54: 31, 58: 23, 60: 61, 62: 63, 72: 15, 85: 69},
}
_OWN = {
    **{24: 208, 3: 209, 42: 210, 25: 211, 57: 212, 136: 213, 137: 214, 163: 215, 164: 216},
    **{502: 217, 506: 218, 507: 219, 508: 220, 509: 221, 511: 222, 512: 223, 514: 224, 515: 225, 516: 226, 530: 227},
}
_FLUID, _OUTSIDE = 208, 217
# Left and right of one another, in numbers of training.
MIRRORED = (
    *((45, 44), (52, 51), (50, 49), (41, 40), (39, 38), (60, 59), (37, 36), (58, 57), (56, 55), (48, 47), (32, 31), (30, 23), (62, 61)),
    *((64, 63), (209, 210), (211, 212), (213, 214), (215, 216)),
)


@dataclass
class TrainingCase:
    """One labelled volume, cropped to its foreground.

    ``image`` and ``labels`` are uint8 tensors of shape (z, y, x); intensities 0 to 255, labels `IGNORE` where nothing is known: neither
    positives nor negatives. ``spacing`` is (z, y, x) in mm, ``working`` the spacing in mm at which it is matched as a reference.
    ``centroids`` maps a label to its centre in voxels (z, y, x). Where ``synthetic`` the image is only a place holder: patches get one made
    of their labels, where ``filled`` with invented tissue around them. Of labels that are ``unmarked`` the case says nothing, wherever they
    are; ``parcels`` are the first and last of those that are many and alike. Where ``thick`` its slices are.
    """

    domain: str
    name: str
    subject: str
    image: Tensor
    labels: Tensor
    spacing: tuple[float, float, float]
    working: float
    centroids: dict[int, tuple[float, float, float]]
    synthetic: bool = False
    filled: bool = False
    unmarked: tuple[int, ...] = ()
    parcels: tuple[int, ...] = ()
    thick: bool = False


def load_cases(datasets: Datasets, names: Iterable[str], split: str = "train") -> list[TrainingCase]:
    """All cases of a split of some data sets. Of label maps of whole heads each comes twice: as it is, and as the brain alone.

    Raises:
        InputError: a file can't be read, or has a label that nothing can be done with.
    """
    out = []
    for name in names:
        about = datasets[name]
        for case in about.cases(split):
            if about.numbering == "freesurfer":
                out += [load_head(about, case, stripped=stripped) for stripped in (False, True)]
            elif about.image_of(case).exists():
                out.append(load_case(about, case, datasets.label_sets.get(about.labels or "", 0)))
            else:
                out.append(load_label_map(about, case))
    return out


def read_labels(about: Dataset, case: str, volume: sitk.Image | None = None) -> sitk.Image:
    """A case's labels in the numbers of its set: as they are stored or, where a file names its segments, by these names.

    Args:
        about: The set.
        case: Its name.
        volume: The image, on whose grid the labels are brought.

    Raises:
        InputError: the file can't be read, lies elsewhere, its segments overlap, or a label or name is unknown.
    """
    path = about.segmentation_of(case)
    segmentation = read_segmentation(path, volume)
    if volume is not None:
        segmentation, _ = align_segmentation(segmentation, volume)
    if segmentation.overlays:
        raise _unfit(path, "Its segments overlap, and training gives each voxel one label.", "Save it as one label map.")
    labels = segmentation.labelmap
    if path.name.endswith(".seg.nrrd"):
        numbers = {name_key(name): number for number, name in about.names.items()}
        unknown = [one.name for one in segmentation.structures if name_key(one.name) not in numbers]
        if unknown:
            known = ", ".join(about.names.values()) or "none"
            raise _unfit(path, f"It has a segment {unknown[0]!r}; names of the set: {known}.", "Add it to 'names' of the data set.")
        table = {one.label: numbers[name_key(one.name)] for one in segmentation.structures}
        labels = _replaced(labels, table)
    highest = int(sitk.GetArrayViewFromImage(labels).max())
    if highest >= IGNORE and about.numbering != "freesurfer":
        raise _unfit(path, f"It has the label {highest}, and labels must be below {IGNORE}.", "Number the structures from 1 on.")
    return labels


def _replaced(labels: sitk.Image, table: dict[int, int]) -> sitk.Image:
    values = np.array([0, *table.values()], np.uint8)[numbered(sitk.GetArrayViewFromImage(labels), list(table))]
    image = sitk.GetImageFromArray(values)
    image.CopyInformation(labels)
    return image


def _unfit(path: object, why: str, solution: str) -> InputError:
    return InputError(f"The segmentation {str(path)!r} can't be trained on.", why, solution)


def annotated(about: Dataset, case: str, *, fewest: int = 1, parcels: bool = False) -> Reference:
    """A case as a user would give it: all labels that mark a structure and have ``fewest`` voxels or more, with or without parcels."""
    volume = read_volume(about.image_of(case))
    labels = read_labels(about, case, volume)
    values, counts = np.unique(sitk.GetArrayViewFromImage(labels), return_counts=True)
    kept = [int(v) for v, n in zip(values, counts, strict=True) if v and n >= fewest and v not in about.ignore]
    structures = [Structure(v, about.names.get(v, f"label {v}")) for v in kept if parcels or not about.is_parcel(v)]
    return Reference(volume, Segmentation(labels, tuple(structures)))


def load_case(about: Dataset, name: str, labels_of_set: int = 0) -> TrainingCase:
    """Read image and labels of a case; ``labels_of_set`` is how many labels its label set has."""
    given = read_volume(about.image_of(name))
    volume = canonical(given)
    labels = sitk.GetArrayFromImage(canonical(read_labels(about, name, given))).astype(np.uint8)
    values = normalize(sitk.GetArrayViewFromImage(volume))
    working = working_spacing(volume, values)
    box = tuple(slice(max(s.start - 8, 0), s.stop + 8) for s in foreground_box(values))
    values, labels = values[box], labels[box]
    labels[np.isin(labels, about.ignore)] = IGNORE
    unmarked = (*_unmarked(labels, about, labels_of_set), *span(about.foreign))
    image = torch.from_numpy(np.round(values * 255).astype(np.uint8))
    return _case(about, name, image, labels, volume, working, unmarked=unmarked)


def _case(about: Dataset, name: str, image: Tensor, labels: np.ndarray, like: sitk.Image, working: float, **given: Any) -> TrainingCase:
    kept, spacing = torch.from_numpy(np.ascontiguousarray(labels)), like.GetSpacing()[::-1]
    given |= {"parcels": about.parcels, "thick": about.thick}
    return TrainingCase(about.name, name, about.person(name), image, kept, spacing, working, _centroids(labels), **given)


def _unmarked(labels: np.ndarray, about: Dataset, labels_of_set: int) -> tuple[int, ...]:
    """The labels that a case lacks though they may be there; beyond the ends of structures drawn in part background is ignored."""
    if not about.unmarked:
        return ()
    lacking = tuple(label for label in range(1, labels_of_set) if not (labels == label).any())
    for label in about.open_ended:
        if label not in lacking:
            beyond = ~(labels == label).any(axis=(1, 2))
            part = labels[beyond]
            part[part == 0] = IGNORE
            labels[beyond] = part
    return lacking


def load_label_map(about: Dataset, name: str) -> TrainingCase:
    """Read the label map of a case without an image, to make scans of any contrast from."""
    volume = canonical(read_labels(about, name))
    labels = sitk.GetArrayFromImage(volume).astype(np.uint8)
    labels[np.isin(labels, about.ignore)] = IGNORE
    working = working_spacing(volume, (labels != 0).astype(np.float32))
    filled = about.background == "tissue"
    return _case(about, name, torch.zeros(labels.shape, dtype=torch.uint8), labels, volume, working, synthetic=True, filled=filled)


def load_head(about: Dataset, name: str, *, stripped: bool) -> TrainingCase:
    """Read the label map of a whole head, or of the brain in it, to make scans of any contrast from.

    Labels that are to be ignored are numbers of training.
    """
    volume = canonical(read_labels(about, name))
    values = sitk.GetArrayFromImage(volume)
    known = {0: 0} | {source: own for source, own in {**SHARED, **_OWN}.items() if own not in about.ignore}
    table = np.array([IGNORE, *known.values()], np.uint8)
    labels = table[numbered(values, list(known))]
    if stripped:
        labels[(labels >= _OUTSIDE) & (labels != IGNORE) | (labels == _FLUID)] = 0
    inside = (labels != 0).astype(np.float32)
    working = working_spacing(volume, inside)
    labels = labels[tuple(slice(max(s.start - 8, 0), s.stop + 8) for s in foreground_box(inside))]
    image = torch.zeros(labels.shape, dtype=torch.uint8)
    return _case(about, name, image, labels, volume, working, synthetic=True, unmarked=tuple(span(about.foreign)))


def _centroids(labels: np.ndarray) -> dict[int, tuple[float, float, float]]:
    out = {}
    for label, window in enumerate(ndimage.find_objects(labels), start=1):
        if window is not None and label != IGNORE:
            places = np.argwhere(labels[window] == label)
            if len(places) >= 20:
                z, y, x = places.mean(0) + [s.start for s in window]
                out[label] = (float(z), float(y), float(x))
    return out
