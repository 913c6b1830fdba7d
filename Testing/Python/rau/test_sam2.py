import pytest
import torch
from torch import Tensor

from RAUSlicerLib.loading import load_model
from RAUSlicerLib.rau.sam2 import MemorySegmenter, Sam2Config, SliceFeatures, build_sam2


@pytest.fixture(scope="module")
def segmenter(tiny_model) -> MemorySegmenter:
    return load_model(str(tiny_model)).segmenter


@pytest.fixture(scope="module")
def features(segmenter: MemorySegmenter) -> SliceFeatures:
    torch.manual_seed(0)
    with torch.no_grad():
        return segmenter.encode(torch.rand(3, 1, 64, 64))


def memory_of(segmenter: MemorySegmenter, features: SliceFeatures, masks: Tensor) -> Tensor:
    """One slot an object: the third slice with each mask."""
    return segmenter.memorize(features.take(torch.full((len(masks),), 2)), masks[:, None])[:, None]


def squares() -> Tensor:
    masks = torch.zeros(2, 64, 64)
    masks[0, 10:30, 12:40] = masks[1, 40:60, 5:20] = 1
    return masks


def test_features_have_the_strides_of_the_encoder(segmenter: MemorySegmenter, features: SliceFeatures) -> None:
    assert segmenter.config.stride == 8
    assert [tuple(level.shape) for level in (features.low, features.mid, features.high)] == [(3, 32, 8, 8), (3, 8, 16, 16), (3, 4, 32, 32)]


@torch.no_grad()
def test_the_residual_decoder_starts_exactly_at_the_prior(segmenter: MemorySegmenter, features: SliceFeatures) -> None:
    memory = memory_of(segmenter, features, squares())
    here = features.take(torch.tensor([0, 0]))
    prior = torch.randn(2, 1, 32, 32)
    boxes, query = torch.tensor([[10.0, 12, 40, 30], [5, 40, 20, 60]]), torch.randn(2, 32)
    for prompts in ((None, None), (boxes, None), (boxes, query), (None, query)):
        logits, score = segmenter.decode(segmenter.attend(here, memory), here, prior, *prompts, memory)
        assert torch.equal(logits, prior[:, 0])
        assert score.shape == (2,)


@torch.no_grad()
def test_objects_of_a_batch_do_not_see_each_other(segmenter: MemorySegmenter, features: SliceFeatures) -> None:
    memory = memory_of(segmenter, features, squares())
    both = segmenter.attend(features.take(torch.tensor([0, 0])), memory)
    for number in range(2):
        alone = segmenter.attend(features.take(torch.tensor([0])), memory[number : number + 1])
        torch.testing.assert_close(alone[0], both[number], atol=1e-4, rtol=1e-3)


@torch.no_grad()
def test_the_memory_of_masks_changes_what_is_seen_and_slots_may_be_several(segmenter: MemorySegmenter, features: SliceFeatures) -> None:
    memory = memory_of(segmenter, features, squares())
    seen = segmenter.attend(features.take(torch.tensor([0, 0])), memory)
    assert (seen[0] - seen[1]).abs().max() > 1e-4
    several = segmenter.attend(features.take(torch.tensor([0, 0])), torch.cat([memory, memory], dim=1))
    # The same slice twice says what it says once.
    torch.testing.assert_close(several, seen, atol=1e-4, rtol=1e-3)


@torch.no_grad()
def test_without_a_prior_a_decoder_that_has_learned_nothing_is_undecided(segmenter: MemorySegmenter, features: SliceFeatures) -> None:
    memory = memory_of(segmenter, features, squares())
    here = features.take(torch.tensor([1, 1]))
    logits, _ = segmenter.decode(segmenter.attend(here, memory), here, None, None, None, memory)
    assert logits.shape == (2, 32, 32) and float(logits.abs().max()) == 0
    assert segmenter.upsampled(logits).shape == (2, 64, 64)


def test_parameter_names_are_the_official_ones() -> None:
    names = {name.split(".")[0] for name, _ in build_sam2(Sam2Config()).named_parameters()}
    assert {"image_encoder", "memory_attention", "memory_encoder", "sam_prompt_encoder", "sam_mask_decoder", "maskmem_tpos_enc"} <= names


def test_configuration_survives_its_json_form() -> None:
    config = Sam2Config(stages=(1, 1, 2, 1), residual=False)
    values = {key: list(value) if isinstance(value, tuple) else value for key, value in config.to_dict().items()}
    assert Sam2Config.from_dict(values) == config
