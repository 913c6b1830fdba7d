"""Reads a configuration and all of its data before hours are spent: what each data set holds, and what is wrong with it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import SimpleITK as sitk

from ..errors import RAUSlicerError
from ..imaging.files import read_volume
from .cases import read_labels
from .config import TrainConfig
from .datasets import STAGES, Dataset, Datasets
from .export import licence_of


def check(config: TrainConfig) -> tuple[list[str], list[str]]:
    """Sentences about each data set that some stage is trained on, and about what is wrong."""
    said, wrong = [], []
    used = {name for stage in STAGES for name in config.datasets.shares(stage)}
    for name in (name for name in config.datasets.sets if name in used):
        about = config.datasets[name]
        stages = ", ".join(f"{stage} {about.share[stage]:g}" for stage in STAGES if about.share.get(stage, 0) > 0)
        found: dict[int, int] = {}
        for split in ("train", "val"):
            for case in about.cases(split):
                labels, why = _labels(about, case)
                wrong += [f"{name}, {case}: {one}" for one in why]
                for label in labels:
                    found[label] = found.get(label, 0) + 1
        cases, people = about.cases("train"), {about.person(case) for case in about.cases("train")}
        said.append(f"{name}: {len(cases)} train cases of {len(people)} people, {len(about.cases('val'))} val cases; shares: {stages}.")
        numbers = sorted(found)
        shown = [f"{label} {about.names.get(label, '(no name)')} in {found[label]}" for label in numbers[:12]]
        more = [f"and {len(numbers) - 12} more"] if len(numbers) > 12 else []
        said.append(f"  labels: {', '.join(shown + more) or 'none'}; licence: {about.licence or 'none stated'}.")
        wrong += [f"{name}: {one}" for one in _of_set(about, config.datasets, numbers, len(people))]
    if not used:
        wrong.append("No data set has a share of any stage.")
    try:
        said.append(f"Licence of the weights: {licence_of(config)}.")
    except RAUSlicerError as error:
        wrong.append(f"{error.problem} {error.solution}")
    return said, wrong


def _labels(about: Dataset, case: str) -> tuple[list[int], list[str]]:
    """The labels of a case, and what is wrong with its files."""
    image, segmentation = about.image_of(case), about.segmentation_of(case)
    if not segmentation.is_file():
        return [], [f"there is no segmentation {str(segmentation)!r}."]
    try:
        labels = read_labels(about, case, read_volume(image) if image.exists() else None)
    except RAUSlicerError as error:
        return [], [f"{error.problem} {error.explanation} {error.solution}"]
    present = [int(label) for label in np.unique(sitk.GetArrayViewFromImage(labels)) if label and label not in about.ignore]
    return present, [] if present else ["it has no label."]


def _of_set(about: Dataset, datasets: Datasets, found: list[int], people: int) -> Iterator[str]:
    if not about.cases("train"):
        yield f"there is no train case in {str(about.folder)!r}."
        return
    both = sorted(set(about.train) & set(about.val))
    if both:
        yield f"{both[0]} is in train and in val."
    if people < 2:
        yield "a pair takes two people, and its train cases are of one."
    count = datasets.label_sets.get(about.labels or "", 0)
    # Labels of heads are in numbers of their own.
    if count and found and not about.numbering and found[-1] >= count:
        yield f"it has the label {found[-1]}, and its label set {about.labels!r} ends at {count - 1}: give it a name or a larger label set."
    seen = [about.image_of(case).exists() for case in about.cases("train")]
    lacking = [stage for stage in ("refiner", "rau", "calibration") if about.share.get(stage, 0) > 0]
    if lacking and not all(seen):
        yield f"{about.cases('train')[seen.index(False)]} has no image, which {lacking[0]} needs."


def describe(config: TrainConfig) -> Iterator[str]:
    """How each stage would be trained: what the file changes is among it."""
    for stage in (*STAGES, "regions"):
        settings = getattr(config, stage)
        if hasattr(settings, "steps"):
            start = f"from {config.start}" if config.start else "from random weights"
            done = "goes on with what is there" if config.state(stage) else start
            yield f"{stage}: {settings.steps} steps at {settings.rate:g}, {done}; {str(config.output / stage)!r}."
