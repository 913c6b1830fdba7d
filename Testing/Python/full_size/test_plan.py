"""Where a large model goes, by what is free."""

import pytest
import torch

from RAUSlicerLib.errors import InputError, ResourceError
from RAUSlicerLib.full_size import memory, plan
from RAUSlicerLib.full_size.plan import Needs, place, prompt_bytes

GB = 10**9
SEVEN = Needs("qwen", 8 * GB, GB)
CUDA, CPU = torch.device("cuda"), torch.device("cpu")


def free(**given: float):
    return lambda device: None if given[device.type] is None else int(given[device.type] * GB)


@pytest.fixture(autouse=True)
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: True)
    monkeypatch.setattr(plan.importlib.util, "find_spec", lambda name: object() if name == "bitsandbytes" else None)


def test_half_precision_on_the_gpu_where_it_fits() -> None:
    found = place(SEVEN, CUDA, free=free(cuda=40, cpu=64))
    assert (found.device, found.dtype, found.warnings) == (CUDA, torch.bfloat16, ())
    assert "8.00 billion" in found.words and "17.0 GB" in found.words and "40.0 GB are free" in found.words


def test_four_bits_where_half_precision_does_not_fit_and_it_is_said() -> None:
    found = place(SEVEN, CUDA, free=free(cuda=12, cpu=64))
    assert found.four_bit and found.device == CUDA
    assert "did not fit" in found.warnings[0] and "12.0 GB are free" in found.warnings[0]


def test_the_cpu_is_the_last_resort_and_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    found = place(SEVEN, CUDA, free=free(cuda=4, cpu=64))
    assert found.device == CPU and "many times longer" in found.warnings[0]
    monkeypatch.setattr(plan.importlib.util, "find_spec", lambda _name: None)
    assert place(SEVEN, CUDA, free=free(cuda=12, cpu=64)).device == CPU


def test_four_bits_on_the_cpu_come_last() -> None:
    found = place(SEVEN, CUDA, free=free(cuda=4, cpu=12))
    assert found.device == CPU and found.four_bit and "4-bit weights" in found.warnings[0]


def test_a_cpu_without_bfloat16_takes_float32_if_there_is_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    assert place(SEVEN, CPU, free=free(cpu=64)).precision == "fp32"
    assert place(SEVEN, CPU, free=free(cpu=24)).precision == "bf16"
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    assert place(SEVEN, CPU, free=free(cpu=64)).precision == "bf16"


def test_a_gpu_without_bfloat16_takes_float16_and_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation)
    found = place(SEVEN, CUDA, free=free(cuda=40, cpu=64))
    assert found.dtype == torch.float16 and "float16" in found.words and found.words.endswith("The GPU has no bfloat16.")
    monkeypatch.setattr(torch.backends.mps, "is_macos_or_newer", lambda major, _minor: major <= 13)
    assert place(SEVEN, torch.device("mps"), free=free(mps=40, cpu=64)).precision == "fp16"
    monkeypatch.setattr(torch.backends.mps, "is_macos_or_newer", lambda major, _minor: major <= 14)
    assert place(SEVEN, torch.device("mps"), free=free(mps=40, cpu=64)).precision == "bf16"


def test_an_apple_gpu_that_is_too_small_gives_way_to_the_cpu_and_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_macos_or_newer", lambda *_version: True)
    found = place(SEVEN, torch.device("mps"), free=free(mps=8, cpu=64))
    assert found.device == CPU and "the Apple GPU in" in found.warnings[0] and "8.0 GB are free" in found.warnings[0]


def test_what_fits_nowhere_is_an_error_that_lists_what_was_tried() -> None:
    with pytest.raises(ResourceError, match="does not fit this machine") as raised:
        place(SEVEN, CUDA, free=free(cuda=4, cpu=8))
    assert raised.value.explanation.count("are free") >= 3 and "embedded" in raised.value.solution


def test_a_precision_that_is_asked_for_is_kept() -> None:
    assert place(SEVEN, CUDA, "fp16", free=free(cuda=4, cpu=64)).precision == "fp16"
    assert place(SEVEN, CPU, "4bit", free=free(cpu=64)).four_bit
    with pytest.raises(ResourceError, match="4-bit"):
        place(SEVEN, torch.device("mps"), "4bit", free=free(mps=64, cpu=64))
    with pytest.raises(InputError, match="'int3'"):
        place(SEVEN, CPU, "int3", free=free(cpu=64))


def test_unknown_free_memory_is_taken_as_enough() -> None:
    assert "unknown" in place(SEVEN, CPU, free=free(cpu=None)).words


def test_free_memory_of_this_machine_is_measured() -> None:
    found = memory.free_memory(CPU)
    assert found is None or 10**7 < found < 10**14


def test_a_prompt_of_a_7b_model_takes_about_a_gigabyte() -> None:
    from transformers import Qwen2_5_VLConfig

    text = {"hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28, "num_attention_heads": 28, "num_key_value_heads": 4}
    found = prompt_bytes(Qwen2_5_VLConfig(text_config=text), 448, 12)
    assert 0.2e9 < found < 3e9
    assert prompt_bytes(Qwen2_5_VLConfig(text_config=text), 896, 12) > 2 * found
