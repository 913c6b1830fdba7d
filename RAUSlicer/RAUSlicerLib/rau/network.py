"""RAU's special tokens on a language model: one pass answers presence, box and ``<Seg>`` query of every structure of a slice.

The sequence of a slice is the reference's image tokens, the target's image tokens, then four tokens a structure: its region in the
reference, the matching evidence in the target, ``<Loc>`` and ``<Seg>``. Structures don't see each other, so that asking for one gives the
same answer as asking for all. Boxes are offsets to the matched box: an offset of zero is already the best simple guess.

Source: RAU (arXiv 2509.22404) for the tokens and heads; the evidence tokens are our own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Protocol, Self, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoConfig, AutoModel

TOKENS_PER_STRUCTURE = 4
# Region: box and area. MatchEvidence: box, area, mass, peak, ratio of areas, similarity of pooled features.
REGION_NUMBERS, EVIDENCE_NUMBERS = 5, 9


@dataclass(frozen=True)
class VlmConfig:
    """Sizes of the embedded vision-language model; the ``config.json`` of its checkpoint folder.

    ``backbone`` is a Hugging Face text configuration; ``vision_dim`` the width of the vision tower it shares with SAM2; ``image_tokens``
    the tokens along one side of an image.
    """

    vision_dim: int = 128
    image_tokens: int = 12
    backbone: dict = field(
        default_factory=lambda: {
            "model_type": "qwen3",
            "hidden_size": 192,
            "num_hidden_layers": 4,
            "num_attention_heads": 6,
            "num_key_value_heads": 3,
            "head_dim": 32,
            "intermediate_size": 512,
            "vocab_size": 16,
            "max_position_embeddings": 1024,
            "tie_word_embeddings": True,
        }
    )

    @classmethod
    def from_dict(cls, values: dict) -> VlmConfig:
        return cls(**{key: values[key] for key in cls.__dataclass_fields__ if key in values})

    def to_dict(self) -> dict:
        return {"model_type": "rau_vlm", **asdict(self)}


@dataclass(frozen=True)
class MatchEvidence:
    """What matching knows of the structures of one slice, S of them.

    ``region`` (S, h, w) is the reference's mask and ``heat`` (S, h, w) the matched probability on the vision tower's cells;
    ``region_box`` and ``matched_box`` (S, 4) are left, top, right, bottom as shares of the image.
    """

    region: Tensor
    heat: Tensor
    region_box: Tensor
    matched_box: Tensor


@dataclass(frozen=True)
class Pictures:
    """The slices themselves, for a model that looks at them and not only at the vision tower's features.

    ``reference`` and ``target`` (N, S, S) are the matched slices of a run, 0 to 1; ``level`` is the one that is asked about, and
    ``mask(structure, level)`` the mask (S, S) of a structure, by its number among those that are asked about, on a reference slice.
    """

    reference: np.ndarray
    target: np.ndarray
    level: int
    mask: Callable[[int, int], np.ndarray]


@dataclass(frozen=True)
class SlicePair:
    """One question: a target slice beside the reference slice that matches it, and S structures.

    ``reference`` and ``target`` are the vision tower's features (1, C, h, w); ``names`` are the structures' names.
    """

    reference: Tensor
    target: Tensor
    evidence: MatchEvidence
    names: tuple[str, ...]
    pictures: Pictures


@dataclass(frozen=True)
class Answers:
    """``presence`` logits (S,), ``boxes`` (S, 4) as shares of the image, ``queries`` (S, hidden)."""

    presence: Tensor
    boxes: Tensor
    queries: Tensor


@runtime_checkable
class SliceReader(Protocol):
    """A vision-language model of any size, as the localizer sees it."""

    def placed(self, device: torch.device) -> Self:
        """Itself, ready to answer; on that device, or where there is room for it."""

    def read(self, pair: SlicePair) -> Answers:
        """Answers to one question."""

    def forget(self) -> None:
        """Let go of what was kept of a run."""


class StructureHeads(nn.Module):
    """A structure's four tokens and the heads that read them: what RAU adds to a language model, whichever it is."""

    def add_heads(self, vision: int, width: int) -> None:
        """Make them for a vision tower and a language model of these widths."""
        self.region = nn.Sequential(nn.Linear(vision + REGION_NUMBERS, width), nn.GELU(), nn.Linear(width, width))
        self.evidence = nn.Sequential(nn.Linear(2 * vision + EVIDENCE_NUMBERS, width), nn.GELU(), nn.Linear(width, width))
        self.special = nn.Parameter(torch.randn(2, width) * 0.02)
        self.presence_head = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, 1))
        offset = nn.Linear(width, 4)
        self.box_head = nn.Sequential(nn.Linear(width, width), nn.GELU(), offset)
        nn.init.zeros_(offset.weight)
        nn.init.zeros_(offset.bias)

    def structure_tokens(self, reference: Tensor, target: Tensor, evidence: MatchEvidence) -> Tensor:
        """Region, evidence, ``<Loc>`` and ``<Seg>`` of every structure (S, 4, width); features are (1, C, h, w)."""
        structures = len(evidence.region)
        region = _pool(reference, evidence.region)
        heat = _pool(target, evidence.heat)
        area, matched_area = _area(evidence.region_box), _area(evidence.matched_box)
        mass = evidence.heat.flatten(1).sum(1)
        numbers = torch.stack([matched_area, mass.clamp(min=1e-2).log(), evidence.heat.flatten(1).amax(1)], dim=1)
        ratio = torch.log(mass.clamp(min=1e-2) / evidence.region.flatten(1).sum(1).clamp(min=1e-2))
        similarity = F.cosine_similarity(region, heat, dim=1)
        region_token = self.region(torch.cat([region, evidence.region_box, area[:, None]], dim=1))
        evidence_token = self.evidence(
            torch.cat([heat, region - heat, evidence.matched_box, numbers, ratio[:, None], similarity[:, None]], dim=1)
        )
        special = self.special.expand(structures, -1, -1)
        return torch.cat([region_token[:, None], evidence_token[:, None], special], dim=1)

    def answers(self, hidden: Tensor, evidence: MatchEvidence) -> Answers:
        """What the hidden states of the structures' tokens (S, 4, width) say."""
        location, query = hidden[:, 2], hidden[:, 3]
        return Answers(self.presence_head(location)[:, 0], _offset(evidence.matched_box, self.box_head(location)), query)


class RauVlm(StructureHeads):
    """A language model that reads two slices and the matching evidence."""

    def __init__(self, config: VlmConfig | None = None) -> None:
        super().__init__()
        self.config = config or VlmConfig()
        values = dict(self.config.backbone)
        text = AutoConfig.for_model(values.pop("model_type"), **values)
        text._attn_implementation = "sdpa"
        self.language = AutoModel.from_config(text)
        width, vision = text.hidden_size, self.config.vision_dim
        self.image = nn.Linear(vision, width)
        self.which = nn.Parameter(torch.randn(2, width) * 0.02)
        side = self.config.image_tokens
        self.place = nn.Parameter(torch.randn(side * side, width) * 0.02)
        self.add_heads(vision, width)

    def placed(self, device: torch.device) -> Self:
        """Itself on a device, ready to answer."""
        return self.to(device).eval()

    def read(self, pair: SlicePair) -> Answers:
        """Answers to one question."""
        return self(pair.reference, pair.target, pair.evidence)

    def forget(self) -> None:
        """Let go of what was kept of a run: nothing here."""

    def _image_tokens(self, features: Tensor, which: int) -> Tensor:
        """(1, C, h, w) -> (n, width)."""
        side = self.config.image_tokens
        pooled = F.adaptive_avg_pool2d(features, side)[0].flatten(1).t()
        return self.image(pooled) + self.place + self.which[which]

    def forward(self, reference: Tensor, target: Tensor, evidence: MatchEvidence) -> Answers:
        """Answers for one slice; ``reference`` and ``target`` are features (1, C, h, w) of the matched slices."""
        reference, target = reference.float(), target.float()
        structures = len(evidence.region)
        groups = self.structure_tokens(reference, target, evidence)
        images = torch.cat([self._image_tokens(reference, 0), self._image_tokens(target, 1)])
        sequence = torch.cat([images, groups.flatten(0, 1)])[None]
        hidden = self._read(sequence, len(images), structures)[len(images) :].view(structures, TOKENS_PER_STRUCTURE, -1)
        return self.answers(hidden, evidence)

    def _read(self, sequence: Tensor, images: int, structures: int) -> Tensor:
        """Hidden states (N, width). Image tokens see each other; a structure's see the images and what precedes them in its group."""
        length = sequence.shape[1]
        group = torch.cat([torch.full((images,), -1), torch.arange(structures).repeat_interleave(TOKENS_PER_STRUCTURE)])
        order = torch.arange(length)
        visible = (group[None] == -1) | ((group[:, None] == group[None]) & (order[:, None] >= order[None]))
        mask = torch.zeros(1, 1, length, length, dtype=sequence.dtype).masked_fill(~visible, torch.finfo(sequence.dtype).min)
        # All groups sit at the same position: their order carries no meaning.
        positions = torch.cat([torch.arange(images), images + torch.arange(TOKENS_PER_STRUCTURE).repeat(structures)])[None]
        device = sequence.device
        out = self.language(inputs_embeds=sequence, attention_mask=mask.to(device), position_ids=positions.to(device), use_cache=False)
        return out.last_hidden_state[0]


def _pool(features: Tensor, weight: Tensor) -> Tensor:
    """Features (1, C, h, w) averaged under weights (S, h, w) -> (S, C)."""
    weight = weight.flatten(1)
    return (weight @ features[0].flatten(1).t()) / weight.sum(1, keepdim=True).clamp(min=1e-3)


def _area(box: Tensor) -> Tensor:
    return (box[:, 2] - box[:, 0]).clamp(min=0) * (box[:, 3] - box[:, 1]).clamp(min=0)


def _offset(box: Tensor, offset: Tensor) -> Tensor:
    """Boxes moved by offsets (S, 4): shift of the centre in box sizes, log change of the size."""
    size = (box[:, 2:] - box[:, :2]).clamp(min=0.01)
    centre = (box[:, 2:] + box[:, :2]) / 2 + offset[:, :2] * size
    half = size * offset[:, 2:].clamp(-1.5, 1.5).exp() / 2
    return torch.cat([centre - half, centre + half], dim=1)


def boxes_of(masks: Tensor) -> Tensor:
    """Boxes (S, 4) of boolean masks (S, H, W): left, top, right, bottom as shares of the image; zeros where a mask is empty."""
    out = torch.zeros(len(masks), 4, device=masks.device)
    height, width = masks.shape[1:]
    for index, mask in enumerate(masks):
        rows, columns = mask.any(1).nonzero()[:, 0], mask.any(0).nonzero()[:, 0]
        if len(rows):
            out[index] = torch.tensor([columns[0] / width, rows[0] / height, (columns[-1] + 1) / width, (rows[-1] + 1) / height])
    return out


def matched_boxes(heat: Tensor, fallback: Tensor) -> Tensor:
    """Boxes of probabilities (S, H, W) at half of each one's peak; the fallback (S, 4) where there is next to no probability."""
    peak = heat.flatten(1).amax(1)
    boxes = boxes_of(heat > (0.5 * peak.clamp(min=0.1))[:, None, None])
    return torch.where((peak > 0.1)[:, None], boxes, fallback)
