"""With a public SAM2.1, a slice that follows a remembered one gets the mask that Meta's own video predictor gives it."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import sam2
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from PIL import Image
from torch import Tensor, nn

from RAUSlicerLib.full_size.sam2_checkpoints import SIZES, fitting
from RAUSlicerLib.rau.sam2 import MemorySegmenter, Sam2Config, SliceFeatures

SIDE = 256
OURS = replace(SIZES["sam2.1-hiera-tiny"], image_size=SIDE, encoder_size=SIDE)


@pytest.fixture(scope="module")
def predictor() -> nn.Module:
    """Meta's video predictor of the tiny size from Meta's configuration, with random weights; pictures of 256 pixels for speed."""
    config = OmegaConf.load(Path(sam2.__file__).parent / "configs" / "sam2.1" / "sam2.1_hiera_t.yaml").model
    config._target_ = "sam2.sam2_video_predictor.SAM2VideoPredictor"
    config.image_size = SIDE
    torch.manual_seed(3)
    made = instantiate(config, _recursive_=True).eval()
    with torch.no_grad():
        # Random weights would as soon say that nothing is there, and then every mask is the same.
        made.sam_mask_decoder.pred_obj_score_head.layers[-1].bias.fill_(5.0)
        # Four tokens of random pointers beside 256 of random memories would change next to nothing.
        made.obj_ptr_proj.layers[-1].weight.mul_(40)
        made.obj_ptr_tpos_proj.weight.mul_(10)
    return made


@pytest.fixture(scope="module")
def segmenter(predictor: nn.Module) -> MemorySegmenter:
    made = MemorySegmenter(OURS).eval()
    made.sam.load_state_dict(fitting(predictor.state_dict(), OURS))
    return made


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three frames: a bright disc that wanders over a noisy ground."""
    folder = tmp_path_factory.mktemp("video")
    noise = np.random.default_rng(0)
    y, x = np.mgrid[:SIDE, :SIDE]
    for number in range(3):
        disc = (x - 100 - 12 * number) ** 2 + (y - 120 + 9 * number) ** 2 < 45**2
        image = 60 + 110 * disc + noise.normal(0, 12, disc.shape)
        Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(folder / f"{number}.jpg", quality=95)
    return folder


@pytest.fixture(scope="module")
def frames(video: Path, segmenter: MemorySegmenter) -> list[SliceFeatures]:
    with torch.no_grad():
        pictures = [np.asarray(Image.open(video / f"{number}.jpg")).astype(np.float32) / 255 for number in range(3)]
        return [segmenter.encode(torch.from_numpy(picture)[None, None]) for picture in pictures]


def disc() -> Tensor:
    y, x = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
    return ((x - 100) ** 2 + (y - 120) ** 2 < 45**2).float()[None, None]


@torch.no_grad()
def tracked(predictor: nn.Module, video: Path, mask: Tensor) -> list[Tensor]:
    """Low-resolution mask logits of the frames after the first, whose mask is given, by the video predictor."""
    state = predictor.init_state(str(video))
    predictor.add_new_mask(state, 0, 1, mask[0, 0] > 0)
    for _ in predictor.propagate_in_video(state):
        pass
    outputs = state["output_dict_per_obj"][0]["non_cond_frame_outputs"]
    return [outputs[number]["pred_masks"][:, 0] for number in sorted(outputs)]


@torch.no_grad()
def followed(segmenter: MemorySegmenter, frames: list[SliceFeatures], mask: Tensor, pointing: bool = True, distance: float = 1.0) -> Tensor:
    memory = segmenter.memorize(frames[0], mask)[:, None]
    pointer = segmenter.point(frames[0], mask)
    assert pointer is not None
    given = (pointer[:, None], torch.tensor([[distance]])) if pointing else (None, None)
    attended = segmenter.attend(frames[1], memory, *given, farthest=2)
    return segmenter.decode(attended, frames[1], None, None, None, memory)[0]


def test_the_next_slice_gets_the_video_predictors_mask(
    predictor: nn.Module, segmenter: MemorySegmenter, video: Path, frames: list[SliceFeatures]
) -> None:
    expected = tracked(predictor, video, disc())[0]
    mine = followed(segmenter, frames, disc())
    # The predictor keeps its memories in bfloat16, of which eight bits are right.
    scale = float(expected.abs().max())
    assert float((mine - expected).abs().max()) < 0.01 * scale, (float((mine - expected).abs().max()), scale)
    without = followed(segmenter, frames, disc(), pointing=False)
    assert float((without - expected).abs().max()) > 5 * float((mine - expected).abs().max())


@torch.no_grad()
def test_in_float32_it_is_the_same_mask_score_and_pointer(
    predictor: nn.Module, segmenter: MemorySegmenter, frames: list[SliceFeatures]
) -> None:
    given = [_metas_features(predictor, features) for features in frames]
    outputs: dict = {"cond_frame_outputs": {}, "non_cond_frame_outputs": {}}
    first = predictor.track_step(0, True, *given[0], None, disc(), outputs, 3)
    outputs["cond_frame_outputs"][0] = first
    second = predictor.track_step(1, False, *given[1], None, None, outputs, 3)
    pointer = segmenter.point(frames[0], disc())
    torch.testing.assert_close(pointer, first["obj_ptr"], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(segmenter.memorize(frames[0], disc()), first["maskmem_features"], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(followed(segmenter, frames, disc()), second["pred_masks"][:, 0], atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_two_remembered_slices_at_their_own_distances_are_as_in_meta(
    predictor: nn.Module, segmenter: MemorySegmenter, frames: list[SliceFeatures]
) -> None:
    given = [_metas_features(predictor, features) for features in frames]
    masks = (disc(), disc().roll(12, -1))
    outputs: dict = {"cond_frame_outputs": {}, "non_cond_frame_outputs": {}}
    for number, mask in enumerate(masks):
        outputs["cond_frame_outputs"][number] = predictor.track_step(number, True, *given[number], None, mask, outputs, 3)
    third = predictor.track_step(2, False, *given[2], None, None, outputs, 3)
    memory = torch.stack([segmenter.memorize(frames[number], mask)[0] for number, mask in enumerate(masks)])[None]
    pointers = torch.stack([segmenter.point(frames[number], mask)[0] for number, mask in enumerate(masks)])[None]
    attended = segmenter.attend(frames[2], memory, pointers, torch.tensor([[2.0, 1.0]]), farthest=2)
    mine = segmenter.decode(attended, frames[2], None, None, None, memory)[0]
    torch.testing.assert_close(mine, third["pred_masks"][:, 0], atol=1e-4, rtol=1e-4)
    swapped = segmenter.attend(frames[2], memory, pointers, torch.tensor([[1.0, 2.0]]), farthest=2)
    assert not torch.allclose(swapped, attended, atol=1e-4)


@torch.no_grad()
def test_an_object_that_is_not_there_is_remembered_as_meta_does(
    predictor: nn.Module, segmenter: MemorySegmenter, frames: list[SliceFeatures]
) -> None:
    nothing = torch.zeros(1, 1, SIDE, SIDE)
    theirs = predictor.track_step(
        0,
        True,
        *_metas_features(predictor, frames[0]),
        None,
        nothing,
        {"cond_frame_outputs": {}, "non_cond_frame_outputs": {}},
        3,
    )
    torch.testing.assert_close(segmenter.memorize(frames[0], nothing), theirs["maskmem_features"], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(segmenter.point(frames[0], nothing), theirs["obj_ptr"], atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_objects_with_pointers_do_not_see_each_other(segmenter: MemorySegmenter, frames: list[SliceFeatures]) -> None:
    masks = torch.cat([disc(), disc().roll(40, -2)])
    both = frames[0].take(torch.tensor([0, 0]))
    memory, pointers = segmenter.memorize(both, masks)[:, None], segmenter.point(both, masks)
    assert pointers is not None
    away = torch.tensor([[1.0], [3.0]])
    together = segmenter.attend(frames[1].take(torch.tensor([0, 0])), memory, pointers[:, None], away)
    for number in range(2):
        mine = slice(number, number + 1)
        alone = segmenter.attend(frames[1], memory[mine], pointers[mine, None], away[mine])
        torch.testing.assert_close(together[mine], alone, atol=1e-4, rtol=1e-3)


def test_the_embedded_one_was_trained_without_pointers_and_has_none() -> None:
    small = MemorySegmenter(Sam2Config(image_size=64, window_spec=(4, 2, 4, 2), window_pos_embed_bkg_spatial_size=(4, 4)))
    with torch.no_grad():
        assert small.point(small.encode(torch.rand(1, 1, 64, 64)), torch.ones(1, 1, 64, 64)) is None


def _metas_features(predictor: nn.Module, features: SliceFeatures) -> tuple[list[Tensor], list[Tensor], list[tuple[int, int]]]:
    """Features as Meta hands them on: flat, the finest first."""
    levels = [features.high, features.mid, features.low]
    positions = [features.position.new_zeros(level.shape) for level in levels[:2]] + [features.position]
    flat = [level.flatten(2).permute(2, 0, 1) for level in levels]
    return flat, [place.flatten(2).permute(2, 0, 1) for place in positions], [tuple(level.shape[-2:]) for level in levels]
