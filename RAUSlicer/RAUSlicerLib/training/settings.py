"""How each stage trains: the recipe of the embedded weights, which a configuration file can change."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from .forms import Count, Share


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """How long and how fast a stage learns.

    ``rate`` is the highest learning rate, which comes down over the last share ``cooldown`` of the ``steps``; ``ema`` is the decay of the
    averaged weights per step, ``decay`` that of matrices.
    """

    steps: Count
    rate: float
    cooldown: Share = 1.0
    ema: Share = 0.998
    decay: Share = 0.02
    save_every: int = 100


@dataclass(frozen=True, kw_only=True)
class MatchingTraining(Schedule):
    """The matching network.

    ``same`` is the share of pairs of the same volume; ``bent`` and ``same_bent`` are the shares bent by a smooth field where a pair is of
    two volumes and of one; ``nearer`` is the share seen from nearer, ``partner`` that of pairs with a case of the partner's set.
    ``anywhere`` and ``borders`` are voxels of a patch whose labels are asked for: anywhere, and where labels meet, since that decides a
    mask. A parcel counts ``parcel`` in the masks, and has ``parcel_voxels`` of another label's share of voxels.
    """

    steps: Count = 23_000
    rate: float = 1.5e-3
    same: Share = 0.3
    bent: Share = 0.25
    same_bent: Share = 0.7
    nearer: Share = 0.35
    partner: Share = 0.4
    anywhere: int = 5_000
    borders: int = 9_000
    parcel: Share = 0.3
    parcel_voxels: Share = 0.4
    weights: Mapping[str, float] = field(
        default_factory=lambda: {"labels": 1.0, "masks": 1.0, "labels4": 0.4, "match": 0.5, "match4": 0.4, "pos": 0.3, "pos4": 0.3}
    )


@dataclass(frozen=True, kw_only=True)
class RefinerTraining(Schedule):
    """The mask refiner.

    ``references`` are matched to each target. The first pass sees patches of ``far`` voxels; ``sizes`` are sides of what the second pass
    draws in their middle, each with how many are in a step. Both passes start from the carried mask moved by ``heed`` of what the
    training labels say.

    Shares of patches: ``union`` with neighbours as one structure, ``alone`` without rivals, ``blind`` without global attention and without
    labels, ``new_contrast``, ``lost`` with what is carried too small and beside the structure (up to ``smaller`` times and ``beside``
    voxels), ``unsure`` with labels that say less. What is carried is moved by up to ``drift`` voxels: what was matched in training lies
    better than what will be. A parcel has ``parcel`` of another label's share.
    """

    steps: Count = 15_000
    rate: float = 2e-3
    references: int = 2
    far: int = 80
    sizes: tuple[tuple[int, int], ...] = ((40, 3), (48, 2), (64, 1))
    heed: Share = 0.7
    union: Share = 0.12
    alone: Share = 0.15
    blind: Share = 0.1
    new_contrast: Share = 0.15
    lost: Share = 0.06
    smaller: float = 3.5
    beside: float = 10.0
    unsure: Share = 0.1
    drift: float = 4.0
    parcel: Share = 0.25


@dataclass(frozen=True, kw_only=True)
class RauTraining(Schedule):
    """SAM2 and the vision-language model: ``batch`` pairs of slices a step."""

    steps: Count = 650
    rate: float = 1e-3
    decay: Share = 0.05
    batch: int = 3


@dataclass(frozen=True, kw_only=True)
class RegionStage(Schedule):
    """A stage of the region model. With ``batches`` the encoder stays as it is and the rest learns from so many augmented batches."""

    steps: Count = 0
    rate: float = 1.2e-3
    batches: Count = 0


@dataclass(frozen=True)
class RegionTraining:
    """The region model: its stages in their order, of which each goes on from the one before; 0 steps leave one out."""

    batch: int = 8
    consistency: RegionStage = RegionStage(steps=300)
    detection: RegionStage = RegionStage(steps=400)
    image: RegionStage = RegionStage(steps=150)
    region: RegionStage = RegionStage(steps=450)
    frozen: RegionStage = RegionStage(steps=350, rate=2.5e-3, batches=40)


@dataclass(frozen=True)
class CalibrationTraining:
    """Pairs that the confidence is fitted on: ``pairs`` a data set as they are, ``wrong`` across sets, ``changed`` a set whose target
    misses something or is mirrored.
    """

    pairs: int = 6
    wrong: Count = 12
    changed: Count = 8
