"""Public SAM2.1 checkpoints: their configurations are Meta's, their tensors land where they belong, and nothing in them is run."""

import pickle
from dataclasses import replace
from pathlib import Path

import pytest
import sam2
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import Sam2VideoConfig, Sam2VideoModel

from RAUSlicerLib.errors import ModelError
from RAUSlicerLib.full_size.sam2_checkpoints import SIZES, fitting, metas_names, read_checkpoint, size_of
from RAUSlicerLib.rau.sam2 import MemorySegmenter, Sam2Config, build_sam2

OFFICIAL = {"tiny": "t", "small": "s", "base-plus": "b+", "large": "l"}


def official(letter: str) -> nn.Module:
    path = Path(sam2.__file__).parent / "configs" / "sam2.1" / f"sam2.1_hiera_{letter}.yaml"
    return instantiate(OmegaConf.load(path).model, _recursive_=True).eval()


@pytest.fixture(scope="module")
def tiny() -> nn.Module:
    torch.manual_seed(0)
    return official("t")


@pytest.mark.parametrize("size", OFFICIAL)
def test_every_size_has_the_tensors_and_settings_of_metas_configuration(size: str, tiny: nn.Module) -> None:
    theirs = tiny if size == "tiny" else official(OFFICIAL[size])
    tensors = theirs.state_dict()
    name = size_of(tensors)
    assert name == f"sam2.1-hiera-{size}"
    ours = build_sam2(SIZES[name])
    assert {key: value.shape for key, value in ours.state_dict().items()} == {key: value.shape for key, value in tensors.items()}
    trunks = [model.image_encoder.trunk for model in (ours, theirs)]
    assert [block.window_size for block in trunks[0].blocks] == [block.window_size for block in trunks[1].blocks]
    for setting in ("num_maskmem", "image_size", "sigmoid_scale_for_mem_enc", "directly_add_no_mem_embed", "pred_obj_scores"):
        assert getattr(ours, setting) == getattr(theirs, setting), setting


@pytest.fixture(scope="module")
def segmenter(tiny: nn.Module) -> MemorySegmenter:
    """The real tiny size, which sees pictures of 256 pixels here: of 1024 it takes many seconds."""
    made = MemorySegmenter(replace(SIZES["sam2.1-hiera-tiny"], image_size=64, encoder_size=256)).eval()
    made.sam.load_state_dict(fitting(tiny.state_dict(), SIZES["sam2.1-hiera-tiny"]))
    return made


@torch.no_grad()
def test_memory_and_attention_are_those_of_meta(segmenter: MemorySegmenter, tiny: nn.Module) -> None:
    image, mask = torch.rand(1, 1, 64, 64), torch.zeros(1, 1, 64, 64)
    mask[..., 20:40, 10:30] = 1
    large = F.interpolate(image, size=(256, 256), mode="bilinear").expand(-1, 3, -1, -1)
    mean, std = torch.tensor([0.485, 0.456, 0.406])[:, None, None], torch.tensor([0.229, 0.224, 0.225])[:, None, None]
    theirs = tiny.forward_image((large - mean) / std)
    _, features, positions, sizes = tiny._prepare_backbone_features(theirs)
    ours = segmenter.encode(image)
    torch.testing.assert_close(ours.low, theirs["backbone_fpn"][2])
    scores = torch.full((1, 1), 10.0)
    large_mask = (F.interpolate(mask, size=(256, 256), mode="bilinear") >= 0.5).float()
    logits = (large_mask - 0.5) * 2e3
    with torch.no_grad():
        memory, encoding = tiny._encode_new_memory(features, sizes, logits, scores, is_mask_from_pts=False)
    mine = segmenter.memorize(ours, mask)
    torch.testing.assert_close(mine, memory, atol=2e-5, rtol=1e-4)
    frame = {"maskmem_features": memory, "maskmem_pos_enc": encoding, "obj_ptr": torch.zeros(1, 256)}
    outputs = {"cond_frame_outputs": {0: frame}, "non_cond_frame_outputs": {}}
    tiny.use_obj_ptrs_in_encoder = False
    fused = tiny._prepare_memory_conditioned_features(1, False, features[-1:], positions[-1:], sizes[-1:], outputs, 2)
    torch.testing.assert_close(segmenter.attend(ours, mine[None]), fused, atol=2e-5, rtol=1e-4)


@torch.no_grad()
def test_slices_boxes_and_masks_are_in_the_slices_own_pixels(segmenter: MemorySegmenter) -> None:
    image = torch.rand(1, 1, 64, 64)
    features = segmenter.encode(image)
    memory = segmenter.memorize(features, (image > 0.5).float())[None]
    attended = segmenter.attend(features, memory)
    seen: list[Tensor] = []
    handle = segmenter.sam.sam_prompt_encoder.register_forward_pre_hook(
        lambda _module, _args, given: seen.append(given["points"][0]), with_kwargs=True
    )
    logits, score = segmenter.decode(attended, features, torch.zeros(1, 1, 64, 64), torch.tensor([[4.0, 8, 16, 32]]), None, memory)
    handle.remove()
    assert logits.shape == (1, 64, 64) and segmenter.upsampled(logits).shape == (1, 64, 64) and score.shape == (1,)
    torch.testing.assert_close(seen[0], torch.tensor([[[16.0, 32], [64, 128]]]))


@torch.no_grad()
def test_an_untrained_query_is_not_listened_to(segmenter: MemorySegmenter) -> None:
    features = segmenter.encode(torch.rand(1, 1, 64, 64))
    memory = segmenter.memorize(features, torch.ones(1, 1, 64, 64))[None]
    attended = segmenter.attend(features, memory)
    plain, asked = (segmenter.decode(attended, features, None, None, query, memory)[0] for query in (None, torch.rand(1, 192)))
    torch.testing.assert_close(plain, asked)


@pytest.fixture(scope="module")
def huggingface() -> Sam2VideoModel:
    torch.manual_seed(0)
    return Sam2VideoModel(Sam2VideoConfig()).eval()


@torch.no_grad()
def test_a_hugging_face_checkpoint_computes_the_same_under_metas_names(huggingface: Sam2VideoModel, tiny: nn.Module) -> None:
    state = huggingface.state_dict()
    tensors = fitting(metas_names(state), SIZES["sam2.1-hiera-tiny"])
    ours = build_sam2(SIZES["sam2.1-hiera-tiny"]).eval()
    ours.load_state_dict(tensors)
    pixels, masks = torch.rand(1, 3, 256, 256), torch.rand(1, 1, 256, 256)
    theirs = huggingface.vision_encoder(pixels).fpn_hidden_states
    torch.testing.assert_close(ours.image_encoder(pixels)["backbone_fpn"][-1], theirs[-1], atol=1e-5, rtol=1e-4)
    vision = torch.rand(1, 256, 16, 16)
    expected, _ = huggingface.memory_encoder(vision, masks)
    torch.testing.assert_close(
        ours.memory_encoder(vision, masks, skip_mask_sigmoid=True)["vision_features"], expected, atol=1e-5, rtol=1e-4
    )
    decoder, prompt = huggingface.mask_decoder, torch.rand(1, 1, 2, 256)
    place, dense = torch.rand(1, 256, 16, 16), torch.rand(1, 256, 16, 16)
    high = [torch.rand(1, 32, 64, 64), torch.rand(1, 64, 32, 32)]
    given = {"image_embeddings": vision, "image_positional_embeddings": place, "dense_prompt_embeddings": dense}
    masked = decoder(**given, sparse_prompt_embeddings=prompt, multimask_output=True, high_resolution_features=high)[0]
    mine = ours.sam_mask_decoder(vision, place, prompt[0], dense, True, False, high)[0]
    torch.testing.assert_close(mine, masked[0], atol=1e-4, rtol=1e-3)


def test_a_pickle_that_would_run_code_is_not_opened(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple:
            return (Path.touch, (tmp_path / "sprung",))

    (tmp_path / "trap.pt").write_bytes(pickle.dumps({"model": Trap()}))
    with pytest.raises(ModelError, match="not opened"):
        read_checkpoint(tmp_path / "trap.pt")
    torch.save({"model": Trap()}, tmp_path / "trap2.pt")
    with pytest.raises(ModelError, match="not opened"):
        read_checkpoint(tmp_path / "trap2.pt")
    assert not (tmp_path / "sprung").exists()


def test_truncated_and_foreign_files_are_refused(tmp_path: Path) -> None:
    torch.save({"model": {"weight": torch.ones(500, 500)}}, tmp_path / "other.pt")
    with pytest.raises(ModelError, match=r"no SAM2\.1"):
        size_of(read_checkpoint(tmp_path / "other.pt"))
    whole = (tmp_path / "other.pt").read_bytes()
    (tmp_path / "short.pt").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ModelError):
        read_checkpoint(tmp_path / "short.pt")
    (tmp_path / "short.safetensors").write_bytes(b"\x10\x00")
    with pytest.raises(ModelError, match="can't be read"):
        read_checkpoint(tmp_path / "short.safetensors")


def test_a_sam2_before_2_1_and_odd_shapes_are_refused(tiny: nn.Module) -> None:
    tensors = dict(tiny.state_dict())
    old = {key: value for key, value in tensors.items() if key != "no_obj_embed_spatial"}
    with pytest.raises(ModelError, match="no SAM2") as raised:
        size_of(old)
    assert "before 2.1" in raised.value.explanation
    tensors["no_mem_embed"] = torch.zeros(1, 1, 8)
    with pytest.raises(ModelError, match="no_mem_embed"):
        fitting(tensors, SIZES["sam2.1-hiera-tiny"])


def test_configuration_survives_its_json_form() -> None:
    for config in (Sam2Config(), *SIZES.values()):
        assert Sam2Config.from_dict(config.to_dict()) == config
