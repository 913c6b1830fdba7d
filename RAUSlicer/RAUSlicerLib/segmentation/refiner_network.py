"""The mask refiner's network: what to change about a carried structure, from the image around it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..models.blocks import Block, Up, fast_layout, padded_to

# Fewest voxels along an axis inside of the network: torch's bf16 convolutions on CPUs (2.14) fail where one or two cells are left.
_LEAST = 24
# Bins of intensities, and what counts as air.
_BINS, _AIR = 48, 0.04
# Probabilities of the carried mask are kept this far from 0 and 1, so that the network can change any voxel.
_SURE = 0.02


@dataclass(frozen=True)
class RefinerConfig:
    """Sizes of a refiner; the ``config.json`` of its checkpoint folder. ``widths`` are the channels at strides 2, 4, 8, ..."""

    widths: tuple[int, ...] = (32, 64, 96)
    hidden: int = 8

    @classmethod
    def from_dict(cls, values: dict) -> RefinerConfig:
        known = {key: values[key] for key in cls.__dataclass_fields__ if key in values}
        known["widths"] = tuple(known.get("widths", cls.widths))
        return cls(**known)

    def to_dict(self) -> dict:
        return {"model_type": "rau_refiner", **asdict(self)}


class RefinerNet(nn.Module):
    """A 3D U-Net over one structure's surroundings with a residual output: untrained, it returns the carried mask.

    It never learns what a structure is called: reference, mask and image are all it sees, so that any structure can be refined.

    Source: own design; the residual output as in RAU's mask decoder, the paired input as in atlas-guided segmentation.
    """

    CHANNELS = 5

    def __init__(self, config: RefinerConfig | None = None) -> None:
        super().__init__()
        self.config = config or RefinerConfig()
        widths, hidden = self.config.widths, self.config.hidden
        self.stem = nn.Conv3d(self.CHANNELS + 1, widths[0], 4, stride=2, padding=1)
        self.encoder = nn.ModuleList(Block(a, b) for a, b in zip((widths[0], *widths[:-1]), widths, strict=True))
        self.up = nn.ModuleList(Up(b, a) for a, b in pairwise(widths))
        self.decoder = nn.ModuleList(Block(a, a) for a in widths[:-1])
        self.last_up = Up(widths[0], hidden)
        self.detail = nn.Conv3d(self.CHANNELS + 1, hidden, 3, padding=1)
        self.change = nn.Conv3d(hidden, 1, 1)
        nn.init.zeros_(self.change.weight)
        nn.init.zeros_(self.change.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, D, H, W) of the structure.

        Args:
            x: (B, 5, D, H, W) in 0 to 1: the target's intensities, the matched reference's, the structure's mask warped with the reference,
                its probability from attention, and the largest probability of any other structure.
        """
        depth, height, width = x.shape[2:]
        prior = torch.logit(((x[:, 2] + x[:, 3]) / 2).float().clamp(_SURE, 1 - _SURE))
        x = torch.cat([x, likeness(x[:, 0], x[:, 1], x[:, 2])[:, None]], dim=1)
        x = fast_layout(padded_to(x - 0.3, 2 ** len(self.encoder), -0.3, least=_LEAST))
        y = self.stem(x)
        skips = []
        for level, block in enumerate(self.encoder):
            y = block(y if level == 0 else F.max_pool3d(y, 2))
            skips.append(y)
        for level in reversed(range(len(self.decoder))):
            y = self.decoder[level](skips[level] + self.up[level](y))
        change = self.change(F.gelu(self.last_up(y) + self.detail(x)))[:, 0, :depth, :height, :width]
        return prior + change.float()


@torch.no_grad()
def likeness(target: Tensor, reference: Tensor, mask: Tensor) -> Tensor:
    """How far each voxel's intensity speaks for the structure, 0 to 1, by what the reference has inside and outside of it.

    Args:
        target: Intensities (B, D, H, W) in 0 to 1; they are brought to the reference's mean and spread first.
        reference: Intensities that belong to ``mask``.
        mask: The structure in the reference, 0 to 1. Where it is empty nothing speaks for it.
    """
    out = []
    for image, other, inside in zip(target.float(), reference.float(), mask.float(), strict=True):
        seen, known = image > _AIR, other > _AIR
        if int(seen.sum()) < 2 or int(known.sum()) < 2:
            out.append(torch.full_like(image, 0.5))
            continue
        moved = (image - image[seen].mean()) / image[seen].std().clamp(min=1e-3) * other[known].std() + other[known].mean()
        moved = torch.where(seen, moved, image)
        bins, places = _bin(moved), _bin(other).flatten()
        own, rest = (_histogram(places, weight.flatten()) for weight in (inside, 1 - inside))
        # The same weight for inside and outside: how large the structure is beside its crop says nothing of a voxel.
        out.append(((own + 1e-3) / (own + rest + 2e-3))[bins])
    return torch.stack(out)


def _bin(values: Tensor) -> Tensor:
    return (values * _BINS).long().clamp(0, _BINS - 1)


def _histogram(places: Tensor, weight: Tensor) -> Tensor:
    """Shares of the weight in each bin, smoothed over neighbouring bins."""
    counts = torch.bincount(places, weights=weight, minlength=_BINS).float()
    smooth = F.avg_pool1d(F.pad(counts[None, None], (1, 1), mode="replicate"), 3, stride=1)[0, 0]
    return smooth / smooth.sum().clamp(min=1.0)
