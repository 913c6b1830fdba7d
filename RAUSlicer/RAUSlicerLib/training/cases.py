"""Labelled cases in the canonical frame, ready to be cut into patches."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch
from scipy import ndimage
from torch import Tensor

from ..imaging.frame import canonical, foreground_box, working_spacing
from ..imaging.image_file import read_image
from ..imaging.intensity import normalize
from ..imaging.label_values import numbered
from ..support import strict_json
from .datasets import Dataset, Datasets, shipped

# Marks voxels of which nothing is known: neither positives nor negatives.
IGNORE = 255

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

    ``image`` and ``labels`` are uint8 tensors of shape (z, y, x); intensities 0 to 255. ``spacing`` is (z, y, x) in mm, ``working`` the
    spacing in mm at which it is matched as a reference. ``centroids`` maps a label to its centre in voxels (z, y, x). Where ``synthetic``
    the image is only a place holder: patches get one made of their labels, where ``filled`` with invented tissue around them. Of labels
    that are ``unmarked`` the case says nothing, wherever they are.
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


def subject_of(domain: str, name: str, splits: dict) -> str:
    """The person behind a case: frames of a patient and rescans are the same person."""
    if "_frame" in name:
        return name.split("_frame")[0]
    return splits[domain].get("rescan", {}).get(name, name)


def load_case(folder: Path, name: str, subject: str, without: Collection[int] = (), datasets: Datasets | None = None) -> TrainingCase:
    """Read ``<name>.nii.gz`` and ``<name>_seg.nii.gz`` of a domain folder; nothing is known of the labels that it is to be ``without``."""
    about, datasets = _about(folder.name, datasets), datasets or shipped()
    volume = canonical(read_image(folder / f"{name}.nii.gz"))
    labels = sitk.GetArrayFromImage(canonical(read_image(folder / f"{name}_seg.nii.gz"))).astype(np.uint8)
    values = normalize(sitk.GetArrayViewFromImage(volume))
    working = working_spacing(volume, values)
    box = tuple(slice(max(s.start - 8, 0), s.stop + 8) for s in foreground_box(values))
    values, labels = values[box], labels[box]
    labels[np.isin(labels, [*about.ignore, *without])] = IGNORE
    unmarked = _unmarked(labels, about, datasets.label_sets)
    image = torch.from_numpy(np.round(values * 255).astype(np.uint8))
    kept = torch.from_numpy(np.ascontiguousarray(labels))
    spacing = volume.GetSpacing()[::-1]
    return TrainingCase(folder.name, name, subject, image, kept, spacing, working, _centroids(labels), unmarked=unmarked)


def _about(domain: str, datasets: Datasets | None) -> Dataset:
    known = (datasets or shipped()).datasets
    return known[domain] if domain in known else Dataset(domain, (64, 64, 64))


def _unmarked(labels: np.ndarray, about: Dataset, label_sets: Mapping[str, int]) -> tuple[int, ...]:
    """The labels that a case lacks though they may be there; beyond the ends of structures drawn in part background is ignored."""
    if not about.unmarked or about.labels is None:
        return ()
    lacking = tuple(label for label in range(1, label_sets[about.labels]) if not (labels == label).any())
    for label in about.open_ended:
        if label not in lacking:
            beyond = ~(labels == label).any(axis=(1, 2))
            part = labels[beyond]
            part[part == 0] = IGNORE
            labels[beyond] = part
    return lacking


def load_label_map(folder: Path, name: str, datasets: Datasets | None = None) -> TrainingCase:
    """Read the label map ``<name>_seg.nii.gz`` of a set without images, to make scans of any contrast from."""
    about = _about(folder.name, datasets)
    volume = canonical(read_image(folder / f"{name}_seg.nii.gz"))
    labels = sitk.GetArrayFromImage(volume).astype(np.uint8)
    labels[np.isin(labels, about.ignore)] = IGNORE
    working = working_spacing(volume, (labels != 0).astype(np.float32))
    kept = torch.from_numpy(labels)
    spacing = volume.GetSpacing()[::-1]
    filled = about.background == "tissue"
    image = torch.zeros_like(kept)
    return TrainingCase(folder.name, name, name, image, kept, spacing, working, _centroids(labels), synthetic=True, filled=filled)


def load_head(folder: Path, name: str, *, stripped: bool, without: Collection[int] = ()) -> TrainingCase:
    """Read the label map ``<name>_seg.nii.gz`` of a whole head, or of the brain in it, to make scans of any contrast from.

    Labels that it is to be ``without`` are numbers of training.
    """
    volume = canonical(read_image(folder / f"{name}_seg.nii.gz"))
    values = sitk.GetArrayFromImage(volume)
    known = {0: 0} | {source: own for source, own in {**SHARED, **_OWN}.items() if own not in without}
    table = np.array([IGNORE, *known.values()], np.uint8)
    labels = table[numbered(values, list(known))]
    if stripped:
        labels[(labels >= _OUTSIDE) & (labels != IGNORE) | (labels == _FLUID)] = 0
    inside = (labels != 0).astype(np.float32)
    working = working_spacing(volume, inside)
    box = tuple(slice(max(s.start - 8, 0), s.stop + 8) for s in foreground_box(inside))
    kept = torch.from_numpy(np.ascontiguousarray(labels[box]))
    spacing = volume.GetSpacing()[::-1]
    return TrainingCase(folder.name, name, name, torch.zeros_like(kept), kept, spacing, working, _centroids(labels[box]), synthetic=True)


def _centroids(labels: np.ndarray) -> dict[int, tuple[float, float, float]]:
    out = {}
    for label, window in enumerate(ndimage.find_objects(labels), start=1):
        if window is not None and label != IGNORE:
            places = np.argwhere(labels[window] == label)
            if len(places) >= 20:
                z, y, x = places.mean(0) + [s.start for s in window]
                out[label] = (float(z), float(y), float(x))
    return out


def load_cases(
    data: Path, domains: tuple[str, ...], split: str = "train", without: Collection[int] = (), datasets: Datasets | None = None
) -> list[TrainingCase]:
    """All cases of a split; ``data`` holds ``splits.json`` and one folder a domain.

    Of label maps without images heads come twice: as they are, and as the brain alone. Cases that a set holds out are left out. Labels of
    ``brain_t1`` that it is to be ``without`` are left out there and in the heads, to see how structures fare that nobody trained on.
    """
    splits = strict_json.load(data / "splits.json")
    out = []
    for domain in domains:
        for name in splits[domain][split]:
            if name in _about(domain, datasets).held_out:
                continue
            if (data / domain / f"{name}.nii.gz").exists():
                left_out = without if domain == "brain_t1" else ()
                out.append(load_case(data / domain, name, subject_of(domain, name, splits), left_out, datasets))
            elif domain != "head_labelmaps":
                out.append(load_label_map(data / domain, name, datasets))
            else:
                out += [load_head(data / domain, name, stripped=stripped, without=without) for stripped in (False, True)]
    return out
