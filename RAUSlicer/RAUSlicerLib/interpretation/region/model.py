"""Scores any phrase on any region of a 2D picture, boxes the regions, and shows where in the picture a phrase fits best."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from ...anatomy.terms import load_graph
from ...errors import InputError
from ..evidence import Score
from .network import RegionNet, Regions, Seen
from .phrases import Finding, load_knowledge
from .pictures import Letterbox, prepare
from .text import encode, negation

REGION_MODEL = "regions"
PART = "region"
# Pixels that a picture has at least along each side.
LEAST_SIDE = 16


@dataclass(frozen=True)
class Trust:
    """How well one finding was told on held-out pictures: the area under the ROC curve over ``n`` regions of ``patients`` people, with the
    bounds of its 95 % interval.
    """

    auc: float
    low: float
    high: float
    n: int
    patients: int


@dataclass(frozen=True)
class Look:
    """A picture that the network has seen, for any number of questions."""

    seen: Seen
    regions: Regions
    letterbox: Letterbox


@dataclass(frozen=True)
class Located:
    """Where a region is: ``box`` (x, y, width, height) in the picture's pixels; ``visible``, 0 to 1, whether it is in the picture."""

    region: str
    box: tuple[float, float, float, float]
    visible: float


@dataclass(frozen=True)
class RegionModel:
    """A region network with what is known of how far it can be trusted.

    ``trust`` is by ``graph/finding``. ``trained`` names the nodes (``graph/id``) that boxes and phrases were learned for; the others have
    a query that only consistency has shaped, and what they answer is worth little.
    """

    net: RegionNet
    trained: tuple[str, ...] = ()
    trust: dict[str, Trust] = field(default_factory=dict)

    @classmethod
    def load(cls, name: str = REGION_MODEL) -> RegionModel:
        """Open the region model of that name or folder, its checksums verified.

        Raises:
            ModelError: there is none, or it is damaged.
        """
        from ...models.checkpoint import load_config
        from ...models.opening import load_part
        from ...models.store import resolve

        folder = resolve(name)
        net = load_part(folder, PART, RegionNet)
        config = load_config(Path(folder.part(PART)))
        trust = {key: Trust(**values) for key, values in config.get("trust", {}).items()}
        return cls(net, tuple(config.get("trained", ())), trust)

    @property
    def regions(self) -> tuple[str, ...]:
        """Names (``graph/id``) of all nodes that have a query."""
        return tuple(name for name, _ in self.net.config.nodes)

    def look(self, picture: np.ndarray) -> Look:
        """See a gray picture (rows, columns), the patient's right on its left, bright where much is absorbed.

        Raises:
            InputError: it is not a gray picture, or empty.
        """
        if picture.ndim != 2 or min(picture.shape) < LEAST_SIDE:
            raise InputError(
                f"A picture of shape {tuple(picture.shape)} can't be looked at.",
                f"The region model sees gray pictures of at least {LEAST_SIDE} by {LEAST_SIDE} pixels.",
                "Give a radiograph, or one slice or projection of a volume.",
            )
        image, box = prepare(picture, self.net.config.image_size)
        with torch.inference_mode():
            seen = self.net.see(image)
            return Look(seen, self.net.ask(seen), box)

    def locate(self, look: Look, regions: Sequence[str] | None = None) -> tuple[Located, ...]:
        """Boxes of regions (``graph/id``), of all that it was trained on by default."""
        chosen = tuple(regions) if regions is not None else self.trained
        out = []
        for name, index in zip(chosen, self._numbers(chosen), strict=True):
            cx, cy, width, height = (float(value) for value in look.regions.boxes[0, index])
            visible = float(look.regions.visible[0, index].sigmoid())
            out.append(Located(name, look.letterbox.box_back((cx, cy, width, height)), visible))
        return tuple(out)

    def scores(self, look: Look, phrases: Sequence[str], regions: Sequence[str] | None = None) -> tuple[Score, ...]:
        """How well each phrase fits each region, against its own negation; regions in order, for each the phrases in order.

        Args:
            look: The picture.
            phrases: Any phrases in English.
            regions: Names (``graph/id``), all that it was trained on by default; a score carries the region's name in words.

        Raises:
            InputError: a region is unknown, or a phrase has no words.
        """
        chosen = tuple(regions) if regions is not None else self.trained
        with torch.inference_mode():
            said, denied = self._sides(phrases)
            embeddings = look.regions.embeddings[0, self._numbers(chosen)]
            values = torch.sigmoid((embeddings @ (said - denied).t()) * self.net.log_scale[0].clamp(max=4.0).exp())
        words = [self.spoken(name) for name in chosen]
        return tuple(Score(p, float(values[r, k]), words[r]) for r in range(len(chosen)) for k, p in enumerate(phrases))

    def ground(self, look: Look, phrase: str) -> np.ndarray:
        """Where in the picture a phrase fits: (rows, columns) on the picture's own pixels, 0 to 1 at the best place.

        It is where the regions look that the phrase fits best, so that it is no finer than they are.

        Raises:
            InputError: the phrase has no words.
        """
        with torch.inference_mode():
            cells = self.net.config.cells
            among = self._numbers(self.trained)
            patches = self.net.ground_by_regions(look.regions, self._sides([phrase])[0], among)[0, 0].view(cells, cells)
            return look.letterbox.back(patches / patches.max()).numpy()

    def spoken(self, region: str) -> str:
        """A region's name in words."""
        graph, node = region.split("/")
        return load_graph(graph).nodes[node].name

    def trusted(self, region: str, *, least: float = 0.5) -> tuple[Finding, ...]:
        """Findings of a region that were told better than by chance on held-out people: the interval lies above ``least``."""
        graph, node = region.split("/")
        known = load_knowledge(graph).of(node)
        return tuple(f for f in known if (trust := self.trust.get(f"{graph}/{f.id}")) is not None and trust.low > least)

    def _sides(self, phrases: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
        features = encode(phrases)
        empty = [phrase for phrase, row in zip(phrases, features, strict=True) if not row.any()]
        if empty:
            raise InputError(
                f"The phrase {empty[0]!r} can't be scored.",
                "It has no words that say something.",
                'Give an observation in English, for example "opacity in the left lower lung zone".',
            )
        return self.net.phrases(features), self.net.phrases(encode([negation(phrase) for phrase in phrases]))

    def _numbers(self, regions: Sequence[str]) -> list[int]:
        numbers = {name: i for i, name in enumerate(self.regions)}
        unknown = [name for name in regions if name not in numbers]
        if unknown:
            raise InputError(
                f"The region model has no region {unknown[0]!r}.",
                f"It knows {len(numbers)}, for example {', '.join(self.regions[:3])}.",
                "Choose one of `RegionModel.regions`; names are graph/node.",
            )
        return [numbers[name] for name in regions]
