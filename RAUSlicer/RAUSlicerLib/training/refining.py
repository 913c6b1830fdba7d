"""Stage 2, second half: trains the mask refiner on matched pairs, one structure at a time.

    python -m RAUSlicerLib.training.priors --references 1
    python -m RAUSlicerLib.training.refining --output work/refining --steps 15000

What is to be drawn is never named, and some of it is several structures taken as one, so that structures nobody trained on can be refined.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor, nn
from torch.nn import functional as F

from ..device import autocast
from ..loading import load_model
from ..matching.label_posteriors import UNKNOWN
from ..refinement.network import RefinerConfig, RefinerNet, doubled
from ..refinement.refiner import Cells, Window, inner
from .augment import random_affine, recolor
from .loop import Settings, options, train
from .metrics import dice
from .priors import Prior

SHARE = {"brain_t1": 0.42, "abdomen_ct": 0.42, "heart_mr": 0.16}
# The first pass sees patches of so many voxels.
FAR = 80
# Side in voxels of what the second pass draws in their middle, and how many there are in a step: small structures are seen alone, large
# ones in part.
SIZES = ((40, 3), (48, 2), (64, 1))
# Both passes start from the carried mask moved by so much of what the training labels say.
HEED = 0.7
WEIGHTS = {"first_cross_entropy": 1.0, "first_dice": 1.0, "cross_entropy": 1.0, "dice": 1.0}
_UNION, _ALONE, _BLIND, _NEW_CONTRAST = 0.12, 0.15, 0.1, 0.15
# How far the carried structure may be moved beside the target, in voxels: what was matched in training lies better than what will be.
_DRIFT = 4.0
# Where a reference is unlike the target, what is carried is far too small and beside the structure: made so in this share of the patches,
# by up to this factor and so many voxels.
_LOST, _SMALLER, _BESIDE = 0.06, 3.5, 10.0
# What the labels say of training cases is surer than what they will say of others: in so many patches it is taken down.
_UNSURE = 0.1
_PLACES = 300
# The cortex has most of the labels of a brain, with borders that no intensity shows, and would get most of the patches.
_CORTEX, _CORTEX_SHARE = 100, 0.25


class Trainee(nn.Module):
    """The network; forward gives losses."""

    def __init__(self, config: RefinerConfig) -> None:
        super().__init__()
        self.net = RefinerNet(config)

    def forward(self, planes: Tensor, looks: Tensor, truth: Tensor, sides: Tensor) -> dict[str, Tensor]:
        """Losses of both passes; beside them Dice as carried and after each pass, which only is logged.

        Args:
            planes: (B, 6, N, N, N), as the network sees them.
            looks: (B, N/2, N/2, N/2).
            truth: (B, N, N, N), 0 or 1.
            sides: The second pass draws so many voxels (1,) in the middle.
        """
        device = next(self.parameters()).device
        planes, looks, truth = planes.to(device), looks.to(device), truth.to(device)
        rough, size = F.avg_pool3d(truth, 2), truth.shape[1:]
        with autocast(device):
            first = self.net.locate(planes, looks)
        located = doubled(first.detach().sigmoid(), size)
        rim = (size[0] - int(sides)) // 2
        z = y = x = slice(rim, rim + int(sides))
        planes, truth, located = planes[:, :, z, y, x], truth[:, z, y, x], located[:, z, y, x]
        with autocast(device):
            second = self.net.draw(planes, located)
        carried = (planes[:, 2] + planes[:, 3]) / 2
        drawn = (truth.flatten(1).sum(1) > 0).float()
        masks = (carried, located, second.detach().sigmoid())
        scores = [(dice(mask > 0.5, truth > 0.5) * drawn).sum() / drawn.sum().clamp(min=1) for mask in masks]
        return {
            "first_cross_entropy": F.binary_cross_entropy_with_logits(first, rough),
            "first_dice": _dice_loss(first.sigmoid(), rough),
            "cross_entropy": F.binary_cross_entropy_with_logits(second, truth),
            "dice": _dice_loss(second.sigmoid(), truth),
            **dict(zip(("carried", "located", "drawn"), scores, strict=True)),
        }


def _dice_loss(share: Tensor, truth: Tensor) -> Tensor:
    both = (share * truth).flatten(1).sum(1)
    return (1 - (2 * both + 20) / ((share + truth).flatten(1).sum(1) + 20)).mean()


class Sampler:
    """Draws patches of matched pairs."""

    def __init__(self, pairs: list[Prior]) -> None:
        self._pools = {domain: [_Pool(pair, seed) for seed, pair in enumerate(pairs) if pair.domain == domain] for domain in SHARE}
        self._domains = [domain for domain in SHARE if self._pools[domain]]

    def __call__(self, rng: np.random.Generator) -> tuple[str, tuple[Tensor, ...]]:
        """The domain's name, and what `Trainee` takes."""
        weights = np.array([SHARE[domain] for domain in self._domains])
        domain = str(rng.choice(self._domains, p=weights / weights.sum()))
        size, count = SIZES[int(rng.integers(len(SIZES)))]
        made: list[tuple[Tensor, Tensor, Tensor]] = []
        while len(made) < count:
            pool = self._pools[domain]
            one = pool[int(rng.integers(len(pool)))].patch(size, rng)
            if one is not None:
                made.append(one)
        planes, looks, truth = (torch.stack(parts) for parts in zip(*made, strict=True))
        return domain[:5], (planes, looks, truth, torch.tensor([size]))


class _Pool:
    """A matched pair and, for each structure, some of the voxels where it is or was carried to."""

    def __init__(self, pair: Prior, seed: int) -> None:
        self._pair = pair
        rng = np.random.default_rng(seed)
        self._places: dict[int, np.ndarray] = {}
        weight = np.where((pair.labels >= _CORTEX) & (pair.domain == "brain_t1"), _CORTEX_SHARE, 1.0)
        self._share = weight / weight.sum()
        for planes in (pair.truth, pair.warped):
            for number, window in enumerate(ndimage.find_objects(planes), start=1):
                if window is not None:
                    inside = np.argwhere(planes[window] == number)
                    some = inside[rng.integers(len(inside), size=_PLACES)] + [side.start for side in window]
                    self._places[number] = np.concatenate([self._places.get(number, some[:0]), some])

    def patch(self, size: int, rng: np.random.Generator) -> tuple[Tensor, Tensor, Tensor] | None:
        """See `patch`; None if the pair doesn't have the structure that was drawn."""
        number = 1 + int(rng.choice(len(self._share), p=self._share))
        if number not in self._places:
            return None
        return patch(self._pair, number, self._places[number][int(rng.integers(len(self._places[number])))], size, rng)


def patch(pair: Prior, number: int, place: np.ndarray, size: int, rng: np.random.Generator) -> tuple[Tensor, Tensor, Tensor] | None:
    """What the passes see around a voxel of a structure and the structure's mask, as for `Trainee`; None outside of the volume."""
    chosen, centre = [number], place.astype(np.float64)
    if rng.random() < _UNION:
        # With neighbours it makes a structure that nobody has named.
        near = pair.warped[tuple(slice(max(int(c) - 10, 0), int(c) + 10) for c in centre)]
        others = [int(n) for n in np.unique(near) if n and n != chosen[0]]
        chosen += [int(n) for n in rng.permutation(others)[: int(rng.integers(1, 4))]]
    centre += rng.uniform(-0.25, 0.25, 3) * size
    affine = random_affine(rng, (15.0, 12.0, 12.0), 0.15)
    reach = np.abs(affine).sum(1) * FAR / 2 + _DRIFT + 2
    window = _clipped(centre - reach, centre + reach, pair.truth.shape)
    if window is None:
        return None
    planes = torch.from_numpy(_planes(pair, chosen, window, alone=bool(rng.random() < _ALONE)))
    corner = torch.tensor([side.start for side in window])
    where = _positions(FAR, 1, affine, centre)
    moved = where
    if rng.random() < 0.5:
        knots = torch.from_numpy(rng.normal(0, _DRIFT / 2 * rng.random(), (1, 3, 5, 5, 5))).float().clamp(-_DRIFT, _DRIFT)
        moved = where + F.interpolate(knots, size=(FAR,) * 3, mode="trilinear", align_corners=True)[0].permute(1, 2, 3, 0)
    own, carried = _at(planes[[0, 5]], where - corner), _at(planes[1:5], moved - corner)
    lost = bool(rng.random() < _LOST)
    if lost:
        carried[1:3] = _at(planes[2:4], _shrunk(moved, planes[2] + planes[3], corner, rng) - corner)
    wild = rng.random() < _NEW_CONTRAST
    target = recolor(own[0], rng, contrast=wild and bool(rng.random() < 0.7))
    reference = recolor(carried[0], rng, contrast=wild and bool(rng.random() < 0.7))
    looks = _recognized(pair, chosen, _positions(FAR // 2, 2, affine, centre))
    if rng.random() < (0.5 if lost else _BLIND):
        looks = torch.zeros_like(looks)
    known = torch.full_like(target, UNKNOWN) if rng.random() < _BLIND else _known(pair, chosen, window, where)
    if rng.random() < _UNSURE:
        known = _less_sure(known, rng)
    return torch.cat([target[None], reference[None], carried[1:], known[None]]), looks, (own[1] > 0.5).float()


def _shrunk(where: Tensor, carried: Tensor, corner: Tensor, rng: np.random.Generator) -> Tensor:
    """Voxel positions (d, h, w, 3) from which a carried structure is read to come out smaller and beside where it was."""
    places = (carried > 0.5).nonzero().float()
    centre = (places.mean(0) if len(places) else torch.tensor(carried.shape) / 2) + corner
    beside = torch.from_numpy(rng.normal(0, _BESIDE / 2, 3)).float().clamp(-_BESIDE, _BESIDE)
    return centre + (where - centre) * float(rng.uniform(1, _SMALLER)) + beside


def _less_sure(known: Tensor, rng: np.random.Generator) -> Tensor:
    """MatchEvidence of labels (d, h, w) that says less, and wrongly here and there."""
    rough = torch.from_numpy(rng.normal(0, 1, (1, 1, *(-(-side // 8) for side in known.shape)))).float()
    wrong = F.interpolate(rough, size=known.shape, mode="trilinear", align_corners=True)[0, 0]
    strength = float(rng.uniform(0.5, 1))
    return (UNKNOWN + (known - UNKNOWN) * (strength + 0.3 * wrong).clamp(-0.5, 1)).clamp(0, 1)


def _positions(count: int, step: int, affine: np.ndarray, centre: np.ndarray) -> Tensor:
    """Voxel positions (count, count, count, 3) of a turned and scaled cube around a place."""
    axis = (torch.arange(count).float() - (count - 1) / 2) * step
    cube = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), dim=-1)
    return cube @ torch.from_numpy(affine.T).float() + torch.from_numpy(centre).float()


def _recognized(pair: Prior, chosen: list[int], where: Tensor) -> Tensor:
    """Probabilities of structures by looks alone, at voxel positions (d, h, w, 3)."""
    cells = Cells(pair.cell_first, pair.cell_step)
    found = (pair.globally_attended[number - 1] for number in chosen)
    return sum((cells.at(torch.from_numpy(v).float() / 255, s, where) for v, s in found), torch.zeros(where.shape[:3])).clamp(max=1)


def _known(pair: Prior, chosen: list[int], window: Window, where: Tensor) -> Tensor:
    """What the training labels say of structures, at voxel positions (d, h, w, 3) in a window."""
    grid, evidence = Cells(pair.known_first, pair.known_step), pair.known
    box = grid.covering(window, evidence.index.shape[1:])
    # Outside of what is known nothing speaks for or against them.
    start = (box[0].start, box[1].start, box[2].start)
    return grid.at(evidence.of([number - 1 for number in chosen], box) - UNKNOWN, start, where) + UNKNOWN


def _planes(pair: Prior, chosen: list[int], window: Window, *, alone: bool) -> np.ndarray:
    """(6, d, h, w): what the network sees of a window, as in `Overlay.crops`, and the truth."""
    shape = [side.stop - side.start for side in window]
    out = np.zeros((6, *shape), np.float32)
    out[0], out[1] = pair.target[window] / 255, pair.reference[window] / 255
    warped = torch.from_numpy(np.isin(pair.warped[window], chosen).astype(np.float32))
    out[2] = F.avg_pool3d(F.pad(warped[None, None], (1,) * 6, mode="replicate"), 3, stride=1)[0, 0].numpy()
    for number in chosen:
        values, start = pair.attended[number - 1]
        box = [slice(max(s, a.start), min(s + n, a.stop)) for s, n, a in zip(start, values.shape, window, strict=True)]
        if all(side.stop > side.start for side in box):
            z, y, x = box
            inside = tuple(slice(side.start - s, side.stop - s) for side, s in zip(box, start, strict=True))
            out[3][inner((z, y, x), window)] += values[inside] / 255
    np.minimum(out[3], 1, out=out[3])
    if not alone:
        mine = np.isin(pair.owner[window], chosen)
        out[4] = np.where(mine, 0 if len(chosen) > 1 else pair.second[window], pair.first[window]) / 255
    out[5] = np.isin(pair.truth[window], chosen)
    return out


def _clipped(low: np.ndarray, high: np.ndarray, shape: tuple[int, ...]) -> Window | None:
    sides = [slice(max(math.floor(a), 0), min(math.ceil(b) + 1, n)) for a, b, n in zip(low, high, shape, strict=True)]
    return (sides[0], sides[1], sides[2]) if all(side.stop - side.start > 1 for side in sides) else None


def _at(planes: Tensor, where: Tensor) -> Tensor:
    """Values (C, d, h, w) of planes at voxel positions (d, h, w, 3)."""
    unit = where / (torch.tensor(planes.shape[1:]).float() - 1) * 2 - 1
    return F.grid_sample(planes[None], unit.flip(-1)[None], align_corners=True)[0]


def run(args: argparse.Namespace) -> None:
    """Train as asked for."""
    torch.manual_seed(args.seed)
    sampler = Sampler([Prior.load(path) for path in sorted(args.priors.glob("*.npz"))])
    trainee = Trainee(RefinerConfig(heed=HEED))
    if args.start:
        refiner = load_model(args.start).refiner
        assert refiner is not None
        trainee.net.load_state_dict(refiner.state_dict())
    train(trainee.to(memory_format=torch.channels_last_3d), sampler, WEIGHTS, Settings.of(args))


def main() -> None:
    """Train as the command line says."""
    parser = options(__doc__, "work/refining", 6000, 2e-3)
    parser.add_argument("--priors", type=Path, default=Path("work/priors"), help="folder of `RAUSlicerLib.training.priors`")
    parser.add_argument("--start", metavar="MODEL", help="begin from this model's refiner and not from random weights")
    run(parser.parse_args())


if __name__ == "__main__":
    main()
