"""Finds the same structure in another segmentation: label values and layers differ from case to case, names don't."""

from __future__ import annotations

from ..support.text import name_key
from .segmentation import Segmentation, Structure


def same_structure(segmentation: Segmentation, structure: Structure) -> Structure | None:
    """The segmentation's own structure of that name, None where it has none; a name used twice is told apart by its label.

    >>> import SimpleITK as sitk
    >>> other = Segmentation(sitk.Image(2, 2, 2, sitk.sitkUInt8), (Structure(7, "liver"),))
    >>> same_structure(other, Structure(1, "Liver")).label
    7
    """
    if structure in segmentation.structures:
        return structure
    named = [own for own in segmentation.structures if name_key(own.name) == name_key(structure.name)]
    return next((own for own in named if own.label == structure.label), named[0] if named else None)
