"""The three stages of RAU's recipe as losses: supervised fine-tuning, segmentation, GRPO."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import generalized_box_iou_loss

from ..localization.vlm.answers_text import MalformedAnswer, NamedBox, read_boxes
from ..localization.vlm.full_size import FullSizeVlm
from ..localization.vlm.prompts import clean
from ..models.device import autocast
from ..segmentation.sam2 import MemorySegmenter, plain_attention
from .joint import box_iou, dice, mask_loss
from .planes import PlanePair
from .recipe_config import Stage, StageSettings
from .recipe_samples import Names, Sample, boxes_question, make_sample, question

WEIGHTS = {
    Stage.SFT: {"text": 1.0, "presence": 0.5, "box": 0.7},
    Stage.SEGMENTATION: {"mask": 1.0, "empty": 0.5, "score": 0.2},
    Stage.GRPO: {"policy": 1.0},
}
# Format counts least: it is learned first, and is worth nothing without a right box.
_REWARDS = {"format": 0.2, "box": 1.0, "dice": 1.0}


class Trainee(nn.Module):
    """A model in one stage: all that the stage doesn't learn is frozen."""

    def __init__(self, vlm: FullSizeVlm, segmenter: MemorySegmenter, stage: Stage, settings: StageSettings, names: Names) -> None:
        super().__init__()
        self.vlm, self.segmenter = vlm, segmenter
        # The backbone is no part of the vlm, and must be one of what is trained.
        self.language = vlm.backbone.model
        self.stage, self._settings, self._names = stage, settings, names
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(self._learned(name))
        self._hook = vlm.special.register_hook(self._only_seg) if stage is Stage.SEGMENTATION else None

    def _learned(self, name: str) -> bool:
        adapter = name.startswith("language.") and "lora_" in name
        if self.stage is Stage.SFT:
            return adapter or name.startswith("vlm.")
        if self.stage is Stage.SEGMENTATION:
            return name == "vlm.special" or name.startswith(("segmenter.query_", "segmenter.sam.sam_mask_decoder."))
        return adapter

    @staticmethod
    def _only_seg(gradient: Tensor) -> Tensor:
        # Row 0 is <Loc>, whose answers this stage must not change.
        return gradient * torch.tensor([[0.0], [1.0]], device=gradient.device)

    def leave(self) -> None:
        """Undo what is of this stage alone."""
        if self._hook is not None:
            self._hook.remove()

    def forward(self, planes: list[PlanePair], objects: list[list[int]], rng: np.random.Generator) -> dict[str, Tensor]:
        """Losses of a step on some pairs of slices, and figures for the log; means over the pairs."""
        device = self.vlm.special.device
        parts: dict[str, list[Tensor]] = {}
        for plane, labels in zip(planes, objects, strict=True):
            sample = make_sample(self.segmenter, plane, labels, self._names, device)
            if self.stage is Stage.SFT:
                found = self._fine_tuning(sample, rng)
            elif self.stage is Stage.SEGMENTATION:
                found = self._segmentation(sample, rng)
            else:
                found = self._policy(sample)
            for key, value in found.items():
                parts.setdefault(key, []).append(value)
        return {key: torch.stack(values).mean() for key, values in parts.items()}

    def _fine_tuning(self, sample: Sample, rng: np.random.Generator) -> dict[str, Tensor]:
        answers = self.vlm.read(sample.pair)
        counted, present = sample.counted.float(), sample.present
        out = {
            "presence": (F.binary_cross_entropy_with_logits(answers.presence, present.float(), reduction="none") * counted).mean(),
            "box": answers.boxes.sum() * 0.0,
        }
        if present.any():
            boxes, wanted = answers.boxes[present], sample.wanted[present]
            out["box"] = (boxes - wanted).abs().sum(1).mean() * 2 + generalized_box_iou_loss(boxes, wanted, reduction="mean")
            with torch.no_grad():
                out["box_iou"] = box_iou(boxes, wanted).mean()
                out["box_iou_matched"] = box_iou(sample.pair.evidence.matched_box[present], wanted).mean()
        prompt, answer = question(self.vlm, sample, rng)
        logits, said = self.vlm.backbone.answer_logits(self.vlm.backbone.encode(prompt, answer, end=True))
        out["text"] = F.cross_entropy(logits, said)
        return out

    def _segmentation(self, sample: Sample, rng: np.random.Generator) -> dict[str, Tensor]:
        answers = self.vlm.read(sample.pair)
        logits, score = masks_of(self.segmenter, sample, answers.queries, answers.boxes.detach(), with_prior=rng.random() < 0.6)
        truth, present = sample.truth.float(), sample.present.float()
        empty = (sample.truth.flatten(1).sum(1) == 0).float()
        out = {
            "mask": (mask_loss(logits, truth) * present).sum() / present.sum().clamp(min=1),
            "empty": (F.softplus(logits).flatten(1).mean(1) * empty).sum() / empty.sum().clamp(min=1),
            "score": (F.binary_cross_entropy_with_logits(score, present, reduction="none") * sample.counted).mean(),
        }
        if sample.present.any():
            out["dice"] = dice((logits > 0)[sample.present], sample.truth[sample.present]).mean().detach()
        return out

    def _policy(self, sample: Sample) -> dict[str, Tensor]:
        """Policy gradient with advantages within a group of answers to one question; one update a group, so nothing is clipped."""
        settings, backbone = self._settings, self.vlm.backbone
        prompt = boxes_question(self.vlm, sample)
        said = backbone.say(prompt, settings.tokens, temperature=settings.temperature, count=settings.group)
        rewards = [reward(self.segmenter, sample, text) for text in said]
        totals = torch.tensor([sum(_REWARDS[key] * value for key, value in one.items()) for one in rewards])
        advantages = (totals - totals.mean()) / (totals.std() + 1e-4)
        losses = []
        for text, advantage in zip(said, advantages.tolist(), strict=True):
            logits, tokens = backbone.answer_logits(backbone.encode(prompt, text, end=True))
            likely = -F.cross_entropy(logits, tokens)
            losses.append(-advantage * likely)
        out = {"policy": torch.stack(losses).mean(), "reward": totals.mean()}
        return out | {key: torch.tensor(float(np.mean([one[key] for one in rewards]))) for key in _REWARDS}


def masks_of(
    segmenter: MemorySegmenter, sample: Sample, queries: Tensor | None, boxes: Tensor | None, *, with_prior: bool
) -> tuple[Tensor, Tensor]:
    """Mask logits (S, H, W) and object scores (S,), with the reference's masks in memory; boxes are shares of the image."""
    size, device = segmenter.config.image_size, sample.truth.device
    count, cells = len(sample.truth), sample.features.low.shape[-1]
    target, reference = (sample.features.take(torch.full((count,), index, device=device)) for index in (0, 1))
    with autocast(device), plain_attention():
        with torch.no_grad():
            memory = segmenter.memorize(reference, sample.region[:, None].float())[:, None]
            attended = segmenter.attend(target, memory)
        hint = None
        if with_prior:
            hint = torch.logit(F.adaptive_avg_pool2d(sample.prior, 4 * cells).clamp(0.02, 0.98))[:, None]
        logits, score = segmenter.decode(attended, target, hint, None if boxes is None else boxes * size, queries, memory)
    return segmenter.upsampled(logits.float().clamp(-20, 20)), score.float()


@torch.no_grad()
def reward(segmenter: MemorySegmenter, sample: Sample, text: str) -> dict[str, float]:
    """What an answer with boxes is worth, each 0 to 1: whether it can be read, IoU of its boxes, Dice of the masks that they lead to.

    A structure that is there and has no box, and one that has a box and is not there, count as 0; one that is rightly left out as 1.
    """
    names = [clean(name) for name in sample.pair.names]
    try:
        found = {one.label: one for one in read_boxes(text, names)}
    except MalformedAnswer:
        return {"format": 0.0, "box": 0.0, "dice": 0.0}
    return {"format": 1.0, **_judged(segmenter, sample, [found.get(name) for name in names])}


def _judged(segmenter: MemorySegmenter, sample: Sample, found: list[NamedBox | None]) -> dict[str, float]:
    device = sample.wanted.device
    boxes = torch.tensor([one.box if one else (0.0, 0.0, 1.0, 1.0) for one in found], device=device)
    given = torch.tensor([one is not None for one in found], device=device)
    right = (~given & ~sample.present).float()
    both = given & sample.present
    overlap = box_iou(boxes, sample.wanted) * both
    masks = masks_of(segmenter, sample, None, boxes, with_prior=False)[0] > 0
    alike = dice(masks, sample.truth) * both
    counted = sample.counted.float()
    return {
        key: float(((value + right) * counted).sum() / counted.sum().clamp(min=1)) for key, value in (("box", overlap), ("dice", alike))
    }
