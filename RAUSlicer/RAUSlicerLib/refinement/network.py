"""The mask refiner's network: what to change about a carried structure, from the image around it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..models.blocks import Block, Up, fast_layout, gelu, padded_to
from ..support.settings import changed, settings_from
from .settings import RefinementSettings

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
    trust: float = 0.5
    """Share of the first pass in what the second one starts from; the rest is as carried."""
    heed: float = 0.0
    """How far what the training labels say moves what a pass starts from, as a factor of its logit."""
    settings: RefinementSettings = field(default_factory=RefinementSettings)
    """The parameters of refinement with it."""

    @classmethod
    def from_dict(cls, values: dict) -> RefinerConfig:
        known = {key: values[key] for key in cls.__dataclass_fields__ if key in values}
        known["widths"] = tuple(known.get("widths", cls.widths))
        known["settings"] = settings_from(RefinementSettings, known.get("settings", {}), "The settings of the model's refiner")
        return cls(**known)

    def to_dict(self) -> dict:
        values = {"model_type": "rau_refiner", **asdict(self), "settings": changed(self.settings)}
        return values if values["settings"] else {key: value for key, value in values.items() if key != "settings"}


class RefinerNet(nn.Module):
    """Two passes over one structure's surroundings: at half of the resolution, where it sees far, then at all of it.

    It never learns what a structure is called: reference, mask and image are all it sees, so that any structure can be refined. Untrained,
    it returns the carried mask, or with ``heed`` its product with what the training labels say.

    Source: own design; the residual output as in RAU's mask decoder, the paired input as in atlas-guided segmentation.
    """

    # What is known of a voxel, in 0 to 1: the target's intensity, the matched reference's, the structure's mask warped with it, its
    # probability from attention around the matched place, the largest probability of any other structure, how far the labels of
    # training speak for it. A pass sees one plane more.
    CHANNELS = 6

    def __init__(self, config: RefinerConfig | None = None) -> None:
        super().__init__()
        self.config = config or RefinerConfig()
        self.first = Pass(self.config, trust=0.0)
        self.second = Pass(self.config, trust=self.config.trust)

    def locate(self, planes: Tensor, globally_attended: Tensor) -> Tensor:
        """First pass: logits (B, D/2, H/2, W/2) of the structure, sides rounded up.

        Args:
            planes: (B, 6, D, H, W), as above.
            globally_attended: (B, D/2, H/2, W/2), the structure's probability by looks alone.
        """
        # The last of an odd number of slices counts twice: beside one of zeros, the only slice of a volume would be half there.
        odd = [side for extent in reversed(planes.shape[2:]) for side in (0, extent % 2)]
        return self.first(torch.cat([F.avg_pool3d(F.pad(planes, odd, mode="replicate"), 2), globally_attended[:, None]], dim=1))

    def draw(self, planes: Tensor, located: Tensor) -> Tensor:
        """Second pass: logits (B, D, H, W) for planes (B, 6, D, H, W), given the first pass's probabilities (B, D, H, W) there."""
        return self.second(torch.cat([planes, located[:, None]], dim=1))


class Pass(nn.Module):
    """A 3D U-Net with a residual output: untrained, it returns what it starts from, the carried mask moved by what the labels say."""

    CHANNELS = RefinerNet.CHANNELS + 1

    def __init__(self, config: RefinerConfig, *, trust: float) -> None:
        super().__init__()
        widths, hidden = config.widths, config.hidden
        self._trust, self._heed = trust, config.heed
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
            x: (B, 7, D, H, W), the planes of `RefinerNet` and another opinion of where the structure is.
        """
        depth, height, width = x.shape[2:]
        carried = torch.lerp((x[:, 2] + x[:, 3]) / 2, x[:, -1], self._trust)
        known = x[:, RefinerNet.CHANNELS - 1]
        prior, says = (torch.logit(share.float().clamp(_SURE, 1 - _SURE)) for share in (carried, known))
        prior = prior + self._heed * says
        x = torch.cat([x, local_similarity(x[:, 0], x[:, 1], x[:, 2])[:, None]], dim=1)
        x = fast_layout(padded_to(x - 0.3, 2 ** len(self.encoder), -0.3, least=_LEAST))
        y = self.stem(x)
        skips = []
        for level, block in enumerate(self.encoder):
            y = block(y if level == 0 else F.max_pool3d(y, 2))
            skips.append(y)
        for level in reversed(range(len(self.decoder))):
            y = self.decoder[level](skips[level] + self.up[level](y))
        change = self.change(gelu(self.last_up(y) + self.detail(x)))[:, 0, :depth, :height, :width]
        return prior + change.float()


def doubled(values: Tensor, size: Sequence[int]) -> Tensor:
    """Values (B, d, h, w) at twice the resolution, as many as ``size`` says."""
    depth, height, width = size
    return F.interpolate(values[:, None], scale_factor=2, mode="trilinear", align_corners=False)[:, 0, :depth, :height, :width]


@torch.no_grad()
def local_similarity(target: Tensor, reference: Tensor, mask: Tensor) -> Tensor:
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
        (mean, spread), (own_mean, own_spread) = _moments(image, seen), _moments(other, known)
        moved = (image - mean) / spread.clamp(min=1e-3) * own_spread + own_mean
        bins, places = _bin(torch.where(seen, moved, image)), _bin(other).flatten()
        own, rest = (_histogram(places, weight.flatten()) for weight in (inside, 1 - inside))
        # The same weight for inside and outside: how large the structure is beside its crop says nothing of a voxel.
        out.append(((own + 1e-3) / (own + rest + 2e-3))[bins])
    return torch.stack(out)


def _moments(values: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of the chosen values; without copying them out, which takes most of the time on a CPU."""
    share = chosen.float()
    count = share.sum()
    mean = (values * share).sum() / count
    return mean, ((values - mean).square_().mul_(share).sum() / (count - 1)).sqrt()


def _bin(values: Tensor) -> Tensor:
    return (values * _BINS).long().clamp(0, _BINS - 1)


def _histogram(places: Tensor, weight: Tensor) -> Tensor:
    """Shares of the weight in each bin, smoothed over neighbouring bins."""
    counts = torch.bincount(places, weights=weight, minlength=_BINS).float()
    smooth = F.avg_pool1d(F.pad(counts[None, None], (1, 1), mode="replicate"), 3, stride=1)[0, 0]
    return smooth / smooth.sum().clamp(min=1.0)
