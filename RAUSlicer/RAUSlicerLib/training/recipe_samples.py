"""Questions on pairs of slices, as the localizer asks them, with their true answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..device import autocast
from ..full_size.answers_text import NamedBox
from ..full_size.prompts import Prompt, boxes_answer, boxes_prompt, clean, name_answer, name_prompt, presence_answer, presence_prompt
from ..full_size.slice_reader import FullSizeVlm
from ..rau.network import MatchEvidence, Pictures, SlicePair, boxes_of, matched_boxes
from ..rau.sam2 import MemorySegmenter, SliceFeatures
from .planes import PairSampler, PlanePair
from .rau import PRESENT, choose_objects

# By data set and label.
Names = Mapping[str, Mapping[int, str]]


@dataclass(frozen=True)
class Scene:
    """What SAM2 knows of a question before it is prompted: each structure's ``memory`` and the target ``attended`` with it."""

    memory: Tensor
    attended: Tensor


@dataclass(frozen=True)
class Sample:
    """A question with S structures: ``truth`` and ``region`` (S, H, W) are their masks on target and reference, ``prior`` (S, H, W) what
    matching found, ``wanted`` (S, 4) the true boxes. ``counted`` leaves out structures of which only a few pixels are there, and
    ``scene`` holds what `recipe_stages.remember` found, once it has been asked.
    """

    pair: SlicePair
    features: SliceFeatures
    truth: Tensor
    region: Tensor
    prior: Tensor
    wanted: Tensor
    present: Tensor
    counted: Tensor
    scene: list[Scene] = field(default_factory=list)


def make_sample(segmenter: MemorySegmenter, plane: PlanePair, labels: list[int], names: Names, device: torch.device) -> Sample:
    """A question about the structures with these labels; the vision tower is run, without gradients."""
    images = torch.stack([plane.target, plane.reference[0]])[:, None].to(device)
    with torch.no_grad(), autocast(device):
        features = segmenter.encode(images)
    truth = torch.stack([plane.target_labels == label for label in labels])
    region = torch.stack([plane.reference_labels[0] == label for label in labels])
    prior = torch.stack([(plane.prior_labels == label).float().mean(0) for label in labels])
    cells = features.low.shape[-1]
    drawn = boxes_of(region)
    matched = matched_boxes(F.avg_pool2d(prior[:, None], 2)[:, 0], drawn)
    pooled = [F.adaptive_avg_pool2d(value.float(), cells).to(device) for value in (region, prior)]
    evidence = MatchEvidence(pooled[0], pooled[1], drawn.to(device), matched.to(device))
    masks = region.numpy()
    pictures = Pictures(plane.reference[:1].numpy(), plane.target[None].numpy(), 0, lambda number, _: masks[number])
    known = names.get(plane.domain, {})
    named = tuple(known.get(label, f"structure {label}") for label in labels)
    pair = SlicePair(features.low[1:2].float(), features.low[:1].float(), evidence, named, pictures)
    area = truth.flatten(1).sum(1).to(device)
    return Sample(
        pair,
        features,
        truth.to(device),
        region.to(device),
        prior.to(device),
        boxes_of(truth).to(device),
        area >= PRESENT,
        (area >= PRESENT) | (area == 0),
    )


class Questions:
    """Samples of a split by their number: the same number is the same question, drawn and encoded once if it is ``kept``.

    No stage learns the vision tower or SAM2's memory, so what they say of a slice stays true; on a CPU that is most of a step.
    """

    def __init__(self, segmenter: MemorySegmenter, sampler: PairSampler, names: Names, seed: Sequence[int], *, kept: bool) -> None:
        self._segmenter, self._sampler, self._names, self._seed = segmenter, sampler, names, list(seed)
        self._kept: dict[int, Sample] | None = {} if kept else None

    def __call__(self, number: int) -> Sample:
        if self._kept is not None and number in self._kept:
            return self._kept[number]
        rng = np.random.default_rng([*self._seed, number])
        labels: list[int] = []
        while not labels:
            plane = self._sampler.draw(1, rng)
            labels = choose_objects(plane, rng)
        sample = make_sample(self._segmenter, plane, labels, self._names, self._segmenter.sam.maskmem_tpos_enc.device)
        if self._kept is not None:
            self._kept[number] = sample
        return sample


def true_boxes(sample: Sample) -> list[NamedBox]:
    """What `boxes_prompt` should be answered."""
    boxes = sample.wanted.tolist()
    there = [index for index, present in enumerate(sample.present.tolist()) if present]
    return [NamedBox(clean(sample.pair.names[index]), tuple(boxes[index])) for index in there]


def boxes_question(vlm: FullSizeVlm, sample: Sample) -> Prompt:
    """Asks for all boxes."""
    names = sample.pair.names
    return vlm.prompt(boxes_prompt, sample.pair.pictures, names, range(len(names)))[0]


def question(vlm: FullSizeVlm, sample: Sample, rng: np.random.Generator) -> tuple[Prompt, str]:
    """One of the recipe's questions with its answer: what is this region called, is X there, where is everything."""
    names, pictures = sample.pair.names, sample.pair.pictures
    group = range(len(names))
    there = [index for index, present in enumerate(sample.present.tolist()) if present]
    sure = [index for index, counted in enumerate(sample.counted.tolist()) if counted]
    kind = str(rng.choice(["name", "presence", "boxes"]))
    if kind == "name" and there:
        index = int(rng.choice(there))
        marked = vlm.marked(pictures, sample.truth[index].cpu().numpy())
        return vlm.prompt(name_prompt, pictures, names, group, target=marked)[0], name_answer(clean(names[index]))
    if kind == "presence" and sure:
        index = int(rng.choice(sure))
        prompt, _ = vlm.prompt(presence_prompt, pictures, names, group, name=names[index])
        return prompt, presence_answer(bool(sample.present[index]))
    return boxes_question(vlm, sample), boxes_answer(true_boxes(sample))
