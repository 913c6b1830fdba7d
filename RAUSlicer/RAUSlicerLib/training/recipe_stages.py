"""The three stages of RAU's recipe as losses: supervised fine-tuning, segmentation, GRPO."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import generalized_box_iou_loss

from ..device import autocast
from ..full_size.answers_text import MalformedAnswer, NamedBox, read_boxes
from ..full_size.prompts import clean
from ..full_size.slice_reader import FullSizeVlm
from ..rau.sam2 import MemorySegmenter, plain_attention
from .metrics import box_iou, dice
from .rau import mask_loss
from .recipe_config import Stage, StageSettings
from .recipe_model import Vlm
from .recipe_samples import Sample, Scene, boxes_question, question

WEIGHTS = {
    Stage.SFT: {"text": 1.0, "presence": 0.5, "box": 0.7},
    Stage.SEGMENTATION: {"mask": 1.0, "empty": 0.5, "score": 0.2},
    Stage.GRPO: {"policy": 1.0, "policy_box": 1.0, "policy_presence": 1.0},
}
# Format counts least: it is learned first, and is worth nothing without a right box.
_REWARDS = {"format": 0.2, "box": 1.0, "dice": 1.0}
# Of the pixels' cross-entropy beside Dice in the mask loss. Where cross-entropy leads (20 in `rau`), a pixel is drawn that is likelier in
# than out; the Dice of masks that reach .45 is best with pixels of half that probability, so such masks come out too small.
# Source: Lipton et al., Optimal thresholding of classifiers to maximize F1 measure (2014), which shows that half.
_PIXELS = 1.0


class Trainee(nn.Module):
    """A model in one stage: all that the stage doesn't learn is frozen."""

    def __init__(self, vlm: Vlm, segmenter: MemorySegmenter, stage: Stage, settings: StageSettings) -> None:
        super().__init__()
        self.vlm, self.segmenter = vlm, segmenter
        # A large backbone is no part of the vlm, and must be one of what is trained.
        self.language = vlm.backbone.model if isinstance(vlm, FullSizeVlm) else None
        self.stage, self._settings = stage, settings
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(self._learned(name))
        self._hook = vlm.special.register_hook(self._only_seg) if stage is Stage.SEGMENTATION else None

    def _learned(self, name: str) -> bool:
        adapter = "lora_" in name
        if self.stage is Stage.SFT:
            return adapter or (name.startswith("vlm.") and not name.startswith("vlm.language."))
        if self.stage is Stage.SEGMENTATION:
            return name == "vlm.special" or name.startswith(("segmenter.query_", "segmenter.sam.sam_mask_decoder."))
        return adapter or name.startswith(("vlm.box_head.", "vlm.presence_head."))

    @staticmethod
    def _only_seg(gradient: Tensor) -> Tensor:
        # Row 0 is <Loc>, whose answers this stage must not change.
        return gradient * torch.tensor([[0.0], [1.0]], device=gradient.device)

    def leave(self) -> None:
        """Undo what is of this stage alone."""
        if self._hook is not None:
            self._hook.remove()

    def forward(self, samples: list[Sample], rng: np.random.Generator) -> dict[str, Tensor]:
        """Losses of a step on some questions, and figures for the log; means over the questions."""
        parts: dict[str, list[Tensor]] = {}
        for sample in samples:
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
        if isinstance(self.vlm, FullSizeVlm):
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
            "mask": (mask_loss(logits, truth, _PIXELS) * present).sum() / present.sum().clamp(min=1),
            "empty": (F.softplus(logits).flatten(1).mean(1) * empty).sum() / empty.sum().clamp(min=1),
            "score": (F.binary_cross_entropy_with_logits(score, present, reduction="none") * sample.counted).mean(),
        }
        if sample.present.any():
            out["dice"] = dice((logits > 0)[sample.present], sample.truth[sample.present]).mean().detach()
        return out

    def _policy(self, sample: Sample) -> dict[str, Tensor]:
        """Policy gradients of presence and boxes, and of the answer in words where the model has words."""
        out = self._acted(sample)
        return out | self._spoken(sample, self.vlm) if isinstance(self.vlm, FullSizeVlm) else out

    def _acted(self, sample: Sample) -> dict[str, Tensor]:
        """The heads as a policy: boxes are drawn around the answered ones, presence by its probability; each is judged by itself.

        A structure's box changes nothing of another's reward, so advantages are taken a structure: one reward for all would bury them.
        """
        answers, draws = self.vlm.read(sample.pair), self._settings.draws
        boxes, present = answers.boxes, sample.present
        centre = boxes.detach()
        spread = self._settings.noise * (centre[:, 2:] - centre[:, :2]).clamp(min=0.02).repeat(1, 2)
        drawn = centre + spread * torch.randn(draws, *centre.shape, device=centre.device)
        overlap, alike = worth_of_boxes(self.segmenter, sample, drawn, answers.queries.detach())
        # In units of the spread, so that its size changes how far is looked and not how far is gone.
        likely = -0.5 * (((drawn - boxes) / spread) ** 2).mean(-1) * self._settings.noise
        out = {"policy_box": -(_advantages(overlap + alike) * likely * present).mean()}
        said = torch.rand(draws, len(boxes), device=centre.device) < answers.presence.detach().sigmoid()
        right = (said == present).float()
        cross = F.binary_cross_entropy_with_logits(answers.presence.expand(draws, -1), said.float(), reduction="none")
        out["policy_presence"] = (_advantages(right) * cross * sample.counted).mean()
        if present.any():
            out["drawn_iou"], out["drawn_dice"] = overlap[:, present].mean(), alike[:, present].mean()
            out["drawn_spread"] = (overlap + alike)[:, present].std(0).mean()
        return out

    def _spoken(self, sample: Sample, vlm: FullSizeVlm) -> dict[str, Tensor]:
        """Policy gradient with advantages within a group of answers to one question; one update a group, so nothing is clipped."""
        settings, backbone = self._settings, vlm.backbone
        prompt = boxes_question(vlm, sample)
        said = backbone.say(prompt, settings.tokens, temperature=settings.temperature, count=settings.group)
        rewards = [reward(self.segmenter, sample, text) for text in said]
        totals = torch.tensor([sum(_REWARDS[key] * value for key, value in one.items()) for one in rewards])
        losses = []
        for text, advantage in zip(said, _advantages(totals).tolist(), strict=True):
            logits, tokens = backbone.answer_logits(backbone.encode(prompt, text, end=True))
            likely = -F.cross_entropy(logits, tokens)
            losses.append(-advantage * likely)
        out = {"policy": torch.stack(losses).mean(), "reward": totals.mean()}
        return out | {key: torch.tensor(float(np.mean([one[key] for one in rewards]))) for key in _REWARDS}


def _advantages(worth: Tensor) -> Tensor:
    """Rewards (G, ...) of a group's answers against each other."""
    return (worth - worth.mean(0)) / (worth.std(0) + 1e-4)


@torch.no_grad()
def remember(segmenter: MemorySegmenter, sample: Sample) -> Scene:
    """The reference's masks in SAM2's memory and the target's slice that attended to them, for each structure; computed once a sample."""
    if not sample.scene:
        device = sample.truth.device
        target, reference = (sample.features.take(torch.full((len(sample.truth),), index, device=device)) for index in (0, 1))
        with autocast(device), plain_attention():
            region = sample.region[:, None].float()
            memory, pointers = segmenter.memorize(reference, region)[:, None], segmenter.point(reference, region)
            attended = segmenter.attend(target, memory, None if pointers is None else pointers[:, None])
        sample.scene.append(Scene(memory, attended))
    return sample.scene[0]


def masks_of(
    segmenter: MemorySegmenter,
    sample: Sample,
    queries: Tensor | None,
    boxes: Tensor | None,
    *,
    with_prior: bool,
) -> tuple[Tensor, Tensor]:
    """Mask logits (S, H, W) and object scores (S,), with the reference's masks in memory; boxes are shares of the image."""
    size, device = segmenter.config.image_size, sample.truth.device
    known = remember(segmenter, sample)
    target = sample.features.take(torch.zeros(len(sample.truth), dtype=torch.long, device=device))
    with autocast(device), plain_attention():
        hint = None
        if with_prior:
            cells = sample.features.low.shape[-1]
            hint = torch.logit(F.adaptive_avg_pool2d(sample.prior, 4 * cells).clamp(0.02, 0.98))[:, None]
        logits, score = segmenter.decode(known.attended, target, hint, None if boxes is None else boxes * size, queries, known.memory)
    return segmenter.upsampled(logits.float().clamp(-20, 20)), score.float()


@torch.no_grad()
def worth_of_boxes(segmenter: MemorySegmenter, sample: Sample, drawn: Tensor, queries: Tensor) -> tuple[Tensor, Tensor]:
    """IoU of drawn boxes (G, S, 4) and Dice of the masks that they lead to, without the prior: both (G, S), 0 where nothing is there."""
    overlap, alike = [], []
    for boxes in drawn:
        masks = masks_of(segmenter, sample, queries, boxes.clamp(0, 1), with_prior=False)[0] > 0
        overlap.append(box_iou(boxes, sample.wanted) * sample.present)
        alike.append(dice(masks, sample.truth) * sample.present)
    return torch.stack(overlap), torch.stack(alike)


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
