"""Judges a model on val between the stages of the recipe, pair by pair, so that a gain over the stage before can be told from chance."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from ..full_size.slice_reader import FullSizeVlm
from ..rau.network import Answers
from ..support import strict_json
from ..support.outputs import make_folder, write_text
from .metrics import box_iou, dice
from .recipe_model import Opened, Say
from .recipe_samples import Questions, Sample
from .recipe_stages import masks_of

# What is kept of all stages, and the first that a run writes.
FIGURES = "val.json"
# Values of each figure, by the number of the pair they were taken on.
Judged = dict[str, dict[int, float]]

# Of a mean difference of pairs, in standard errors: chance alone goes beyond it in one of twenty.
_CHANCE = 2.0
# Less than this is 0.000 in what is said, and neither better nor worse.
_SEEN = 5e-4


@torch.no_grad()
def judge(opened: Opened, questions: Questions | None, count: int) -> Judged:
    """How well a model answers the first ``count`` questions on val. Empty without val people.

    ``named`` is 1 for a region that is called by its name: in words by a large model (also an answer that can't be read counts), by the
    structure whose box fits it best by the embedded one, which has no words.
    """
    if questions is None:
        return {}
    vlm, segmenter = opened.vlm.eval(), opened.segmenter.eval()
    figures: Judged = {}
    for number in range(count):
        sample = questions(number)
        answers = vlm.read(sample.pair)
        present, counted = sample.present, sample.counted
        found: dict[str, float] = {}
        if counted.any():
            found["presence"] = float(((answers.presence > 0) == present)[counted].float().mean())
        there = present.nonzero()[:, 0].tolist()
        if there:
            found["box_iou"] = float(box_iou(answers.boxes[present], sample.wanted[present]).mean())
            found["box_iou_matched"] = float(box_iou(sample.pair.evidence.matched_box[present], sample.wanted[present]).mean())
            for with_prior, key in ((True, "dice"), (False, "dice_memory")):
                logits, _ = masks_of(segmenter, sample, answers.queries, answers.boxes, with_prior=with_prior)
                found[key] = float(dice((logits > 0)[present], sample.truth[present]).mean())
            found["dice_matched"] = float(dice((sample.prior > 0.5)[present], sample.truth[present]).mean())
            found.update(_named(opened, sample, answers, there[number % len(there)]))
        for key, value in found.items():
            figures.setdefault(key, {})[number] = value
        vlm.forget()
    return figures


def _named(opened: Opened, sample: Sample, answers: Answers, asked: int) -> dict[str, float]:
    if isinstance(opened.vlm, FullSizeVlm):
        said = opened.vlm.ask_name(sample.pair.pictures, sample.pair.names, sample.truth[asked].cpu().numpy())
        return {"named": float(said == sample.pair.names[asked]), "readable": float(said is not None)}
    fits = box_iou(answers.boxes, sample.wanted[asked].expand_as(answers.boxes)) * answers.presence.sigmoid()
    matched = box_iou(sample.pair.evidence.matched_box, sample.wanted[asked].expand_as(answers.boxes))
    return {"named": float(int(fits.argmax()) == asked), "named_matched": float(int(matched.argmax()) == asked)}


def means(judged: Judged) -> dict[str, float]:
    """The mean of each figure."""
    return {key: round(float(np.mean(list(values.values()))), 4) for key, values in sorted(judged.items())}


def gains(before: Judged, after: Judged) -> dict[str, tuple[float, float]]:
    """Mean difference and its standard error over the pairs that both were judged on, for each figure that changed at all.

    Pairs of the same few people are not independent, so the true error is larger.

    >>> gains({"dice": {0: 0.5, 1: 0.6}}, {"dice": {0: 0.6, 1: 0.8}})
    {'dice': (0.15, 0.05)}
    """
    out = {}
    for key in sorted(set(before) & set(after)):
        both = sorted(set(before[key]) & set(after[key]))
        changes = np.array([after[key][number] - before[key][number] for number in both])
        if len(changes) > 1 and changes.any():
            out[key] = (round(float(changes.mean()), 4), round(float(changes.std(ddof=1) / np.sqrt(len(changes))), 4))
    return out


def note(output: Path, stage: str, judged: Judged, before: tuple[str, Judged] | None, say: Say) -> None:
    """Say a stage's figures beside those of the stage before, and keep them in ``val.json`` and ``val_pairs.json`` of the output."""
    make_folder(output)
    for name, values in ((FIGURES, means(judged)), ("val_pairs.json", judged)):
        path = output / name
        known = strict_json.load(path, any_number=True) if path.is_file() else {}
        known[str(stage)] = values
        write_text(path, "file", strict_json.dumps(known, indent=2 if name == FIGURES else None) + "\n")
    if not judged:
        say(f"{stage}: no val people, so nothing is judged")
        return
    changed = gains(before[1], judged) if before is not None else {}
    parts = []
    for key, value in means(judged).items():
        change = f" ({changed[key][0]:+.3f} \N{PLUS-MINUS SIGN} {changed[key][1]:.3f})" if key in changed else ""
        parts.append(f"{key} {value:.3f}{change}")
    say(f"{stage}: {', '.join(parts)}")
    if before is not None:
        better = [key for key, (mean, error) in changed.items() if mean > max(_CHANCE * error, _SEEN)]
        worse = [key for key, (mean, error) in changed.items() if -mean > max(_CHANCE * error, _SEEN)]
        say(f"{stage} against {before[0]}: better {', '.join(better) or 'nothing'}; worse {', '.join(worse) or 'nothing'} (beyond chance).")
