"""Labelled cases in the canonical frame, ready to be cut into patches."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch
from torch import Tensor

from ..imaging.frame import canonical, foreground_box, working_spacing
from ..imaging.intensity import normalize

# Labels that mark no structure of their own or differ between annotators; they are neither positives nor negatives.
IGNORED = {"brain_t1": (1, 15, 42, 43, 46, 53, 54, 63, 64, 69, 74)}


@dataclass
class Case:
    """One labelled volume, cropped to its foreground.

    ``image`` and ``labels`` are uint8 tensors of shape (z, y, x); intensities 0 to 255. ``spacing`` and ``working`` are (z, y, x) in mm.
    ``centroids`` maps a label to its centre in voxels (z, y, x).
    """

    domain: str
    name: str
    subject: str
    image: Tensor
    labels: Tensor
    spacing: tuple[float, float, float]
    working: tuple[float, float, float]
    centroids: dict[int, tuple[float, float, float]]


def subject_of(domain: str, name: str, splits: dict) -> str:
    """The person behind a case: frames of a patient and rescans are the same person."""
    if "_frame" in name:
        return name.split("_frame")[0]
    return splits[domain].get("rescan", {}).get(name, name)


def load_case(folder: Path, name: str, subject: str) -> Case:
    """Read ``<name>.nii.gz`` and ``<name>_seg.nii.gz`` of a domain folder."""
    volume = canonical(sitk.ReadImage(str(folder / f"{name}.nii.gz")))
    labels = sitk.GetArrayFromImage(canonical(sitk.ReadImage(str(folder / f"{name}_seg.nii.gz")))).astype(np.uint8)
    values = normalize(sitk.GetArrayViewFromImage(volume))
    working = (working_spacing(volume, values),) * 3
    box = tuple(slice(max(s.start - 8, 0), s.stop + 8) for s in foreground_box(values))
    values, labels = values[box], labels[box]
    labels[np.isin(labels, IGNORED.get(folder.name, ()))] = 255
    centroids = {}
    for label in np.unique(labels):
        if label not in (0, 255):
            z, y, x = np.nonzero(labels == label)
            if len(z) >= 20:
                centroids[int(label)] = (float(z.mean()), float(y.mean()), float(x.mean()))
    image = torch.from_numpy(np.round(values * 255).astype(np.uint8))
    return Case(
        folder.name, name, subject, image, torch.from_numpy(np.ascontiguousarray(labels)), volume.GetSpacing()[::-1], working, centroids
    )


def load_cases(data: Path, domains: tuple[str, ...], split: str = "train") -> list[Case]:
    """All cases of a split; ``data`` holds ``splits.json`` and one folder a domain."""
    splits = json.loads((data / "splits.json").read_text())
    return [load_case(data / d, name, subject_of(d, name, splits)) for d in domains for name in splits[d][split]]
