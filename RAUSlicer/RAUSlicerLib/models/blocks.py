"""Parts of 3D networks that are fast on CPUs."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Block(nn.Module):
    """Two convolutions with a shortcut; one normalization, since it costs more time than a convolution on a CPU."""

    def __init__(self, width_in: int, width_out: int) -> None:
        super().__init__()
        self.first = nn.Conv3d(width_in, width_out, 3, padding=1)
        self.norm = nn.GroupNorm(min(8, width_out // 4), width_out)
        self.second = nn.Conv3d(width_out, width_out, 3, padding=1)
        self.shortcut = nn.Conv3d(width_in, width_out, 1) if width_in != width_out else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = gelu(self.norm(self.first(x)))
        return gelu(self.second(y) + self.shortcut(x))


class Up(nn.Module):
    """Doubles the resolution: each voxel becomes eight, each by a linear map of its own."""

    def __init__(self, width_in: int, width_out: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width_in, 8 * width_out)

    def forward(self, x: Tensor) -> Tensor:  # (B, C, D, H, W)
        y = self.linear(x.permute(0, 2, 3, 4, 1))
        batch, depth, height, width, channels = y.shape
        y = y.view(batch, depth, height, width, 2, 2, 2, channels // 8).permute(0, 1, 4, 2, 5, 3, 6, 7)
        return y.reshape(batch, 2 * depth, 2 * height, 2 * width, channels // 8).permute(0, 4, 1, 2, 3)

    def at(self, rows: Tensor, voxels: Tensor) -> Tensor:
        """The same for single voxels: ``rows`` (N, C) are features of the voxels that hold ``voxels`` (N, 3), (z, y, x)."""
        # A sum and no product of matrices: a GPU has none of integers.
        corner = ((voxels & 1) * torch.tensor([4, 2, 1], device=voxels.device)).sum(1)
        values = self.linear(rows).view(len(rows), 8, -1)
        return values.gather(1, corner[:, None, None].expand(-1, 1, values.shape[2]))[:, 0]


def gelu(x: Tensor) -> Tensor:
    """GELU of a volume (B, C, D, H, W) whose channels are last in memory: torch takes half the time where it is told so."""
    return F.gelu(x.permute(0, 2, 3, 4, 1)).permute(0, 4, 1, 2, 3)


def one_channel(convolution: nn.Conv3d, x: Tensor) -> Tensor:
    """What a 3D convolution makes of a volume of one channel (B, 1, D, H, W); channels last.

    As one in 2D that takes the kernel's depth for channels: on CPUs, in bfloat16, torch's own (2.14) takes four to twelve times as long.
    """
    depth = convolution.kernel_size[0]
    step, *steps = convolution.stride
    assert not isinstance(convolution.padding, str)
    rim, *rims = convolution.padding
    slices = F.pad(x[:, 0], (0, 0, 0, 0, rim, rim)).unfold(1, depth, step).permute(0, 1, 4, 2, 3)
    flat = slices.reshape(-1, depth, *x.shape[3:]).contiguous(memory_format=torch.channels_last)
    weight = convolution.weight[:, 0].contiguous(memory_format=torch.channels_last)
    y = F.conv2d(flat, weight, convolution.bias, stride=steps, padding=rims)
    return y.permute(0, 2, 3, 1).unflatten(0, (len(x), -1)).permute(0, 4, 1, 2, 3)


def padded_to(x: Tensor, step: int, value: float = 0.0, *, least: int = 0) -> Tensor:
    """A volume (B, C, D, H, W) with extents brought up to multiples of ``step``, and to ``least``, at their ends."""
    padding: list[int] = []
    for extent in reversed(x.shape[2:]):
        padding += [0, max(extent + -extent % step, least) - extent]
    return F.pad(x, padding, value=value)


def fast_layout(x: Tensor) -> Tensor:
    """Channels last on CPUs, where 3D convolutions are several times faster so; in the type that they compute in, cast once for all."""
    if x.device.type != "cpu":
        return x
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
    return x.to(dtype, memory_format=torch.channels_last_3d)
