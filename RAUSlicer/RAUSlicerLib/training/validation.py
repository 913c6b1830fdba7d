"""How well a matching network carries labels on val pairs of every data set: the curve to watch while it trains.

    python -m RAUSlicerLib.training.validation --state work/matching/state.pt --data ../shared/data --output work/matching/val.jsonl

Labels are only warped with the match, so that nothing after it hides what the network knows. One line a call: steps, and mean Dice of each
data set.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch

from ..device import choose_device
from ..loading import load_model
from ..matching.matcher import Matcher
from ..matching.network import MatchingConfig, MatchingNet
from ..progress import CancelToken, ignore
from ..support import strict_json
from .datasets import Datasets, load, shipped
from .priors import pairs, whole

# Structures with fewer voxels in one of both are not scored.
_FEWEST = 50
# The cortical parcels of brain_t1 are many and alike.
_HIGHEST_LABEL = {"brain_t1": 99}


def network_of(state: Mapping[str, torch.Tensor], datasets: Datasets) -> MatchingNet:
    """The network of a training state's averaged weights."""
    network = MatchingNet(MatchingConfig(labels=tuple(datasets.label_sets.values())))
    network.load_state_dict({key.removeprefix("net."): value for key, value in state.items() if key.startswith("net.")})
    return network


def carried_dice(matcher: Matcher, data: Path, domain: str, reference_name: str, target_name: str) -> float:
    """Mean Dice of the reference's labels, warped with the match, on the target's own grid."""
    reference, target = (whole(data, domain, name) for name in (reference_name, target_name))
    match = matcher.match(reference, target.volume, ignore, CancelToken())
    assert match is not None
    truth_map = target.segmentation.labelmap
    carried = sitk.Resample(reference.segmentation.labelmap, truth_map, match.transform, sitk.sitkNearestNeighbor, 0)
    found, truth, known = (sitk.GetArrayViewFromImage(image) for image in (carried, truth_map, reference.segmentation.labelmap))
    scores = []
    for structure in reference.segmentation.structures:
        if structure.label > _HIGHEST_LABEL.get(domain, structure.label):
            continue
        a, b = found == structure.label, truth == structure.label
        if b.sum() >= _FEWEST and (known == structure.label).sum() >= _FEWEST:
            scores.append(2 * (a & b).sum() / (a.sum() + b.sum()))
    return float(np.mean(scores)) if scores else float("nan")


def main() -> None:
    """Measure as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--state", type=Path, help="a training state; without it the model's own network is measured")
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--datasets", type=Path, help="another file like training/datasets.yaml")
    parser.add_argument("--domains", help="separated by commas; all that have val cases with images by default")
    parser.add_argument("--limit", type=int, default=1, help="pairs a data set")
    parser.add_argument("--output", type=Path, help="a line is added to this file")
    args = parser.parse_args()
    datasets = load(args.datasets) if args.datasets else shipped()
    steps, network = 0, load_model(args.model).matching
    if args.state:
        state = torch.load(args.state, weights_only=True, map_location="cpu")
        steps, network = state["step"], network_of(state["ema"], datasets)
    splits = strict_json.load(args.data / "splits.json")
    own = [name for name in datasets.datasets if splits.get(name, {}).get("val") and not name.startswith(("head_", "labelmaps"))]
    matcher, start = Matcher(network, choose_device("auto")), time.time()
    line: dict[str, float] = {"steps": steps}
    for domain in args.domains.split(",") if args.domains else own:
        chosen = list(pairs(args.data, "val", 1, (domain,)))[: args.limit]
        line[domain] = round(float(np.mean([carried_dice(matcher, args.data, *pair) for pair in chosen])), 4)
        print(domain, line[domain], flush=True)
    line["seconds"] = round(time.time() - start, 1)
    if args.output:
        with args.output.open("a") as file:
            file.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
