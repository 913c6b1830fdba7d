"""The matching network: an embedding of every voxel in which the same anatomy lies close together in all patients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True)
class MatchingConfig:
    """Sizes of a matching network; the ``config.json`` of its checkpoint folder."""

    widths: tuple[int, ...] = (16, 32, 64, 128, 160)
    fine_dim: int = 32
    coarse_dim: int = 64
    coarse_level: int = 2

    @classmethod
    def from_dict(cls, values: dict) -> MatchingConfig:
        known = {key: values[key] for key in cls.__dataclass_fields__ if key in values}
        known["widths"] = tuple(known.get("widths", cls.widths))
        return cls(**known)

    def to_dict(self) -> dict:
        return {"model_type": "rau_matching", **asdict(self)}


class _Block(nn.Module):
    """Two convolutions with a shortcut; one normalization, since it costs more time than a convolution on a CPU."""

    def __init__(self, width_in: int, width_out: int) -> None:
        super().__init__()
        self.first = nn.Conv3d(width_in, width_out, 3, padding=1)
        self.norm = nn.GroupNorm(min(8, width_out // 4), width_out)
        self.second = nn.Conv3d(width_out, width_out, 3, padding=1)
        self.shortcut = nn.Conv3d(width_in, width_out, 1) if width_in != width_out else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = F.gelu(self.norm(self.first(x)))
        return F.gelu(self.second(y) + self.shortcut(x))


def _gather(features: Tensor, at: Tensor) -> Tensor:
    """Rows (N, C) of features (B, C, D, H, W) at (N, 4); index_select's backward is an order of magnitude faster than that of indexing."""
    depth, height, width = features.shape[2:]
    rows = features.permute(0, 2, 3, 4, 1).reshape(-1, features.shape[1])
    return rows.index_select(0, ((at[:, 0] * depth + at[:, 1]) * height + at[:, 2]) * width + at[:, 3])


class MatchingNet(nn.Module):
    """A 3D U-Net with two embedding heads.

    Source: own design, after self-supervised anatomical embedding (Yan et al., 2020) and feature-based discrete registration
    (Siebert et al., 2021).
    """

    def __init__(self, config: MatchingConfig | None = None) -> None:
        super().__init__()
        self.config = config or MatchingConfig()
        widths = self.config.widths
        self.encoder = nn.ModuleList(_Block(a, b) for a, b in zip((1, *widths[:-1]), widths, strict=True))
        self.decoder = nn.ModuleList(_Block(a + b, a) for a, b in pairwise(widths))
        # The fine embedding reads several levels: sharp borders from the first, context from the others.
        self.fine = nn.ModuleList(nn.Conv3d(widths[level], self.config.fine_dim, 1) for level in range(self.config.coarse_level + 1))
        self.coarse = nn.Conv3d(widths[self.config.coarse_level], self.config.coarse_dim, 1)

    def features(self, image: Tensor) -> list[Tensor]:
        """Decoder features of every level, finest first, for an image of shape (B, 1, D, H, W) in 0 to 1."""
        size = image.shape[2:]
        step = 2 ** (len(self.encoder) - 1)
        padding: list[int] = []
        for extent in reversed(size):
            padding += [0, -extent % step]
        x = F.pad(image - 0.3, padding, value=-0.3)
        if x.device.type == "cpu":
            x = x.contiguous(memory_format=torch.channels_last_3d)
        skips = []
        for level, block in enumerate(self.encoder):
            x = block(x if level == 0 else F.max_pool3d(x, 2))
            skips.append(x)
        outputs = [x]
        for level in reversed(range(len(self.decoder))):
            x = self.decoder[level](torch.cat([skips[level], F.interpolate(x, scale_factor=2, mode="nearest")], dim=1))
            outputs.append(x)
        return outputs[::-1]

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Unit embeddings: fine (B, fine_dim, D, H, W) and coarse (B, coarse_dim, D/4, H/4, W/4), extents rounded up."""
        features = self.features(image)
        return self.embed(features, image.shape[2:])

    def embed(self, features: list[Tensor], size: Sequence[int]) -> tuple[Tensor, Tensor]:
        level = self.config.coarse_level
        step = 2**level
        fine = self.fine[0](features[0]).float()[:, :, : size[0], : size[1], : size[2]]
        for depth in range(1, level + 1):
            part = F.interpolate(self.fine[depth](features[depth]).float(), scale_factor=2**depth, mode="nearest")
            fine = fine + part[:, :, : size[0], : size[1], : size[2]]
        coarse = F.normalize(self.coarse(features[level]).float(), dim=1)
        return F.normalize(fine, dim=1), coarse[:, :, : -(-size[0] // step), : -(-size[1] // step), : -(-size[2] // step)]

    def embed_at(self, features: list[Tensor], voxels: Tensor) -> Tensor:
        """Fine unit embeddings (N, fine_dim) at voxels (N, 4) of (batch, z, y, x): what training needs, without the dense map."""
        total: Tensor | None = None
        for depth, head in enumerate(self.fine):
            assert isinstance(head, nn.Conv3d)
            at = torch.cat([voxels[:, :1], voxels[:, 1:] >> depth], dim=1)
            part = F.linear(_gather(features[depth], at).float(), head.weight.flatten(1), head.bias)
            total = part if total is None else total + part
        assert total is not None
        return F.normalize(total, dim=1)

    def coarse_at(self, features: list[Tensor], cells: Tensor) -> Tensor:
        """Coarse unit embeddings (N, coarse_dim) at cells (N, 4) of (batch, z, y, x) of the coarse level."""
        values = _gather(features[self.config.coarse_level], cells)
        return F.normalize(F.linear(values.float(), self.coarse.weight.flatten(1), self.coarse.bias), dim=1)
