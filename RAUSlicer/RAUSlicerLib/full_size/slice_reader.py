"""RAU on a large backbone: shows it the slices, gives it the structures' tokens and reads presence, boxes and ``<Seg>`` queries."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Self

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.modules.module import _IncompatibleKeys

from ..rau.network import TOKENS_PER_STRUCTURE, Answers, MatchEvidence, Pictures, SlicePair, StructureHeads
from .answers_text import MalformedAnswer, read_name
from .backbone import TOKENS, Backbone
from .drawing import picture, with_regions
from .groups import Groups, seats
from .prompts import Prompt, clean, name_prompt, structures_prompt

KIND = "rau_full_size_vlm"
ADAPTER = "adapter."
# Tokens that a name may take; a model that goes on beyond is talking, not answering.
_SHORT = 64

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Lora:
    """A low-rank adapter: rank, scale, dropout while training, and the names of the linear layers that have one."""

    r: int = 8
    alpha: int = 16
    dropout: float = 0.01
    layers: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Lora:
        plain: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
        return cls(**plain)


@dataclass(frozen=True)
class FullSizeConfig:
    """The ``config.json`` of a full-size language model's checkpoint folder.

    ``backbone`` is the name of an installed backbone or the path of its folder, ``revision`` the fingerprint of its files, and
    ``first_token`` the number of tokens it knows. ``picture`` is the side of the pictures that it is shown in pixels, ``regions`` how many
    regions are drawn on one, and the reference is drawn anew every ``key_step`` slices.
    """

    backbone: str
    revision: str
    hidden_size: int
    vision_dim: int
    first_token: int
    picture: int = 448
    regions: int = 12
    key_step: int = 3
    lora: Lora | None = None

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> FullSizeConfig:
        known = {field.name: values[field.name] for field in fields(cls) if field.name in values}
        if known.get("lora") is not None:
            known["lora"] = Lora.from_dict(known["lora"])
        return cls(**known)

    def to_dict(self) -> dict[str, Any]:
        return {"model_type": KIND, "tokens": list(TOKENS), **asdict(self)}


class FullSizeVlm(StructureHeads):
    """Takes the place of ``RauVlm`` with a large backbone. Its own tensors are heads, tokens and adapter; the backbone's are not."""

    def __init__(self, config: FullSizeConfig, backbone: Backbone) -> None:
        super().__init__()
        self.config = config
        # In a tuple torch does not see it as a part of this module, so that it is neither moved nor saved with it.
        self._held = (backbone,)
        self._groups = Groups(config.regions)
        self.add_heads(config.vision_dim, config.hidden_size)
        if config.lora is not None:
            add_adapter(backbone.model, config.lora)

    @property
    def backbone(self) -> Backbone:
        return self._held[0]

    def placed(self, device: torch.device) -> Self:
        """Ready to answer, on the backbone's device: that is where there was room for it, whatever ``device`` the rest runs on."""
        return self.to(self.backbone.device).eval()

    def adapter(self) -> dict[str, Tensor]:
        """The adapter's tensors by their names in the backbone."""
        return {name: value for name, value in self.backbone.model.named_parameters() if "lora_" in name}

    def own_tensors(self) -> dict[str, Tensor]:
        """All that has to be saved."""
        return {**self.state_dict(), **{ADAPTER + name: value for name, value in self.adapter().items()}}

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> _IncompatibleKeys:
        """Take what `own_tensors` gave.

        Raises:
            RuntimeError: tensors are missing, unknown or of another shape.
        """
        heads = {key: value for key, value in state_dict.items() if not key.startswith(ADAPTER)}
        given = {key.removeprefix(ADAPTER): value for key, value in state_dict.items() if key.startswith(ADAPTER)}
        adapter = self.adapter()
        wrong = sorted(set(adapter) ^ set(given)) or [key for key, value in given.items() if value.shape != adapter[key].shape]
        if wrong and strict:
            raise RuntimeError(f"{len(wrong)} tensors of the adapter are missing, unknown or of another shape, for example {wrong[0]}")
        # What was computed of a reference was computed with other tensors.
        self.forget()
        with torch.no_grad():
            for key, value in given.items():
                adapter[key].copy_(value)
        return super().load_state_dict(heads, strict, assign)

    def read(self, pair: SlicePair) -> Answers:
        """Answers to one question, a group of structures after the other."""
        seen = picture(pair.pictures.target[pair.pictures.level], self.config.picture)
        # In training every question is of another reference, and nothing may be kept of it.
        groups = Groups(self.config.regions) if torch.is_grad_enabled() else self._groups
        divided = groups.divide(pair.pictures, pair.names)
        parts = [self._read_group(pair, groups, number, asked, seen) for number, asked in divided.items()]
        order = torch.tensor([index for asked in divided.values() for index in asked]).argsort().to(parts[0].boxes.device)
        return Answers(*(torch.cat([getattr(part, name) for part in parts])[order] for name in ("presence", "boxes", "queries")))

    def _read_group(self, pair: SlicePair, groups: Groups, number: int, asked: list[int], seen: Image.Image) -> Answers:
        key = self._key(pair.pictures)
        shown = groups.show(number, pair.pictures, pair.names, asked, key, self.config.picture)
        prompt = structures_prompt(shown.names, *shown.pictures, seen)
        named = seats(pair.names)
        encoded = self.backbone.encode(prompt, structure_text([shown.number(named[index]) for index in asked]), head=shown.head)
        shown.head = encoded.head
        rows, evidence = self.rows(pair, asked)
        owner = None if torch.is_grad_enabled() else pair.pictures.reference
        hidden = self.backbone.hidden(encoded, rows, owner, (key, tuple(shown.seats)), number)
        return self.answers(hidden.to(rows.device).view(len(asked), TOKENS_PER_STRUCTURE, -1), evidence)

    def _key(self, pictures: Pictures) -> int:
        """The reference's slice that is shown beside the one that is asked about."""
        step = self.config.key_step
        return min(pictures.level // step * step + step // 2, len(pictures.reference) - 1)

    def rows(self, pair: SlicePair, group: Sequence[int]) -> tuple[Tensor, MatchEvidence]:
        """The embeddings of a group's tokens (4 S, width), and its evidence, on this module's device."""
        index = torch.tensor(list(group), dtype=torch.long)
        device = self.special.device
        given = (pair.evidence.region, pair.evidence.heat, pair.evidence.region_box, pair.evidence.matched_box)
        evidence = MatchEvidence(*(value[index.to(value.device)].to(device).float() for value in given))
        tokens = self.structure_tokens(pair.reference.to(device).float(), pair.target.to(device).float(), evidence)
        return tokens.flatten(0, 1), evidence

    def prompt(
        self, make: Callable[..., Prompt], pictures: Pictures, names: Sequence[str], group: Sequence[int], **more: Any
    ) -> tuple[Prompt, int]:
        """A prompt of any form about the structures numbered ``group``, and the reference's slice that it shows."""
        key, side = self._key(pictures), self.config.picture
        masks = [pictures.mask(index, key) for index in group]
        image = pictures.reference[key]
        target = more.pop("target", None) or picture(pictures.target[pictures.level], side)
        shown = (picture(image, side), with_regions(image, masks, side), target)
        return make(names, *shown, **more), key

    def ask_name(self, pictures: Pictures, names: Sequence[str], mask: np.ndarray) -> str | None:
        """The name of a region (S, S) of the target; None if it answers nothing readable twice."""
        prompt, _ = self.prompt(name_prompt, pictures, names, range(len(names)), target=self.marked(pictures, mask))
        readable = [clean(one) for one in names]
        for attempt in (1, 2):
            # The likeliest answer would be the same again.
            said = self.backbone.say(prompt, _SHORT, temperature=0.0 if attempt == 1 else 0.7)[0]
            try:
                return names[readable.index(read_name(said, readable))]
            except MalformedAnswer as error:
                # Names of structures may stand in the answer, patients' do not; it is cut all the same.
                _log.info("Answer %d of the language model can't be read: %s", attempt, str(error)[:120])
        return None

    def marked(self, pictures: Pictures, mask: np.ndarray) -> Image.Image:
        """The target with one region outlined; numbered as the only one it has."""
        return with_regions(pictures.target[pictures.level], [mask], self.config.picture)

    def forget(self) -> None:
        """Let go of what was kept of a run."""
        self._groups.forget()
        self.backbone.forget()


def structure_text(numbers: Sequence[int]) -> str:
    """What stands in the answer's place while structures are asked about: each one's number and four tokens."""
    return "".join(f"{number}{''.join(TOKENS)}" for number in numbers)


def add_adapter(model: Any, lora: Lora) -> None:
    """Give the language model's linear layers an adapter, in float32. The vision tower gets none.

    Raises:
        ResourceError: the package ``peft`` is missing.
    """
    from ..errors import ResourceError

    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise ResourceError(
            "The package 'peft' is missing.", "This model has an adapter, which needs it.", "Install it: pip install 'rauslicer[train]'."
        ) from error
    vision = [name for name, _ in model.named_modules() if name.split(".")[-1] in ("visual", "vision_tower", "vision_model")]
    targets = [
        name
        for name, _ in model.named_modules()
        if name.split(".")[-1] in lora.layers and not any(name.startswith(f"{tower}.") for tower in vision)
    ]
    inject_adapter_in_model(
        LoraConfig(r=lora.r, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=targets, bias="none"), model
    )
    # New layers come in training mode, and would drop inputs at random.
    model.eval()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("lora_" in name)
        if "lora_" in name:
            parameter.data = parameter.data.float()
