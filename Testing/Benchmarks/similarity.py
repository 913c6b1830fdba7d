"""How alike the matching network finds volumes of the same and of different parts of the body: what the calibration's limits rest on.

    python Testing/Benchmarks/similarity.py --data ../shared/data --split val --pairs 4

Prints for each kind of pair how many there were, and the smallest and largest similarity. References come from the train split.
"""

from __future__ import annotations

import argparse
from itertools import product
from pathlib import Path

import numpy as np
import torch

from RAUSlicerLib.imaging.variants import NATURAL, change
from RAUSlicerLib.pipeline import Pipeline
from RAUSlicerLib.progress import CancelToken, ignore
from RAUSlicerLib.training.cases import annotated
from RAUSlicerLib.training.datasets import shipped

CHANGES = (NATURAL, "half", "rotated20", "scaled", "mirrored")


def main() -> None:
    """As the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--split", default="val", help="of the targets")
    parser.add_argument("--pairs", type=int, default=4, help="of each kind")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(2)
    datasets = shipped(options.data)
    domains = list(datasets.shares("calibration"))
    matcher = Pipeline("embedded").matcher
    rng = np.random.default_rng(options.seed)
    for source, domain in product(domains, domains):
        for variant in CHANGES if source == domain else (NATURAL,):
            found = []
            while len(found) < options.pairs:
                reference, target = (
                    str(rng.choice(datasets[one].cases(split))) for one, split in ((source, "train"), (domain, options.split))
                )
                if source == domain and datasets[domain].person(reference) == datasets[domain].person(target):
                    continue
                goal = annotated(datasets[domain], target)
                volume, _ = change(variant, goal.volume, goal.segmentation.labelmap, f"{domain} {target} {variant}")
                match = matcher.match(annotated(datasets[source], reference), volume, ignore, CancelToken())
                assert match is not None
                found.append(match.similarity)
            print(f"{source} to {domain}, {variant}: {len(found)} pairs, {min(found):.3f} to {max(found):.3f}", flush=True)


if __name__ == "__main__":
    main()
