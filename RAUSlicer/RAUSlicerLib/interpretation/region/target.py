"""Scores for the structures of a segmented target: what the region model can honestly say of them, and nothing where it can't."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import SimpleITK as sitk

from ...imaging.checks import is_ct_volume
from ..evidence import Score
from .drr import project
from .model import LEAST_SIDE, RegionModel

CHEST, ABDOMEN = "chest_xray", "abdomen"
# With fewer known organs in it, a CT is taken for one of another part of the body.
_LEAST_ORGANS = 3


def picture_of(volume: sitk.Image) -> tuple[np.ndarray, str] | None:
    """The picture of a target that the model can look at and the graph of its regions: a radiograph itself, or a CT projected from the
    front. None for other volumes.
    """
    values = sitk.GetArrayViewFromImage(volume)
    if values.ndim == 2:
        return np.array(values, np.float32), CHEST
    if values.shape[0] == 1:
        return np.array(values[0], np.float32), CHEST
    if is_ct_volume(volume):
        return project(volume).image, ABDOMEN
    return None


def score_structures(model: RegionModel, volume: sitk.Image, nodes: Mapping[str, tuple[str, str]]) -> dict[str, tuple[Score, ...]]:
    """Scores of the findings that the model told better than chance on held-out people, by a structure's name.

    Args:
        model: The region model.
        volume: The target.
        nodes: Which graph and node each structure is attached to; structures that the model was not trained on get no scores.
    """
    known = {name: f"{graph}/{node}" for name, (graph, node) in nodes.items() if f"{graph}/{node}" in model.trained}
    graphs = [region.split("/")[0] for region in known.values()]
    if not known or (CHEST not in graphs and graphs.count(ABDOMEN) < _LEAST_ORGANS):
        return {}
    shown = picture_of(volume)
    if shown is None or min(shown[0].shape) < LEAST_SIDE:
        return {}
    picture, graph = shown
    look = model.look(picture)
    out = {}
    for name, region in known.items():
        phrases = [finding.present[0] for finding in model.trusted(region)]
        if region.startswith(f"{graph}/") and phrases:
            out[name] = model.scores(look, phrases, [region])
    return out
