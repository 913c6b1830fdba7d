"""How well a matching network carries labels on val pairs of every data set: the curve to watch while it trains.

Labels are only warped with the match, so that nothing after it hides what the network knows.
"""

from __future__ import annotations

import json
import time
from itertools import islice

import numpy as np
import SimpleITK as sitk

from ..device import choose_device
from ..errors import InputError
from ..imaging.overlap import dice
from ..loading import load_model
from ..matching.matcher import Matcher
from ..progress import CancelToken, ignore
from .cases import annotated
from .config import TrainConfig
from .datasets import Dataset
from .matching import trained_network
from .priors import pairs

# Structures with fewer voxels in one of both are not scored.
_FEWEST = 50
SCORES = "val.jsonl"


def carried_dice(matcher: Matcher, about: Dataset, reference_name: str, target_name: str) -> float:
    """Mean Dice of the reference's labels, warped with the match, on the target's own grid; NaN where no structure is in both."""
    reference, target = (annotated(about, name, fewest=_FEWEST) for name in (reference_name, target_name))
    match = matcher.match(reference, target.volume, ignore, CancelToken())
    assert match is not None
    truth = target.segmentation.labelmap
    carried = sitk.Resample(reference.segmentation.labelmap, truth, match.transform, sitk.sitkNearestNeighbor, 0)
    found, known = (sitk.GetArrayViewFromImage(image) for image in (carried, truth))
    both = {one.label for one in reference.segmentation.structures} & {one.label for one in target.segmentation.structures}
    return float(np.mean([dice(found == label, known == label) for label in sorted(both)])) if both else float("nan")


def run(config: TrainConfig, limit: int = 1) -> dict[str, float]:
    """Score ``limit`` pairs a data set; a line with steps and mean Dice of each is added to ``val.jsonl`` beside the state.

    Raises:
        InputError: there is no network or no val case.
    """
    sets = {name: one for name, one in config.datasets.sets.items() if any(one.image_of(case).exists() for case in one.cases("val"))}
    trained = trained_network(config)
    if not sets or (trained is None and not config.start):
        raise InputError(
            "There is nothing to score.",
            "No data set has val cases." if trained else "There is no trained matching network, and no model to start from.",
            "Name val cases in the configuration, and run `rauslicer train matching`.",
        )
    network, steps = trained or (load_model(config.start).matching, 0)
    matcher, start = Matcher(network, choose_device(config.device)), time.time()
    line: dict[str, float] = {"steps": steps}
    for name, about in sets.items():
        chosen = islice(pairs(config.datasets, {name: 1}, "val", 1), limit)
        line[name] = round(float(np.mean([carried_dice(matcher, about, *both) for _, *both in chosen])), 4)
    line["seconds"] = round(time.time() - start, 1)
    folder = config.output / "matching"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / SCORES).open("a") as file:
        file.write(json.dumps(line) + "\n")
    return line
