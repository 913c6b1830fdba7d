"""Trains the mask refiner on matched pairs, one structure at a time.

What is to be drawn is never named, and some of it is several structures taken as one, so that structures nobody trained on can be refined.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch
from monai.losses import DiceLoss
from scipy import ndimage
from torch import Tensor, nn
from torch.nn import functional as F

from ..device import autocast
from ..errors import InputError
from ..loading import load_model
from ..matching.label_posteriors import UNKNOWN
from ..refinement.network import RefinerConfig, RefinerNet, doubled
from ..refinement.refiner import Window
from .augment import random_affine, recolor
from .config import TrainConfig
from .datasets import Datasets
from .loop import train
from .metrics import dice
from .priors import Prior, make_priors
from .settings import RefinerTraining

WEIGHTS = {"first_cross_entropy": 1.0, "first_dice": 1.0, "cross_entropy": 1.0, "dice": 1.0}
_PLACES = 300


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
    loss: Tensor = DiceLoss(smooth_nr=20.0, smooth_dr=20.0)(share[:, None], truth[:, None])
    return loss


class Sampler:
    """Draws patches of matched pairs."""

    def __init__(self, pairs: list[Prior], datasets: Datasets, settings: RefinerTraining) -> None:
        self._settings = settings
        self._pools: dict[str, list[_Pool]] = {}
        for seed, pair in enumerate(pairs):
            self._pools.setdefault(pair.domain, []).append(_Pool(pair, datasets, settings, seed))
        self._shares = {domain: share for domain, share in datasets.shares("refiner").items() if domain in self._pools}

    def __call__(self, rng: np.random.Generator) -> tuple[str, tuple[Tensor, ...]]:
        """The domain's name, and what `Trainee` takes."""
        weights = np.array(list(self._shares.values()))
        domain = str(rng.choice(list(self._shares), p=weights / weights.sum()))
        sizes = self._settings.sizes
        size, count = sizes[int(rng.integers(len(sizes)))]
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

    def __init__(self, pair: Prior, datasets: Datasets, settings: RefinerTraining, seed: int) -> None:
        self._pair, self._settings = pair, settings
        rng = np.random.default_rng(seed)
        self._places: dict[int, np.ndarray] = {}
        about = datasets[pair.domain]
        # The cortex has most of the labels of a brain, with borders that no intensity shows, and would get most of the patches.
        weight = np.array([settings.parcel if about.is_parcel(structure.label) else 1.0 for structure in pair.planes.attended])
        self._share = weight / weight.sum()
        for numbers in (pair.truth, pair.planes.warped):
            for number, window in enumerate(ndimage.find_objects(numbers), start=1):
                if window is not None:
                    inside = np.argwhere(numbers[window] == number)
                    some = inside[rng.integers(len(inside), size=_PLACES)] + [side.start for side in window]
                    self._places[number] = np.concatenate([self._places.get(number, some[:0]), some])

    def patch(self, size: int, rng: np.random.Generator) -> tuple[Tensor, Tensor, Tensor] | None:
        """See `patch`; None if the pair doesn't have the structure that was drawn."""
        number = 1 + int(rng.choice(len(self._share), p=self._share))
        if number not in self._places:
            return None
        place = self._places[number][int(rng.integers(len(self._places[number])))]
        return patch(self._pair, number, place, size, self._settings, rng)


def patch(
    pair: Prior, number: int, place: np.ndarray, size: int, settings: RefinerTraining, rng: np.random.Generator
) -> tuple[Tensor, Tensor, Tensor] | None:
    """What the passes see around a voxel of a structure and the structure's mask, as for `Trainee`; None outside of the volume."""
    chosen, centre, far = [number], place.astype(np.float64), settings.far
    if rng.random() < settings.union:
        # With neighbours it makes a structure that nobody has named.
        near = pair.planes.warped[tuple(slice(max(int(c) - 10, 0), int(c) + 10) for c in centre)]
        others = [int(n) for n in np.unique(near) if n and n != number]
        chosen += [int(n) for n in rng.permutation(others)[: int(rng.integers(1, 4))]]
    centre += rng.uniform(-0.25, 0.25, 3) * size
    affine = random_affine(rng, (15.0, 12.0, 12.0), 0.15)
    reach = np.abs(affine).sum(1) * far / 2 + settings.drift + 2
    window = _clipped(centre - reach, centre + reach, pair.truth.shape)
    if window is None:
        return None
    structures = [structure for structure, own in pair.planes.numbers.items() if own in chosen]
    planes = torch.from_numpy(pair.planes.planes(structures, window))
    if rng.random() < settings.alone:
        planes[4] = 0
    truth = torch.from_numpy(np.isin(pair.truth[window], chosen).astype(np.float32))
    corner = torch.tensor([side.start for side in window])
    where = _positions(far, 1, affine, centre)
    moved = where
    if rng.random() < 0.5:
        drift = settings.drift
        knots = torch.from_numpy(rng.normal(0, drift / 2 * rng.random(), (1, 3, 5, 5, 5))).float().clamp(-drift, drift)
        moved = where + F.interpolate(knots, size=(far,) * 3, mode="trilinear", align_corners=True)[0].permute(1, 2, 3, 0)
    # Outside of the volume nothing speaks for or against a structure.
    own, known, inside = _at(torch.stack([planes[0], planes[5] - UNKNOWN, truth]), where - corner)
    known, carried = known + UNKNOWN, _at(planes[1:5], moved - corner)
    lost = bool(rng.random() < settings.lost)
    if lost:
        carried[1:3] = _at(planes[2:4], _shrunk(moved, planes[2] + planes[3], corner, settings, rng) - corner)
    wild = rng.random() < settings.new_contrast
    target = recolor(own, rng, contrast=wild and bool(rng.random() < 0.7))
    reference = recolor(carried[0], rng, contrast=wild and bool(rng.random() < 0.7))
    looks = pair.planes.looks(structures, _positions(far // 2, 2, affine, centre))
    if rng.random() < (0.5 if lost else settings.blind):
        looks = torch.zeros_like(looks)
    if rng.random() < settings.blind:
        known = torch.full_like(target, UNKNOWN)
    if rng.random() < settings.unsure:
        known = _less_sure(known, rng)
    return torch.cat([target[None], reference[None], carried[1:], known[None]]), looks, (inside > 0.5).float()


def _shrunk(where: Tensor, carried: Tensor, corner: Tensor, settings: RefinerTraining, rng: np.random.Generator) -> Tensor:
    """Voxel positions (d, h, w, 3) from which a carried structure is read to come out smaller and beside where it was."""
    places = (carried > 0.5).nonzero().float()
    centre = (places.mean(0) if len(places) else torch.tensor(carried.shape) / 2) + corner
    most = settings.beside
    beside = torch.from_numpy(rng.normal(0, most / 2, 3)).float().clamp(-most, most)
    return centre + (where - centre) * float(rng.uniform(1, settings.smaller)) + beside


def _less_sure(known: Tensor, rng: np.random.Generator) -> Tensor:
    """Evidence of labels (d, h, w) that says less, and wrongly here and there."""
    rough = torch.from_numpy(rng.normal(0, 1, (1, 1, *(-(-side // 8) for side in known.shape)))).float()
    wrong = F.interpolate(rough, size=known.shape, mode="trilinear", align_corners=True)[0, 0]
    strength = float(rng.uniform(0.5, 1))
    return (UNKNOWN + (known - UNKNOWN) * (strength + 0.3 * wrong).clamp(-0.5, 1)).clamp(0, 1)


def _positions(count: int, step: int, affine: np.ndarray, centre: np.ndarray) -> Tensor:
    """Voxel positions (count, count, count, 3) of a turned and scaled cube around a place."""
    axis = (torch.arange(count).float() - (count - 1) / 2) * step
    cube = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), dim=-1)
    return cube @ torch.from_numpy(affine.T).float() + torch.from_numpy(centre).float()


def _clipped(low: np.ndarray, high: np.ndarray, shape: tuple[int, ...]) -> Window | None:
    sides = [slice(max(math.floor(a), 0), min(math.ceil(b) + 1, n)) for a, b, n in zip(low, high, shape, strict=True)]
    return (sides[0], sides[1], sides[2]) if all(side.stop - side.start > 1 for side in sides) else None


def _at(planes: Tensor, where: Tensor) -> Tensor:
    """Values (C, d, h, w) of planes at voxel positions (d, h, w, 3)."""
    unit = where / (torch.tensor(planes.shape[1:]).float() - 1) * 2 - 1
    return F.grid_sample(planes[None], unit.flip(-1)[None], align_corners=True)[0]


def trainee_of(config: TrainConfig) -> Trainee:
    """The network that a configuration trains, as it starts."""
    torch.manual_seed(config.seed)
    start = load_model(config.start).refiner if config.start else None
    if start is None:
        return Trainee(RefinerConfig(heed=config.refiner.heed))
    trainee = Trainee(replace(start.config, heed=config.refiner.heed))
    trainee.net.load_state_dict(start.state_dict())
    return trainee


def run(config: TrainConfig) -> None:
    """Make the pairs that are missing, and train, or go on.

    Raises:
        InputError: there is no pair to train on.
    """
    priors = [Prior.load(path) for path in make_priors(config)]
    if not priors:
        raise InputError(
            "There is no pair to train the refiner on.",
            "A pair takes train cases of two people in one data set.",
            "See what `rauslicer train check` says of the data sets.",
        )
    trainee = trainee_of(config).to(memory_format=torch.channels_last_3d)
    train(trainee, Sampler(priors, config.datasets, config.refiner), WEIGHTS, config.settings("refiner", config.refiner))
