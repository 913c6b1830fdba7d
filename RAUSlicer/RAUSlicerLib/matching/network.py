"""The matching network: an embedding of every voxel in which the same anatomy lies close together in all patients."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..models.blocks import Block, Up, fast_layout, gelu, one_channel, padded_to
from ..support.settings import changed, settings_from
from .label_posteriors import LabelHead
from .settings import DEFAULT, MatchingSettings

# Half width in voxels of the neighbourhood that the fine embedding reads directly.
_DETAIL = 2
# Slices that are embedded at once, an even number: all of them would take several times the memory of the answer.
_SLAB = 16


@dataclass(frozen=True)
class MatchingConfig:
    """Sizes of a matching network; the ``config.json`` of its checkpoint folder.

    ``widths`` are the channels at strides 2, 4, 8, ...; the coarse embedding lies at stride 4, the fine one at stride 1. ``labels`` are
    the numbers of labels of the sets that it was trained with, if it still knows them. ``settings`` are the parameters of matching with it.
    """

    widths: tuple[int, ...] = (32, 64, 128, 192)
    hidden: int = 32
    fine_dim: int = 32
    coarse_dim: int = 64
    labels: tuple[int, ...] = ()
    settings: MatchingSettings = field(default_factory=MatchingSettings)

    @classmethod
    def from_dict(cls, values: dict) -> MatchingConfig:
        known = {key: values[key] for key in cls.__dataclass_fields__ if key in values}
        known |= {key: tuple(known[key]) for key in ("widths", "labels") if key in known}
        known["settings"] = settings_from(MatchingSettings, known.get("settings", {}), "The settings of the model's matching")
        return cls(**known)

    def to_dict(self) -> dict:
        values = {"model_type": "rau_matching", **asdict(self), "settings": changed(self.settings)}
        return values if values["settings"] else {key: value for key, value in values.items() if key != "settings"}


def _gather(features: Tensor, at: Tensor) -> Tensor:
    """Rows (N, C) of features (B, C, D, H, W) at (N, 4); index_select's backward is an order of magnitude faster than that of indexing."""
    depth, height, width = features.shape[2:]
    rows = features.permute(0, 2, 3, 4, 1).reshape(-1, features.shape[1])
    return rows.index_select(0, ((at[:, 0] * depth + at[:, 1]) * height + at[:, 2]) * width + at[:, 3])


class EmbeddingNet(nn.Module):
    """What matching needs of a network, whichever it is. Another one derives from this class and gets a line in `models.opening`."""

    @property
    def settings(self) -> MatchingSettings:
        """The parameters of matching with it."""
        return DEFAULT

    @property
    def label_head(self) -> LabelHead | None:
        """The classifier over the labels that it was trained with, on the network's device; None if it has none."""
        return None

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Embed an image (B, 1, D, H, W) in 0 to 1.

        Returns:
            Unit embeddings in float32, fine (B, C, D, H, W) and coarse (B, C', D/4, H/4, W/4), extents rounded up, and what `read` gives.
        """
        raise NotImplementedError

    def read(self, image: Tensor) -> Tensor:
        """What ``label_head`` reads of every voxel (B, C'', D, H, W), any float type; no channels where there is no classifier."""
        return image[:, :0]


class MatchingNet(EmbeddingNet):
    """A 3D U-Net that works at half resolution and less, with two embedding heads.

    At full resolution there is only a linear map of the finest features and of the voxel's neighbourhood: convolutions there took three
    quarters of the time of a step.

    Source: own design, after self-supervised anatomical embedding (Yan et al., 2020) and feature-based discrete registration
    (Siebert et al., 2021).
    """

    def __init__(self, config: MatchingConfig | None = None) -> None:
        super().__init__()
        self.config = config or MatchingConfig()
        widths, hidden = self.config.widths, self.config.hidden
        self.stem = nn.Conv3d(1, widths[0], 4, stride=2, padding=1)
        self.encoder = nn.ModuleList(Block(a, b) for a, b in zip((widths[0], *widths[:-1]), widths, strict=True))
        self.up = nn.ModuleList(Up(b, a) for a, b in pairwise(widths))
        self.decoder = nn.ModuleList(Block(a, a) for a in widths[:-1])
        self.fine_up = Up(widths[0], hidden)
        self.detail = nn.Conv3d(1, hidden, 2 * _DETAIL + 1)
        self.fine = nn.Linear(hidden, self.config.fine_dim)
        self.coarse = nn.Linear(widths[1], self.config.coarse_dim)
        if self.config.labels:
            self.labels = nn.Linear(hidden, sum(self.config.labels))

    @property
    def settings(self) -> MatchingSettings:
        return self.config.settings

    @property
    def label_head(self) -> LabelHead | None:
        if not self.config.labels:
            return None
        weight, bias = (tensor.detach().float().split(self.config.labels) for tensor in (self.labels.weight, self.labels.bias))
        return LabelHead(weight, bias)

    def features(self, image: Tensor) -> list[Tensor]:
        """Decoder features at strides 2, 4, 8, ... for an image of shape (B, 1, D, H, W) in 0 to 1."""
        step = 2 ** len(self.encoder)
        x = one_channel(self.stem, fast_layout(padded_to(image - 0.3, step, -0.3)))
        skips = []
        for level, block in enumerate(self.encoder):
            x = block(x if level == 0 else F.max_pool3d(x, 2))
            skips.append(x)
        outputs = [x]
        for level in reversed(range(len(self.decoder))):
            x = self.decoder[level](skips[level] + self.up[level](x))
            outputs.append(x)
        return outputs[::-1]

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Unit embeddings, fine (B, fine_dim, D, H, W) and coarse (B, coarse_dim, D/4, H/4, W/4), extents rounded up, and what the
        classifier over labels reads, (B, hidden, D, H, W) in the type that was computed in.
        """
        features = self.features(image)
        depth, height, width = image.shape[2:]
        # Channels last: attention and interpolation read whole voxels.
        fine = image.new_empty(len(image), depth, height, width, self.config.fine_dim, dtype=torch.float32)
        read = image.new_empty(len(image), depth, height, width, self.config.hidden, dtype=features[0].dtype)
        for slab, hidden in self._slabs(features[0], image):
            read[:, slab] = hidden
            fine[:, slab] = F.normalize(self.fine(hidden).float(), dim=4)
        coarse = self.coarse(features[1].permute(0, 2, 3, 4, 1)).permute(0, 4, 1, 2, 3)
        coarse = coarse[:, :, : -(-depth // 4), : -(-height // 4), : -(-width // 4)]
        return fine.permute(0, 4, 1, 2, 3), F.normalize(coarse.float(), dim=1), read.permute(0, 4, 1, 2, 3)

    def read(self, image: Tensor) -> Tensor:
        """What the classifier over labels reads, as `forward` gives it, without the embeddings."""
        features = self.features(image)
        read = image.new_empty(len(image), *image.shape[2:], self.config.hidden, dtype=features[0].dtype)
        for slab, hidden in self._slabs(features[0], image):
            read[:, slab] = hidden
        return read.permute(0, 4, 1, 2, 3)

    def _slabs(self, finest: Tensor, image: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """What `read` gives (B, D', H, W, hidden), a few slices at a time; ``finest`` are the features of the finest stride."""
        depth, height, width = image.shape[2:]
        # Padded once, so that slabs see beyond their ends.
        padded = F.pad(image - 0.3, (_DETAIL,) * 6)
        for first in range(0, depth, _SLAB):
            last = min(first + _SLAB, depth)
            up = self.fine_up(finest[:, :, first // 2 : -(-last // 2)])[:, :, : last - first, :height, :width]
            detail = one_channel(self.detail, padded[:, :, first : last + 2 * _DETAIL])
            yield slice(first, last), gelu(up + detail).permute(0, 2, 3, 4, 1)

    def read_at(self, features: Sequence[Tensor], image: Tensor, voxels: Tensor) -> Tensor:
        """What the fine embedding is made of (N, hidden) at voxels (N, 4) of (batch, z, y, x): without the dense map, for training."""
        where = torch.cat([voxels[:, :1], voxels[:, 1:] >> 1], dim=1)
        hidden = self.fine_up.at(_gather(features[0], where).float(), voxels[:, 1:])
        padded = F.pad(image[:, 0] - 0.3, (_DETAIL,) * 6)
        strides = torch.tensor(padded.stride(), device=image.device)
        reach = torch.arange(2 * _DETAIL + 1, device=image.device)
        offsets = (reach[:, None] * strides[1] + reach * strides[2]).flatten()
        # Whole lines of the neighbourhood: single voxels take five times as long.
        lines = padded.flatten().unfold(0, len(reach), 1)
        patches = lines.index_select(0, ((voxels * strides).sum(1)[:, None] + offsets).flatten()).view(len(voxels), -1)
        hidden = hidden + F.linear(patches, self.detail.weight.flatten(1), self.detail.bias)
        return F.gelu(hidden)

    def embedded(self, hidden: Tensor) -> Tensor:
        """Fine unit embeddings (N, fine_dim) of what `read_at` gives."""
        return F.normalize(self.fine(hidden), dim=1)

    def coarse_at(self, features: Sequence[Tensor], cells: Tensor) -> Tensor:
        """Coarse unit embeddings (N, coarse_dim) at cells (N, 4) of (batch, z, y, x) of the coarse level."""
        return F.normalize(self.coarse(_gather(features[1], cells).float()), dim=1)
