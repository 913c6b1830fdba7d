"""Makes the region model's folder of a trained state, with what held-out people say of it.

python -m RAUSlicerLib.training.regions_export --state work/regions/b_region/state.pt --figures OUT/regions.json --name NAME
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ..interpretation.region.model import PART, REGION_MODEL
from ..interpretation.region.network import RegionConfig, RegionNet
from ..interpretation.region.text import VERSION
from ..models.checkpoint import save_checkpoint
from ..support import strict_json
from .export import LICENCE, take
from .regions_cases import model_nodes

_CARD = """---
license: cc-by-nc-sa-4.0
---
# RAUSlicer region model

Boxes anatomical regions of a frontal picture of the chest or the abdomen and scores phrases on them. For **non-commercial research** only.
Not a medical device: a score is no probability of a disease and no diagnosis.

## What it is
A small network of {millions:.2f} million parameters: convolutional stem, {layers} transformer layers over {cells} x {cells} patches of a
picture of {size} x {size} pixels, one learned query for each leaf of two anatomy graphs (chest X-ray and abdomen, {nodes} nodes with the
parents, whose queries are means of their children's), a box head, and projections to a space shared with phrases. The text encoder is fixed
and knows no language: hashed words and word parts, negation marked (version {version}). `docs/region-model.md` has the details.

## Data
From random weights:

- {chest_train} chest radiographs of as many people, with masks of lungs, cardiomediastinum, airways, ground glass, consolidation; images
  CC BY, CC BY-SA or CC BY-NC-SA 4.0 (Radiopaedia, Korean Journal of Radiology), annotations CC BY 4.0. {chest_val} more are held out. All
  are of people with pneumonia or a like condition, so that nothing is known of healthy chests.
- Projections made of {abdomen_train} abdominal CTs (train split of BTCV, "Multi-Atlas Labeling Beyond the Cranial Vault"; stated CC BY 4.0
  by a third party, not verified), clipped to -125 to 275 HU, so they are no physical radiographs. {abdomen_val} CTs are held out.

No image or label of these sets is in this folder. The weights are shared under the strictest of these licences.

## Training
{training}

## Scores on the held-out people
{scores}

Intervals are of draws of the people. All figures, baselines and ablations: `Testing/Benchmarks/regions`, made by
`python -m RAUSlicerLib.training.region_evaluation`.

## Limits
Few people, one kind of illness, a small picture: lines, tubes, nodules and small effusions are not seen. Where a finding's interval reaches
.5 the model tells it no better than chance, and `config.json` says so under `trust`. Regions that no mask was drawn of (for example the
carina) have a query that was never shown its region. Left and right are those of the picture: a mirrored picture is read mirrored.
"""


def trust_of(figures: Mapping[str, Any]) -> dict[str, Any]:
    """For ``config.json``: the area under the curve of each finding on regions."""
    out = {}
    for key, value in figures.items():
        which, *where = key.split("/")
        score = value.get("score")
        if which == "scores" and score is not None and score["low"] == score["low"]:
            kept = {name: round(score[source], 3) for name, source in (("auc", "value"), ("low", "low"), ("high", "high"))}
            out["/".join(where)] = {**kept, "n": score["n"], "patients": score["patients"]}
    return out


def export(state_file: Path, document: Mapping[str, Any], name: str, output: Path, training: str) -> None:
    """Write the checkpoint folder; ``document`` is the evaluation's ``regions.json``, ``name`` the model's in it."""
    config = RegionConfig(nodes=model_nodes(), text_version=VERSION)
    net = RegionNet(config)
    tensors = take(torch.load(state_file, weights_only=True)["ema"], "net.", net)
    one, people = document["models"][name], document["people"]
    lines = []
    for key, value in one["figures"].items():
        if "score" in value:
            lines.append(f"- {key}: AUC {value['score']['value']:.2f} [{value['score']['low']:.2f}, {value['score']['high']:.2f}]")
        shown = {k: v for k, v in value.items() if k in ("iou", "point", "mean_box_iou", "prior_point", "prior_iou")}
        if shown:
            lines.append(f"- {key}: " + ", ".join(f"{k} {v['value']:.2f} [{v['low']:.2f}, {v['high']:.2f}]" for k, v in shown.items()))
    card = _CARD.format(
        millions=sum(p.numel() for p in net.parameters()) / 1e6,
        layers=config.layers,
        cells=config.cells,
        size=config.image_size,
        nodes=len(config.nodes),
        version=VERSION,
        chest_train=people["train"]["chest_xray"],
        chest_val=people["val"]["chest_xray"],
        abdomen_train=people["train"]["abdomen"],
        abdomen_val=people["val"]["abdomen"],
        training=training,
        scores="\n".join(lines),
    )
    described = config.to_dict() | {"trained": list(one["trained"]), "trust": trust_of(one["figures"])}
    save_checkpoint(output / PART, described, tensors, card, name=REGION_MODEL, kind=described["model_type"], licence=LICENCE)


def main() -> None:
    """Export as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--state", type=Path, required=True, help="state.pt of the last stage")
    parser.add_argument("--figures", type=Path, required=True, help="regions.json of the evaluation")
    parser.add_argument("--name", required=True, help="the model's name in it")
    parser.add_argument("--training", type=Path, required=True, help="text file that says how it was trained, for the card")
    parser.add_argument("--output", type=Path, default=Path("Resources/Models") / REGION_MODEL)
    args = parser.parse_args()
    export(args.state, strict_json.load(args.figures), args.name, args.output, args.training.read_text().strip())


if __name__ == "__main__":
    main()
