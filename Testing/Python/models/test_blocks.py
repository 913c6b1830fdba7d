"""Parts of 3D networks: what makes them fast changes nothing that they compute."""

import torch
from torch import nn

from RAUSlicerLib.models.blocks import fast_layout


def test_casting_once_gives_what_casting_in_the_convolution_gives() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, 8, 24, 26, 28, generator=generator)
    convolution = nn.Conv3d(8, 16, 4, stride=2, padding=1).to(memory_format=torch.channels_last_3d)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        once, within = fast_layout(x), x.contiguous(memory_format=torch.channels_last_3d)
        assert once.dtype == torch.bfloat16 and once.is_contiguous(memory_format=torch.channels_last_3d)
        assert torch.equal(convolution(once), convolution(within))


def test_without_autocast_only_the_layout_changes() -> None:
    x = torch.randn(1, 4, 6, 6, 6, generator=torch.Generator().manual_seed(0))
    laid = fast_layout(x)
    assert laid.is_contiguous(memory_format=torch.channels_last_3d) and torch.equal(laid, x)
