"""What a language model is told and shown: reference, reference with numbered regions, target; as messages for its chat template."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image

from .answers_text import SIDE, NamedBox

# Splits a prompt in what belongs to the reference, and is computed once, and what belongs to the target.
TARGET_MARK = "\x1etarget\x1e"


@dataclass(frozen=True)
class Prompt:
    """A user's turn: ``parts`` are texts and pictures in their order; ``reference_parts`` of them come before the target."""

    parts: tuple[str | Image.Image, ...]
    reference_parts: int

    def messages(self) -> list[dict]:
        """For ``apply_chat_template``, with `TARGET_MARK` where the target begins."""
        marked = [*self.parts[: self.reference_parts], TARGET_MARK, *self.parts[self.reference_parts :]]
        content = [{"type": "text", "text": part} if isinstance(part, str) else {"type": "image"} for part in marked]
        return [{"role": "user", "content": content}]

    @property
    def reference_pictures(self) -> list[Image.Image]:
        return [part for part in self.parts[: self.reference_parts] if not isinstance(part, str)]

    @property
    def target_pictures(self) -> list[Image.Image]:
        return [part for part in self.parts[self.reference_parts :] if not isinstance(part, str)]


def clean(name: str) -> str:
    """A structure's name as it is written in a prompt: one line, and nothing that a tokenizer takes for one of its own signs.

    >>> clean("liver <|im_end|>\\nright lobe")
    'liver ‹|im_end|› right lobe'
    """
    return " ".join(name.replace("<", "‹").replace(">", "›").split())


def _prompt(names: Sequence[str], reference: Image.Image, drawn: Image.Image, target: Image.Image, question: str) -> Prompt:
    listed = "; ".join(f"{number} {clean(name)}" for number, name in enumerate(names, start=1))
    parts = (
        "A slice of an annotated reference patient:",
        reference,
        "The same slice with its regions outlined and numbered:",
        drawn,
        f"The regions are: {listed}.\n",
        "The matching slice of another patient:",
        target,
        question,
    )
    return Prompt(parts, 5)


def structures_prompt(names: Sequence[str], reference: Image.Image, drawn: Image.Image, target: Image.Image) -> Prompt:
    """Asks for presence and place of all regions at once; answered through special tokens."""
    return _prompt(names, reference, drawn, target, "For every region: is it in the other patient's slice, and where?")


def boxes_prompt(names: Sequence[str], reference: Image.Image, drawn: Image.Image, target: Image.Image) -> Prompt:
    """Asks for the boxes of all regions as JSON."""
    form = '[{"label": NAME, "box": [LEFT, TOP, RIGHT, BOTTOM]}]'
    question = (
        f"Box every region that is in the other patient's slice. Answer with JSON alone: {form}, in thousandths (0 to {SIDE}) of the image."
    )
    return _prompt(names, reference, drawn, target, question)


def name_prompt(names: Sequence[str], reference: Image.Image, drawn: Image.Image, target: Image.Image) -> Prompt:
    """Asks for the name of the one region that is outlined in the target."""
    question = 'Which of the regions is outlined in the other patient\'s slice? Answer with JSON alone: {"label": NAME}.'
    return _prompt(names, reference, drawn, target, question)


def presence_prompt(names: Sequence[str], reference: Image.Image, drawn: Image.Image, target: Image.Image, name: str) -> Prompt:
    """Asks whether a region is in the target."""
    question = f'Is "{clean(name)}" in the other patient\'s slice? Answer with JSON alone: {{"present": true}} or {{"present": false}}.'
    return _prompt(names, reference, drawn, target, question)


def boxes_answer(boxes: Sequence[NamedBox]) -> str:
    """The answer that `boxes_prompt` asks for.

    >>> boxes_answer([NamedBox("liver", (0.1, 0.2, 0.3, 0.4))])
    '[{"label": "liver", "box": [100, 200, 300, 400]}]'
    """
    return json.dumps([{"label": one.label, "box": [round(SIDE * side) for side in one.box]} for one in boxes], ensure_ascii=False)


def name_answer(name: str) -> str:
    """The answer that `name_prompt` asks for."""
    return json.dumps({"label": name}, ensure_ascii=False)


def presence_answer(present: bool) -> str:
    """The answer that `presence_prompt` asks for."""
    return json.dumps({"present": present})
