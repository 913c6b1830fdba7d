"""A Hugging Face image-text-to-text model as RAU's backbone: prompts in, hidden states of special tokens or text out.

The special tokens are added to the tokenizer's end and never to the backbone's embedding: their vectors come from RAU's own networks and
take the place of what the embedding says. So the backbone's files stay as they were published.
"""

from __future__ import annotations

import hashlib
import inspect
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from .prompts import TARGET_MARK, Prompt

# Region, evidence, <Loc> and <Seg> of a structure; the order of `StructureHeads.structure_tokens`.
TOKENS = ("<|rau_region|>", "<|rau_evidence|>", "<|rau_loc|>", "<|rau_seg|>")
# Pictures whose features are kept: a slice of the target, and the plain and the drawn reference of a few groups.
_REMEMBERED = 12
_PER_TOKEN = ("input_ids", "attention_mask", "mm_token_type_ids", "token_type_ids")


@dataclass(frozen=True)
class Encoded:
    """A prompt as a model takes it: ``head`` is the reference's part, ``tail`` the rest with the answer's ``answer`` last tokens.

    ``positions`` (3, 1, L) are given where a backbone counts rows and columns of images, as Qwen-VL does.
    """

    head: dict[str, Tensor]
    tail: dict[str, Tensor]
    answer: int
    positions: Tensor | None

    @property
    def split(self) -> int:
        return int(self.head["input_ids"].shape[1])

    def whole(self) -> dict[str, Tensor]:
        """Both parts as one input."""
        return _joined(self.head, self.tail)


@dataclass
class _Kept:
    """The reference's part of a prompt as the model keeps it; ``owner`` and ``key`` say which it is."""

    owner: object
    key: object
    cache: DynamicCache
    length: int


class Backbone:
    """A loaded model with its processor. No module of its own, so that whoever holds it doesn't save it."""

    def __init__(self, model: Any, processor: Any) -> None:
        self.model = model.eval()
        self.processor = processor
        self.tokenizer = processor.tokenizer
        self.first_token = len(self.tokenizer)
        self.tokenizer.add_tokens(list(TOKENS), special_tokens=True)
        self._rows: Tensor | None = None
        self._ids: Tensor | None = None
        self._kept: dict[int, _Kept] = {}
        embedding = self.model.get_input_embeddings()
        embedding.register_forward_pre_hook(self._before_embedding)
        embedding.register_forward_hook(self._after_embedding)
        self._seen: OrderedDict[bytes, Any] = OrderedDict()
        self._sees_once = "mm_encoder_outputs" in inspect.signature(model.model.forward).parameters
        # For tests and measurements: how often the reference's part was computed, and how many pictures the vision tower saw.
        self.heads_computed = 0
        self.pictures_seen = 0

    @property
    def hidden_size(self) -> int:
        return int(self.model.config.get_text_config().hidden_size)

    @property
    def device(self) -> torch.device:
        device: torch.device = self.model.get_input_embeddings().weight.device
        return device

    def encode(self, prompt: Prompt, answer: str, *, end: bool = False, head: dict[str, Tensor] | None = None) -> Encoded:
        """Tokens and pixels of a prompt with the beginning of the answer, or with the whole one and its ``end``.

        ``head`` is that of a prompt with the same reference's part, which is then not made again.
        """
        text = self.processor.apply_chat_template(prompt.messages(), add_generation_prompt=True, tokenize=False)
        before, after = text.split(TARGET_MARK)
        head = head if head is not None else self._processed(before, prompt.reference_pictures)
        tail = self._processed(after, prompt.target_pictures)
        ids = self.tokenizer(answer, add_special_tokens=False)["input_ids"] + ([self.tokenizer.eos_token_id] if end else [])
        said = torch.tensor([ids], dtype=torch.long, device=self.device).view(1, -1)
        for key in _PER_TOKEN:
            if key in tail:
                more = said if key == "input_ids" else torch.full_like(said, int(key == "attention_mask"))
                tail[key] = torch.cat([tail[key], more], dim=1)
        return Encoded(head, tail, len(ids), self._positions(_joined(head, tail)))

    def _processed(self, text: str, pictures: Sequence[Any]) -> dict[str, Tensor]:
        made = self.processor(text=[text], images=[list(pictures)], return_tensors="pt", add_special_tokens=False)
        return {key: value.to(self.device) for key, value in made.items()}

    def _positions(self, whole: dict[str, Tensor]) -> Tensor | None:
        if not hasattr(self.model.model, "get_rope_index"):
            return None
        given = {key: whole[key] for key in ("input_ids", "mm_token_type_ids", "image_grid_thw") if key in whole}
        positions: Tensor = self.model.model.get_rope_index(**given)[0]
        return positions

    def hidden(self, encoded: Encoded, rows: Tensor, owner: object = None, key: object = None, slot: int = 0) -> Tensor:
        """Hidden states (T, width), in float32, of the T special tokens, whose embeddings are ``rows`` (T, width).

        The reference's part is computed anew only where ``owner`` or ``key`` differ from the last call with this ``slot``; without an
        owner nothing is kept.
        """
        if owner is None:
            with self._embedded(rows):
                out = self._forward(encoded.whole(), encoded.positions, None).last_hidden_state
            return self._special(out, encoded.whole()["input_ids"])
        kept = self._kept.get(slot)
        at = encoded.split
        head, tail = (None, None) if encoded.positions is None else (encoded.positions[..., :at], encoded.positions[..., at:])
        if kept is None or kept.owner is not owner or kept.key != key:
            cache = DynamicCache(config=self.model.config.get_text_config())
            self._forward(encoded.head, head, cache)
            self.heads_computed += 1
            kept = _Kept(owner, key, cache, at)
        # An error halfway leaves some layers longer than others: then it is not kept.
        self._kept.pop(slot, None)
        with self._embedded(rows):
            out = self._forward(encoded.tail, tail, kept.cache).last_hidden_state
        kept.cache.crop(kept.length - kept.cache.get_seq_length())
        self._kept[slot] = kept
        return self._special(out, encoded.tail["input_ids"])

    def answer_logits(self, encoded: Encoded) -> tuple[Tensor, Tensor]:
        """Logits (n, vocabulary) of each of the answer's n tokens and the tokens themselves (n,): what is trained to say."""
        whole = encoded.whole()
        out = self._forward(whole, encoded.positions, None).last_hidden_state
        said = whole["input_ids"][0, -encoded.answer :]
        return self.model.lm_head(out[0, -encoded.answer - 1 : -1]).float(), said

    @torch.no_grad()
    def say(self, prompt: Prompt, most: int = 256, *, temperature: float = 0.0, count: int = 1) -> list[str]:
        """``count`` text answers of at most ``most`` tokens; at temperature 0 the likeliest one."""
        encoded = self.encode(prompt, "")
        whole = encoded.whole()
        sampling: dict[str, Any] = {"do_sample": temperature > 0, "num_return_sequences": count, "top_p": None, "top_k": None}
        sampling["temperature"] = temperature if temperature > 0 else None
        stop = self.tokenizer.eos_token_id
        padding = self.tokenizer.pad_token_id if self.tokenizer.pad_token_id is not None else stop
        training = self.model.training
        self.model.eval()
        try:
            out = self.model.generate(**whole, max_new_tokens=most, eos_token_id=stop, pad_token_id=padding, **sampling)
        finally:
            self.model.train(training)
        said: list[str] = self.tokenizer.batch_decode(out[:, whole["input_ids"].shape[1] :], skip_special_tokens=True)
        return said

    def forget(self) -> None:
        """Let go of the references' parts and of what was seen."""
        self._kept.clear()
        self._seen.clear()

    def _forward(self, part: dict[str, Tensor], positions: Tensor | None, cache: DynamicCache | None) -> Any:
        # Everything is attended to; a mask would have to be as long as what the cache holds, too.
        left_out = ("attention_mask", "mm_token_type_ids", "token_type_ids")
        given: dict[str, Any] = {key: value for key, value in part.items() if key not in left_out}
        if "pixel_values" in given:
            given["pixel_values"] = given["pixel_values"].to(self.model.dtype)
            if self._sees_once and "image_grid_thw" in given:
                given["mm_encoder_outputs"] = {"image": self._look(given.pop("pixel_values"), given["image_grid_thw"])}
        return self.model.model(**given, position_ids=positions, past_key_values=cache, use_cache=cache is not None)

    @torch.no_grad()
    def _look(self, pixels: Tensor, grids: Tensor) -> Any:
        """What the vision tower, which nothing trains, says of some pictures; of one that it has just seen, what it said then.

        Groups of structures are shown the same target and the same plain reference. ``pixels`` (n, d) lie flat, ``grids`` (P, 3) say how.
        """
        said = []
        for part, grid in zip(pixels.split(grids.prod(-1).tolist()), grids, strict=True):
            key = hashlib.sha256(part.float().cpu().numpy().tobytes() + repr(grid.tolist()).encode()).digest()
            if key not in self._seen:
                self._seen[key] = self.model.model.get_image_features(part, grid[None], return_dict=True)
                self.pictures_seen += 1
            self._seen.move_to_end(key)
            said.append(self._seen[key])
        while len(self._seen) > _REMEMBERED:
            self._seen.popitem(last=False)
        together: dict[str, Any] = {"pooler_output": tuple(feature for one in said for feature in one.pooler_output)}
        if getattr(said[0], "deepstack_features", None) is not None:
            layers = zip(*(one.deepstack_features for one in said), strict=True)
            together["deepstack_features"] = [tuple(feature for one in layer for feature in one) for layer in layers]
        return type(said[0])(**together)

    def _special(self, hidden: Tensor, ids: Tensor) -> Tensor:
        return hidden[0][ids[0] >= self.first_token].float()

    @contextmanager
    def _embedded(self, rows: Tensor) -> Iterator[None]:
        self._rows = rows
        try:
            yield
        finally:
            self._rows = None

    def _before_embedding(self, _module: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
        # The embedding has no rows for the special tokens, or rows that mean nothing.
        self._ids = given[0]
        return (given[0].masked_fill(given[0] >= self.first_token, 0), *given[1:])

    def _after_embedding(self, _module: nn.Module, _given: tuple[Any, ...], out: Tensor) -> Tensor:
        ids, self._ids = self._ids, None
        if ids is None or self._rows is None or not bool((special := ids >= self.first_token).any()):
            return out
        # Gradients must reach the rows, so nothing is written in place.
        return out.masked_scatter(special[..., None].expand_as(out), self._rows.to(out.dtype).to(out.device))


def _joined(head: dict[str, Tensor], tail: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tokens follow each other along the sequence; pixels along their first axis where images lie flat, as Qwen-VL's, else along images."""
    out = {}
    for key in head:
        along = 1 if key in _PER_TOKEN or (key.startswith("pixel") and head[key].ndim > 3) else 0
        out[key] = torch.cat([head[key], tail[key]], dim=along)
    return out
