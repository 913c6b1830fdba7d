"""A trial's truth: the changed target, what the expert marked in it, and how a method's outcome compares."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from ..imaging.image_file import read_image
from ..imaging.overlap import dice
from ..imaging.variants import NATURAL, change
from .boxes import corner_iou, mask_box
from .metrics import score
from .pairs import SEED, Trial, scored_labels
from .records import StructureScore

# Smaller annotations are mostly errors at the edge of the field of view.
FEWEST_VOXELS = 50


@dataclass(frozen=True)
class Truth:
    """A trial, made ready: ``volume`` is the target's file, ``labelmap`` the expert's labels on its grid, ``names`` are what is asked for.

    With a reference of another part of the body nothing of what is asked for is in the target, and ``labelmap`` is empty.
    """

    volume: Path
    labelmap: sitk.Image
    names: dict[int, str]

    def scores(self, outcome: Mapping[str, Any], found: sitk.Image | None, *, mirrored: bool) -> tuple[StructureScore, ...]:
        """Compare an outcome of the worker with the expert; ``found`` is its label map, None where the method failed.

        A method that fails has found nothing: leaving the run out would reward it. Where the target is ``mirrored`` each structure is
        compared with its counterpart of the other side as well.
        """
        truth = sitk.GetArrayViewFromImage(self.labelmap)
        voxels = np.zeros_like(truth) if found is None else sitk.GetArrayViewFromImage(found)
        return tuple(self._score(label, truth, voxels, outcome, mirrored) for label in self.names)

    def _score(self, label: int, truth: np.ndarray, voxels: np.ndarray, outcome: Mapping[str, Any], mirrored: bool) -> StructureScore:
        name, expected, found = self.names[label], truth == label, voxels == label
        answer = outcome.get("answers", {}).get(str(label), {"present": False})
        own = {key: answer.get(key) for key in ("presence", "confidence", "status")}
        said, count = bool(answer["present"]), int(expected.sum())
        if count < FEWEST_VOXELS:
            return StructureScore(label, name, None if count else False, said, None, None, None, **own)
        compared = score(found, expected, self.labelmap.GetSpacing())
        own_box = None
        if outcome.get("gives_boxes"):
            around = mask_box(expected, self.labelmap)
            assert around is not None
            given = answer.get("box_mm")
            own_box = 0.0 if given is None else corner_iou(np.array(given), np.array(around))
        other = counterpart(name, self.names) if mirrored else None
        opposite = truth == other
        mirror = None if other is None or opposite.sum() < FEWEST_VOXELS else dice(found, opposite)
        return StructureScore(
            label, name, True, said, compared.dice, compared.hd95_mm, compared.box_iou, own_box, mirror_dice=mirror, **own
        )


def prepare(trial: Trial, folder: Path) -> Truth:
    """Read a trial's target and change it as the trial says; what is changed is written into ``folder``."""
    reference = trial.references[0]
    marked = sitk.GetArrayFromImage(read_image(reference.segmentation))
    values, counts = np.unique(marked[marked > 0], return_counts=True)
    enough = [int(value) for value, count in zip(values, counts, strict=True) if count >= FEWEST_VOXELS]
    known = reference.structure_names()
    names = {label: known[label] for label in scored_labels(reference.domain, enough)}
    labels = read_image(trial.target.segmentation)
    path = trial.target.volume
    if trial.variant != NATURAL:
        volume = read_image(path)
        volume, labels = change(trial.variant, volume, labels, f"{SEED} {trial.domain} {trial.target.name} {trial.variant}")
        path = folder / "target.nii.gz"
        sitk.WriteImage(volume, str(path))
    return Truth(path, labels * 0 if trial.wrong_part else labels, names)


def counterpart(name: str, names: Mapping[int, str]) -> int | None:
    """The label of the same structure on the other side, by its name; None where there is none.

    >>> counterpart("left kidney", {2: "right kidney", 3: "left kidney"})
    2
    """
    words = name.split()
    swapped = {"left": "right", "right": "left", "Left": "Right", "Right": "Left"}
    other = " ".join(swapped.get(word, word) for word in words)
    # Label files are not strict about spaces.
    return next((label for label, known in names.items() if known != name and " ".join(known.split()) == other), None)
