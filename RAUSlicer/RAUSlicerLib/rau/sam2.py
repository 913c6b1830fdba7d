"""SAM2 with the reference in its memory, of any size, as plain tensor operations.

The parts are those of Meta's ``sam2`` package, put together from a configuration; parameter names are the official ones. Two things are
added: a ``<Seg>`` query from the vision-language model, which reads the memory and becomes one more prompt token (RAU), and a residual
output, so that the mask starts as the matched prior and the decoder learns only what to change. A public SAM2.1 gets its memory as it was
trained with: spatial memories and object pointers.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from sam2.modeling.backbones.hieradet import Hiera
from sam2.modeling.backbones.image_encoder import FpnNeck, ImageEncoder
from sam2.modeling.backbones.utils import PatchEmbed
from sam2.modeling.memory_attention import MemoryAttention, MemoryAttentionLayer
from sam2.modeling.memory_encoder import CXBlock, Fuser, MaskDownSampler, MemoryEncoder
from sam2.modeling.position_encoding import PositionEmbeddingSine
from sam2.modeling.sam.transformer import RoPEAttention
from sam2.modeling.sam2_base import SAM2Base
from sam2.modeling.sam2_utils import get_1d_sine_pe
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..support.settings import changed, settings_from
from .settings import PropagationSettings

# Scale and bias that make certain logits of a given mask, and how far back SAM2.1 remembers objects, in frames.
_CERTAIN = (20.0, -10.0)
_FARTHEST = 15


@dataclass(frozen=True)
class Sam2Config:
    """Sizes of a SAM2; the ``config.json`` of its checkpoint folder. Defaults are the embedded one's.

    Slices are ``image_size`` pixels wide and are enlarged to ``encoder_size`` (0: as they are) for a SAM2 that was made for large pictures:
    kept at 1024 pixels, the slices of a run would take tens of gigabytes. ``mean`` and ``std`` are of all channels, or one each.
    With ``use_query`` off the `<Seg>` query is not listened to, because nobody has trained it yet. ``as_published`` remembers and prompts
    as SAM2.1's own tracking does, with object pointers; the embedded one was trained without.
    """

    image_size: int = 192
    encoder_size: int = 0
    patch_stride: int = 2
    embed_dim: int = 32
    num_heads: int = 1
    stages: tuple[int, ...] = (1, 2, 4, 1)
    global_att_blocks: tuple[int, ...] = (4, 6)
    window_spec: tuple[int, ...] = (8, 4, 12, 6)
    window_pos_embed_bkg_spatial_size: tuple[int, int] = (12, 12)
    d_model: int = 128
    memory_dim: int = 64
    memory_layers: int = 2
    feedforward: int = 512
    layer_scale: float = 1e-2
    query_dim: int = 192
    residual: bool = True
    mean: float | tuple[float, ...] = 0.3
    std: float | tuple[float, ...] = 0.25
    use_query: bool = True
    as_published: bool = False
    settings: PropagationSettings = field(default_factory=PropagationSettings)

    @classmethod
    def from_dict(cls, values: dict) -> Sam2Config:
        known = {key: values[key] for key in cls.__dataclass_fields__ if key in values}
        plain: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in known.items()}
        plain["settings"] = settings_from(PropagationSettings, known.get("settings", {}), "The settings of the model's SAM 2")
        return cls(**plain)

    def to_dict(self) -> dict:
        values = {"model_type": "rau_sam2", **asdict(self), "settings": changed(self.settings)}
        return values if values["settings"] else {key: value for key, value in values.items() if key != "settings"}

    @property
    def stride(self) -> int:
        return 4 * self.patch_stride

    @property
    def encoded(self) -> int:
        """Side of the pictures that the encoder sees."""
        return self.encoder_size or self.image_size


class _OnePosition(PositionEmbeddingSine):
    """Places are the same for every picture of a batch; written out for each they took a sixth of the encoder's time."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x[:1])


def build_sam2(config: Sam2Config) -> SAM2Base:
    """A SAM2 with random weights."""
    cells = config.encoded // config.stride
    trunk = Hiera(
        embed_dim=config.embed_dim,
        num_heads=config.num_heads,
        stages=config.stages,
        global_att_blocks=config.global_att_blocks,
        window_pos_embed_bkg_spatial_size=config.window_pos_embed_bkg_spatial_size,
        window_spec=config.window_spec,
    )
    if config.patch_stride != 4:
        # Hiera offers no argument for it: small images need finer patches to keep small structures.
        trunk.patch_embed = PatchEmbed(kernel_size=(7, 7), stride=(config.patch_stride,) * 2, padding=(3, 3), embed_dim=config.embed_dim)
    neck = FpnNeck(
        position_encoding=_OnePosition(num_pos_feats=config.d_model, normalize=True, scale=None, temperature=10000),
        d_model=config.d_model,
        backbone_channel_list=trunk.channel_list,
        fpn_top_down_levels=[2, 3],
        fpn_interp_model="nearest",
    )
    attention = {
        "rope_theta": 10000.0,
        "feat_sizes": [cells, cells],
        "embedding_dim": config.d_model,
        "num_heads": 1,
        "downsample_rate": 1,
        "dropout": 0.0,
    }
    layer = MemoryAttentionLayer(
        activation="relu",
        dim_feedforward=config.feedforward,
        dropout=0.0,
        pos_enc_at_attn=False,
        self_attention=RoPEAttention(**attention),
        d_model=config.d_model,
        pos_enc_at_cross_attn_keys=True,
        pos_enc_at_cross_attn_queries=False,
        cross_attention=RoPEAttention(rope_k_repeat=True, kv_in_dim=config.memory_dim, **attention),
    )
    memory_encoder = MemoryEncoder(
        out_dim=config.memory_dim,
        position_encoding=PositionEmbeddingSine(num_pos_feats=config.memory_dim, normalize=True, scale=None, temperature=10000),
        mask_downsampler=MaskDownSampler(embed_dim=config.d_model, kernel_size=3, stride=2, padding=1, total_stride=config.stride),
        fuser=Fuser(
            CXBlock(dim=config.d_model, kernel_size=7, padding=3, layer_scale_init_value=config.layer_scale, use_dwconv=True), num_layers=2
        ),
        in_dim=config.d_model,
    )
    return SAM2Base(
        ImageEncoder(trunk, neck, scalp=1),
        MemoryAttention(d_model=config.d_model, pos_enc_at_input=True, layer=layer, num_layers=config.memory_layers),
        memory_encoder,
        num_maskmem=7,
        image_size=config.encoded,
        backbone_stride=config.stride,
        sigmoid_scale_for_mem_enc=20.0,
        sigmoid_bias_for_mem_enc=-10.0,
        use_mask_input_as_output_without_sam=True,
        directly_add_no_mem_embed=True,
        no_obj_embed_spatial=True,
        use_high_res_features_in_sam=True,
        multimask_output_in_sam=True,
        iou_prediction_use_sigmoid=True,
        use_obj_ptrs_in_encoder=True,
        add_tpos_enc_to_obj_ptrs=True,
        proj_tpos_enc_in_obj_ptrs=True,
        use_signed_tpos_enc_to_obj_ptrs=True,
        only_obj_ptrs_in_the_past_for_eval=True,
        pred_obj_scores=True,
        pred_obj_scores_mlp=True,
        fixed_no_obj_ptr=True,
        multimask_output_for_tracking=True,
        use_multimask_token_for_obj_ptr=True,
        multimask_min_pt_num=0,
        multimask_max_pt_num=1,
        use_mlp_for_obj_ptr_proj=True,
    )


@contextlib.contextmanager
def plain_attention() -> Iterator[None]:
    """Attention as matmul, softmax, matmul, for training: its backward in bf16 on CPUs is faster than the fused kernel's."""
    with sdpa_kernel(SDPBackend.MATH):
        yield


@dataclass(frozen=True)
class SliceFeatures:
    """What the image encoder says of a batch of slices.

    ``low`` (B, C, h, w) at the stride of the encoder, ``mid`` and ``high`` at a half and a quarter of it, ``position`` (1, C, h, w).
    """

    low: Tensor
    mid: Tensor
    high: Tensor
    position: Tensor

    def take(self, index: Tensor) -> SliceFeatures:
        return SliceFeatures(self.low[index], self.mid[index], self.high[index], self.position)


class MemorySegmenter(nn.Module):
    """SAM2's parts with reference slices as conditioning memory; all objects of a slice in one batch."""

    def __init__(self, config: Sam2Config | None = None) -> None:
        super().__init__()
        self.config = config or Sam2Config()
        width = self.config.d_model
        self.sam = build_sam2(self.config)
        self.query_mlp = nn.Sequential(nn.Linear(self.config.query_dim, width), nn.GELU(), nn.Linear(width, width))
        self.query_attention = nn.MultiheadAttention(width, 4, kdim=self.config.memory_dim, vdim=self.config.memory_dim, batch_first=True)
        if self.config.residual:
            for mlp in self.sam.sam_mask_decoder.output_hypernetworks_mlps:
                nn.init.zeros_(mlp.layers[-1].weight)
                nn.init.zeros_(mlp.layers[-1].bias)

    def encode(self, images: Tensor) -> SliceFeatures:
        """Features of slices (B, 1, S, S) in 0 to 1; S is the configuration's image size."""
        x = (self._enlarged(images).expand(-1, 3, -1, -1) - self._channels(self.config.mean)) / self._channels(self.config.std)
        out = self.sam.forward_image(x)
        high, mid, low = out["backbone_fpn"]
        return SliceFeatures(low, mid, high, out["vision_pos_enc"][2][:1])

    def _enlarged(self, images: Tensor) -> Tensor:
        """Slices (B, 1, S, S) as large as the encoder wants them."""
        if self.config.encoded == self.config.image_size:
            return images
        return F.interpolate(images, size=(self.config.encoded,) * 2, mode="bilinear", align_corners=False)

    def _channels(self, values: float | tuple[float, ...]) -> Tensor | float:
        if isinstance(values, float | int):
            return values
        return torch.tensor(values, device=self.sam.maskmem_tpos_enc.device)[:, None, None]

    def memorize(self, features: SliceFeatures, masks: Tensor) -> Tensor:
        """Memory (B, C', h, w) of slices with masks (B, 1, S, S), 0 or 1."""
        masks = self._enlarged_masks(masks)
        sam = self.sam
        if not self.config.as_published:
            scaled = masks * sam.sigmoid_scale_for_mem_enc + sam.sigmoid_bias_for_mem_enc
            return sam.memory_encoder(features.low, scaled, skip_mask_sigmoid=True)["vision_features"]
        # As a mask that was predicted with certainty: its logits are those that a mask is given where it is not predicted.
        soft = torch.sigmoid(masks * _CERTAIN[0] + _CERTAIN[1]) * sam.sigmoid_scale_for_mem_enc + sam.sigmoid_bias_for_mem_enc
        memory = sam.memory_encoder(features.low, soft, skip_mask_sigmoid=True)["vision_features"]
        empty = (~masks.flatten(1).any(1)).to(memory.dtype)[:, None, None, None]
        return memory + empty * sam.no_obj_embed_spatial[:, :, None, None]

    def point(self, features: SliceFeatures, masks: Tensor) -> Tensor | None:
        """Object pointers (B, C) of slices with masks (B, 1, S, S): what the decoder says of each object. None where there are none."""
        if not self.config.as_published:
            return None
        pointers: Tensor = self.sam._use_mask_as_output(features.low, [features.high, features.mid], self._enlarged_masks(masks))[5]
        return pointers

    def _enlarged_masks(self, masks: Tensor) -> Tensor:
        if self.config.encoded == self.config.image_size:
            return masks
        return (self._enlarged(masks) >= 0.5).to(masks.dtype)

    def attend(
        self,
        features: SliceFeatures,
        memory: Tensor,
        pointers: Tensor | None = None,
        distances: Tensor | None = None,
        farthest: int = _FARTHEST,
    ) -> Tensor:
        """Features (O, C, h, w) of a slice per object after attention to its memory.

        Args:
            features: Of the slice.
            memory: (O, M, C', h, w), of M conditioning slices an object.
            pointers: (O, M, C), see `point`.
            distances: (O, M), how many slices away each pointer's slice is; 1 where not given.
            farthest: The distance beyond which no pointer lies; where a run has fewer than 16 slices, one less than their number.
        """
        objects, slots, channels, height, width = memory.shape
        current = features.low.flatten(2).permute(2, 0, 1)
        position = features.position.expand(objects, -1, -1, -1).flatten(2).permute(2, 0, 1)
        keys = memory.permute(1, 3, 4, 0, 2).reshape(slots * height * width, objects, channels)
        encoding = self.sam.memory_encoder.position_encoding(memory[:1, 0]).to(memory.dtype).flatten(2).permute(2, 0, 1)
        # Conditioning slices carry the last temporal code, as in SAM2.
        encoding = (encoding + self.sam.maskmem_tpos_enc[self.sam.num_maskmem - 1]).repeat(slots, objects, 1)
        pointing = 0
        if pointers is not None:
            tokens, places = self._pointer_tokens(pointers, distances, farthest, channels)
            keys, encoding, pointing = (
                torch.cat([keys, tokens.to(keys.dtype)]),
                torch.cat([encoding, places.to(encoding.dtype)]),
                len(tokens),
            )
        out = self.sam.memory_attention(curr=[current], curr_pos=[position], memory=keys, memory_pos=encoding, num_obj_ptr_tokens=pointing)
        return out.permute(1, 2, 0).reshape(objects, -1, height, width)

    def _pointer_tokens(self, pointers: Tensor, distances: Tensor | None, farthest: int, channels: int) -> tuple[Tensor, Tensor]:
        """Pointers (O, M, C) cut into memory tokens as wide as the spatial ones, and their temporal codes: both (M C / C', O, C')."""
        objects, slots, width = pointers.shape
        away = torch.ones(objects, slots, device=pointers.device) if distances is None else distances.to(pointers.device)
        code = self.sam.obj_ptr_tpos_proj(get_1d_sine_pe(away.float().flatten() / farthest, dim=width)).view(objects, slots, channels)
        parts = width // channels
        tokens = pointers.reshape(objects, slots * parts, channels)
        return tokens.transpose(0, 1), code.repeat_interleave(parts, dim=1).transpose(0, 1)

    def decode(
        self, attended: Tensor, features: SliceFeatures, prior: Tensor | None, boxes: Tensor | None, query: Tensor | None, memory: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Mask logits (O, 4h, 4w) and object scores (O,).

        Args:
            prior: Logits (O, 1, 4h, 4w) of the matched mask.
            boxes: (O, 4) left, top, right, bottom in pixels.
            query: ``<Seg>`` hidden states (O, query_dim).
            memory: As for `attend`; the query reads it.
        """
        objects = attended.shape[0]
        points = None
        if boxes is not None:
            labels = torch.tensor([[2, 3]], dtype=torch.int32, device=boxes.device).expand(objects, 2)
            points = (boxes.view(objects, 2, 2) * (self.config.encoded / self.config.image_size), labels)
        elif self.config.as_published:
            # Where nothing is pointed at, SAM2 was trained with a point that is none.
            nowhere = torch.zeros(objects, 1, 2, device=attended.device)
            points = (nowhere, -torch.ones(objects, 1, dtype=torch.int32, device=attended.device))
        sparse, dense = self.sam.sam_prompt_encoder(points=points, boxes=None, masks=prior)
        if points is None:
            # Without a prompt the encoder makes a batch of one.
            sparse = sparse.new_zeros(objects, 0, self.config.d_model)
            dense = dense.expand(objects, -1, -1, -1)
        if query is not None and self.config.use_query:
            token = self.query_mlp(query)[:, None]
            slots = memory.permute(0, 1, 3, 4, 2).flatten(1, 3)
            token = token + self.query_attention(token, slots, slots, need_weights=False)[0]
            sparse = torch.cat([sparse, token.to(sparse.dtype)], dim=1)
        # Tracking with no prompt but its memory, SAM2.1 gives three masks and says which is best.
        several = self.config.as_published and boxes is None and prior is None
        masks, worth, _, score = self.sam.sam_mask_decoder(
            image_embeddings=attended,
            image_pe=self.sam.sam_prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=several,
            repeat_image=False,
            high_res_features=[features.high, features.mid],
        )
        best = worth.argmax(1) if several else torch.zeros(objects, dtype=torch.long, device=masks.device)
        logits = masks[torch.arange(objects, device=masks.device), best].float()
        if self.config.residual and prior is not None:
            logits = logits + prior[:, 0]
        return logits, score[:, 0].float()

    def upsampled(self, logits: Tensor) -> Tensor:
        """Logits (O, 4h, 4w) at the slices' own resolution (O, S, S)."""
        return F.interpolate(logits[:, None], size=(self.config.image_size,) * 2, mode="bilinear", align_corners=False)[:, 0]
