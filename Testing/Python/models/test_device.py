import pytest
import torch

from RAUSlicerLib.device import choose_device
from RAUSlicerLib.errors import InputError, ResourceError


def test_cpu_is_always_there():
    assert choose_device("cpu") == torch.device("cpu")


def test_auto_takes_what_is_there():
    assert choose_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_missing_gpu_is_an_error_with_a_way_out():
    with pytest.raises(ResourceError, match="'cuda'") as raised:
        choose_device("cuda")
    assert "'cpu'" in raised.value.solution


def test_an_unknown_device_is_refused():
    with pytest.raises(InputError, match="'tpu'"):
        choose_device("tpu")
