"""Asks what consistency learning is worth to zero-shot grounding: frozen encoders under the same linear map to phrases.

    python -m RAUSlicerLib.training.region_probe --state consistency=work/regions/consistency/state.pt --output OUT

The map from patches to the text encoder's space is solved in closed form (ridge regression) from the *boxes* of the train cases' regions:
nothing else differs between encoders, no step size and no seed, and no mask is used. Beside each state stand encoders of random weights.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..interpretation.region.network import RegionConfig, RegionNet
from ..interpretation.region.text import encode
from .region_evaluation import Looked, full_map, look_at, open_net, options, read_cases, write
from .region_metrics import figure, mean, overlap, points_at
from .regions import make_vocabulary
from .regions_batches import TRUE, Vocabulary
from .regions_cases import ABDOMEN, CHEST, RegionCase, model_nodes
from .regions_losses import coverage

# Share of the features' mean square that is added to it: one for all encoders, not tuned.
_RIDGE = 0.1
_THRESHOLD = 0.5


@torch.inference_mode()
def fit(looked: Looked, vocabulary: Vocabulary, cells: int) -> Tensor:
    """The map (D + 1, W) from patches to phrases that fits the names of the regions whose boxes cover a patch."""
    names = encode([vocabulary.spoken[name][0] for name in vocabulary.names])
    there = looked.batch.visible == TRUE
    boxes = looked.batch.boxes
    covered = coverage(boxes.flatten(0, 1), cells).view(*there.shape, -1) * there[..., None]  # (B, N, P)
    wanted = torch.einsum("bnp,nw->bpw", covered, names).flatten(0, 1)
    seen = _with_one(looked.seen.tokens).flatten(0, 1)
    # Both kinds of pictures weigh the same, however many there are.
    counts = torch.bincount(looked.batch.graphs, minlength=len(vocabulary.graph_names)).float()
    weight = (1 / counts[looked.batch.graphs]).repeat_interleave(looked.seen.tokens.shape[1])[:, None]
    square = seen.t() @ (weight * seen)
    ridge = _RIDGE * square.diagonal().mean() * torch.eye(len(square))
    return torch.linalg.solve(square + ridge, seen.t() @ (weight * wanted))


def _with_one(tokens: Tensor) -> Tensor:
    return torch.cat([tokens, torch.ones_like(tokens[..., :1])], -1)


@torch.inference_mode()
def probe(net: RegionNet, train: Sequence[RegionCase], held: Sequence[RegionCase], vocabulary: Vocabulary) -> list[dict[str, Any]]:
    """Pointing and IoU of the names' maps on held-out pictures, one row a visible region."""
    cells, side = net.config.cells, net.config.image_size
    solved = fit(look_at(net, train, vocabulary), vocabulary, cells)
    seen = look_at(net, held, vocabulary)
    made = torch.nn.functional.normalize(_with_one(seen.seen.tokens) @ solved, dim=-1)
    heats = made @ encode([vocabulary.spoken[name][0] for name in vocabulary.names]).t()  # (B, P, N)
    out = []
    for b, case in enumerate(seen.cases):
        for name in case.regions:
            mask = seen.planes[b][name]
            if mask.sum() < 9 or name not in vocabulary.number:
                continue
            heat = full_map(heats[b, :, vocabulary.number[name]], cells, side)
            row = {"point": float(points_at(heat, mask)), "iou": overlap(heat, mask, _THRESHOLD)}
            out.append({"patient": case.patient, "graph": case.graph, "region": name, **row})
    return out


def summarize(rows: dict[str, list[dict[str, Any]]], random: Sequence[str]) -> dict[str, Any]:
    """Figures of each encoder, and of each trained one minus the mean of the random ones on the same pictures."""
    out: dict[str, Any] = {}
    for graph in (CHEST, ABDOMEN):
        for key in ("point", "iou"):
            chosen = {name: [row for row in made if row["graph"] == graph] for name, made in rows.items()}
            if not chosen[random[0]]:
                continue
            patients = [row["patient"] for row in chosen[random[0]]]
            values = {name: np.array([row[key] for row in made]) for name, made in chosen.items()}
            base = np.mean([values[name] for name in random], 0)
            trained = [name for name in rows if name not in random]
            figures = {"random weights": figure(patients, base, mean)} | {name: figure(patients, values[name], mean) for name in trained}
            figures |= {f"{name} minus random": figure(patients, values[name] - base, mean) for name in trained}
            out[f"{graph}/{key}"] = {name: asdict(one) for name, one in figures.items()}
            out[f"{graph}/{key}"]["random, each"] = [float(values[name].mean()) for name in random]
    return out


def write_table(summary: dict[str, Any]) -> str:
    """The figures as Markdown."""
    lines = ["# Frozen encoders under one linear map to phrases", "", "| pictures, measure | encoder | held-out people |", "|---|---|---|"]
    for key, figures in summary.items():
        for name, one in figures.items():
            if isinstance(one, dict):
                lines.append(f"| {key} | {name} | {one['value']:.3f} [{one['low']:.3f}, {one['high']:.3f}] |")
    return "\n".join(lines) + "\n"


def run(args: argparse.Namespace) -> None:
    """Probe and write as asked for."""
    train, held = read_cases(args)
    nodes = model_nodes()
    vocabulary = make_vocabulary(nodes, train)
    rows, random = {}, []
    for seed in range(args.seeds):
        torch.manual_seed(seed)
        random.append(f"random {seed}")
        rows[random[-1]] = probe(RegionNet(RegionConfig(nodes=nodes)).eval(), train, held, vocabulary)
    for text in args.state:
        name, path = text.split("=", 1)
        rows[name] = probe(open_net(path), train, held, vocabulary)
    summary = summarize(rows, random)
    write(args, "probe", summary, write_table(summary))


def main() -> None:
    """Probe as the command line says."""
    parser = options(__doc__)
    parser.add_argument("--state", action="append", default=[], metavar="NAME=PATH", help="a training state; may be repeated")
    parser.add_argument("--seeds", type=int, default=5, help="encoders of random weights")
    run(parser.parse_args())


if __name__ == "__main__":
    main()
