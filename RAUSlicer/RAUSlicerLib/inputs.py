"""The one gate that every input passes: from paths, or from images in memory, to checked references and target."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import SimpleITK as sitk

from .errors import InputError
from .imaging.checks import align_segmentation, check_names, check_volume, modality_mismatch, same_volume
from .imaging.files import read_segmentation, read_volume
from .imaging.frame import opened_together
from .imaging.segmentation import Reference, Segmentation
from .support.notices import noticed
from .support.text import name_key


@dataclass(frozen=True)
class Inputs:
    """What a run starts from. ``warnings`` are sentences for the user."""

    references: tuple[Reference, ...]
    target: sitk.Image
    warnings: tuple[str, ...]


def load_inputs(references: Sequence[tuple[Path, Path]], target: Path) -> Inputs:
    """Read and check references, pairs of a volume's path and its segmentation's, and the target.

    Raises:
        InputError: a file is missing, unreadable or unusable.
    """
    pairs, warnings = [], []
    for number, (volume_path, segmentation_path) in enumerate(references, start=1):
        with noticed() as sentences:
            volume = read_volume(volume_path)
            pairs.append((volume, read_segmentation(segmentation_path, volume)))
        warnings += [f"{'Reference' if len(references) == 1 else f'Reference {number}'}: {sentence}" for sentence in sentences]
    with noticed() as sentences:
        read = read_volume(target)
    warnings += [f"Target: {sentence}" for sentence in sentences]
    inputs = check_inputs(pairs, read)
    return replace(inputs, warnings=tuple(dict.fromkeys([*warnings, *inputs.warnings])))


def check_inputs(references: Sequence[tuple[sitk.Image, Segmentation]], target: sitk.Image) -> Inputs:
    """Check references and target that are in memory, bring each segmentation onto its volume's grid, and choose the axes of all volumes.

    Raises:
        InputError: there is no reference, or one of the images or segmentations can't be used.
    """
    if not references:
        raise InputError(
            "There is no reference.", "Structures are transferred from an annotated reference.", "Give a reference and its segmentation."
        )
    target, warnings = check_volume(target, "target")
    checked = []
    for number, (volume, segmentation) in enumerate(references, start=1):
        volume, of_volume = check_volume(volume, "reference")
        segmentation, of_segmentation = align_segmentation(segmentation, volume)
        segmentation, of_names = check_names(segmentation)
        found = [*of_volume, *of_segmentation, *of_names]
        mismatch = modality_mismatch(volume, target)
        if mismatch:
            found.append(mismatch)
        if same_volume(volume, target):
            found.append("The target is the reference itself: the result only shows that the reference's structures come back.")
        warnings += found if len(references) == 1 else [f"Reference {number}: {sentence}" for sentence in found]
        checked.append(Reference(volume, segmentation))
    target, *volumes = opened_together([target, *(reference.volume for reference in checked)])
    opened = tuple(replace(reference, volume=volume) for reference, volume in zip(checked, volumes, strict=True))
    return Inputs(opened, target, tuple(dict.fromkeys(warnings)))


def split_names(text: str, references: Sequence[Reference]) -> list[str]:
    """Structure names from a comma-separated list; a comma may be part of a name that a reference has.

    The names are not checked here: ``Segmentation.select`` does that.
    """
    known = {name_key(structure.name) for reference in references for structure in reference.segmentation.structures}
    pieces = text.split(",")
    names: list[str] = []
    while pieces:
        # The longest run of pieces that is a known name, else one piece as it is.
        for length in range(len(pieces), 0, -1):
            name = ",".join(pieces[:length]).strip()
            if name_key(name) in known or length == 1:
                names.append(name)
                del pieces[:length]
                break
    return names
