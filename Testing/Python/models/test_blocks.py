"""Parts of 3D networks: what makes them fast changes nothing that they compute."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from RAUSlicerLib.models.blocks import fast_layout, gelu, one_channel


def test_casting_once_gives_what_casting_in_the_convolution_gives():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, 8, 24, 26, 28, generator=generator)
    convolution = nn.Conv3d(8, 16, 4, stride=2, padding=1).to(memory_format=torch.channels_last_3d)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        once, within = fast_layout(x), x.contiguous(memory_format=torch.channels_last_3d)
        assert once.dtype == torch.bfloat16 and once.is_contiguous(memory_format=torch.channels_last_3d)
        assert torch.equal(convolution(once), convolution(within))


def test_without_autocast_only_the_layout_changes():
    x = torch.randn(1, 4, 6, 6, 6, generator=torch.Generator().manual_seed(0))
    laid = fast_layout(x)
    assert laid.is_contiguous(memory_format=torch.channels_last_3d) and torch.equal(laid, x)


UNEVEN = nn.Conv3d(1, 4, (3, 1, 5), stride=(1, 2, 3), padding=(0, 0, 2))


@pytest.mark.parametrize("convolution", [nn.Conv3d(1, 8, 4, stride=2, padding=1), nn.Conv3d(1, 8, 5), UNEVEN])
@pytest.mark.parametrize("shape", [(2, 1, 12, 14, 16), (1, 1, 5, 9, 7)])
def test_one_channel_is_convolved_as_by_torch(convolution, shape):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    y = one_channel(convolution, x)
    torch.testing.assert_close(y, convolution(x), atol=1e-5, rtol=0)
    assert y.is_contiguous(memory_format=torch.channels_last_3d)


def test_gelu_of_channels_that_are_last_in_memory():
    x = fast_layout(torch.randn(2, 4, 6, 7, 8, generator=torch.Generator().manual_seed(0)))
    y = gelu(x)
    torch.testing.assert_close(y, F.gelu(x.contiguous()))
    assert y.is_contiguous(memory_format=torch.channels_last_3d)
