"""What the sizes of voxels and of surroundings at which volumes are matched are worth: Dice and seconds of train pairs.

    python Testing/Benchmarks/voxel_sizes.py --domain heart_mr --pairs 12 --try "" "second_pass_width=128" "finer=1 label_scale=1.4"

Each quoted text is one way to run every pair: names and values of `RAUSlicerLib.matching.settings.MatchingSettings`. An
empty one is the code as it is. Nothing of val is touched. Seconds are only worth something with nothing else running.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch

from RAUSlicerLib.evaluation.scoring import FEWEST_VOXELS
from RAUSlicerLib.imaging.overlap import dice
from RAUSlicerLib.imaging.segmentation import Reference
from RAUSlicerLib.matching.settings import MatchingSettings
from RAUSlicerLib.pipeline import Pipeline
from RAUSlicerLib.results import Transfer
from RAUSlicerLib.support.settings import settings_from
from RAUSlicerLib.training.calibration import pairs
from RAUSlicerLib.training.cases import annotated
from RAUSlicerLib.training.datasets import shipped
from RAUSlicerLib.training.settings import CalibrationTraining


def mean_dice(result: Transfer, truth: Reference) -> float:
    """Mean Dice of the structures that the reference has and that have some voxels in the target."""
    found, known = (sitk.GetArrayFromImage(given.labelmap) for given in (result.segmentation, truth.segmentation))
    both = {one.label for one in result.segmentation.structures} & {one.label for one in truth.segmentation.structures}
    return float(np.mean([dice(found == label, known == label) for label in both if (known == label).sum() >= FEWEST_VOXELS]))


def settings(text: str) -> MatchingSettings:
    """Settings by name, as in ``second_pass_margin=0.3 finer=1``."""
    named = dict(one.split("=") for one in text.split())
    return settings_from(MatchingSettings, {name: float(value) for name, value in named.items()}, text)


def main() -> None:
    """As the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--domain", default="heart_mr")
    parser.add_argument("--pairs", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--try", dest="ways", nargs="+", default=[""])
    options = parser.parse_args()
    torch.set_num_threads(2)
    pipeline = Pipeline("embedded")
    ways = {text: settings(text) for text in options.ways}
    scores: dict[str, list[tuple[float, float]]] = {text: [] for text in ways}
    datasets = shipped(options.data)
    for pair in pairs(datasets, CalibrationTraining(pairs=options.pairs, wrong=0, changed=0), options.seed):
        if pair.domain != options.domain:
            continue
        source, goal = (annotated(datasets[options.domain], case) for case in (pair.reference, pair.target))
        for text, chosen in ways.items():
            pipeline.matcher.settings = chosen
            start = time.perf_counter()
            result = pipeline.transfer(source, goal.volume)
            scores[text].append((mean_dice(result, goal), time.perf_counter() - start))
        last = [some[-1] for some in scores.values()]
        print(pair.reference, pair.target, *(f"{dice:.3f} ({seconds:.1f} s)" for dice, seconds in last), flush=True)
    for text, some in scores.items():
        dice, seconds = np.mean(some, axis=0)
        print(f"{text or 'as it is'}: Dice {dice:.4f}, {seconds:.1f} s")


if __name__ == "__main__":
    main()
