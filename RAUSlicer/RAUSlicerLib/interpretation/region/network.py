"""The region network: anatomy queries look at the patches of an image and say where their region is and what it looks like.

Queries see patches and patches never see queries, so what is asked changes nothing of what is seen. Only leaves of the anatomy graph have
a query of their own; a parent's is the mean of its children's. Queries don't see each other either: a region's answer does not depend on
which others are asked.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True)
class RegionConfig:
    """Sizes of a region network; with what the scoring needs to know, the ``config.json`` of its checkpoint folder.

    ``nodes`` are (name, parent's name) with parents before children, the parent empty at a root; a name is ``graph/id``.
    """

    nodes: tuple[tuple[str, str], ...] = (("image/whole", ""),)
    image_size: int = 96
    patch: int = 8
    dim: int = 96
    heads: int = 4
    layers: int = 3
    query_layers: int = 2
    text_width: int = 512
    text_version: int = 1
    embedding: int = 96

    @classmethod
    def from_dict(cls, values: Mapping) -> RegionConfig:
        known = {key: values[key] for key in cls.__dataclass_fields__ if key in values}
        known["nodes"] = tuple((str(name), str(parent)) for name, parent in known.get("nodes", cls.nodes))
        return cls(**known)

    def to_dict(self) -> dict:
        return {"model_type": "rau_region", **asdict(self)}

    @property
    def cells(self) -> int:
        """Patches along a side."""
        return self.image_size // self.patch


@dataclass(frozen=True)
class Seen:
    """Patches of images: ``tokens`` (B, P, D), and ``local`` (B, P, E), what each looks like in the space of phrases; not normalized."""

    tokens: Tensor
    local: Tensor


@dataclass(frozen=True)
class Regions:
    """Answers of the queries, one a node.

    ``tokens`` (B, N, D); ``boxes`` (B, N, 4), centre x, centre y, width, height as fractions of the image; ``visible`` (B, N) logits;
    ``attention`` (B, N, P), where each looks, of sum 1; ``content`` (B, N, E), what it sees there; ``embeddings`` (B, N, E), of length 1.
    """

    tokens: Tensor
    boxes: Tensor
    visible: Tensor
    attention: Tensor
    content: Tensor
    embeddings: Tensor


def attend(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """Attention of ``q`` (B, N, D) over ``k`` and ``v`` (B, P, D); spelled out, since flash attention is slow backwards on CPUs."""

    def split(x: Tensor) -> Tensor:
        return x.view(x.shape[0], x.shape[1], heads, -1).transpose(1, 2)

    weights = (split(q) @ split(k).transpose(-1, -2) / math.sqrt(q.shape[-1] // heads)).softmax(-1)
    return (weights @ split(v)).transpose(1, 2).flatten(2)


def _mlp(dim: int, out: int | None = None, times: int = 3) -> nn.Sequential:
    return nn.Sequential(nn.Linear(dim, times * dim), nn.GELU(), nn.Linear(times * dim, out or dim))


class _PatchLayer(nn.Module):
    """Patches see patches."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.first, self.second = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.qkv, self.out, self.mlp = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim), _mlp(dim)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.first(x)).chunk(3, -1)
        x = x + self.out(attend(q, k, v, self.heads))
        return x + self.mlp(self.second(x))


class _QueryLayer(nn.Module):
    """Queries see patches, and nothing else."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.first, self.second, self.seen = nn.LayerNorm(dim), nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.q, self.kv, self.out, self.mlp = nn.Linear(dim, dim), nn.Linear(dim, 2 * dim), nn.Linear(dim, dim), _mlp(dim)

    def forward(self, queries: Tensor, patches: Tensor) -> Tensor:
        k, v = self.kv(self.seen(patches)).chunk(2, -1)
        queries = queries + self.out(attend(self.q(self.first(queries)), k, v, self.heads))
        return queries + self.mlp(self.second(queries))


class RegionNet(nn.Module):
    """Encoder of patches, anatomy queries, heads for boxes, and projections to the space of phrases."""

    shares: Tensor
    places: Tensor

    def __init__(self, config: RegionConfig) -> None:
        super().__init__()
        self.config = config
        dim = config.dim
        if config.patch != 8:
            raise ValueError(f"Patches of {config.patch} pixels: the stem halves three times, so they are 8 pixels wide.")
        self.stem = nn.Sequential(
            nn.Conv2d(1, dim // 4, 3, 2, 1),
            nn.GroupNorm(4, dim // 4),
            nn.GELU(),
            nn.Conv2d(dim // 4, dim // 2, 3, 2, 1),
            nn.GroupNorm(4, dim // 2),
            nn.GELU(),
            nn.Conv2d(dim // 2, dim, 3, 2, 1),
        )
        self.position = nn.Parameter(torch.randn(1, config.cells**2, dim) * 0.02)
        # The learned positions start small and say little after a short training: queries found nothing by place until these were added.
        self.register_buffer("places", place_code(config.cells, dim), persistent=False)
        self.layers = nn.ModuleList(_PatchLayer(dim, config.heads) for _ in range(config.layers))
        self.norm = nn.LayerNorm(dim)
        shares = leaf_shares(config.nodes)
        self.queries = nn.Parameter(torch.randn(shares.shape[1], dim) * 0.5)
        self.register_buffer("shares", shares, persistent=False)
        self.query_layers = nn.ModuleList(_QueryLayer(dim, config.heads) for _ in range(config.query_layers))
        self.query_norm = nn.LayerNorm(dim)
        self.box, self.visible = _mlp(dim, 4, 1), nn.Linear(dim, 1)
        self.where, self.place = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.local = nn.Linear(dim, config.embedding)
        self.from_token = nn.Linear(dim, config.embedding)
        self.from_image = nn.Linear(dim, config.embedding)
        self.image = nn.Linear(dim, config.embedding)
        self.text = nn.Linear(config.text_width, config.embedding, bias=False)
        # Of similarities to phrases: regions, images, and patches under one phrase.
        self.log_scale = nn.Parameter(torch.tensor([math.log(12.0), math.log(12.0), math.log(8.0)]))

    def see(self, images: Tensor) -> Seen:
        """Patches of images (B, 1, S, S) with intensities of about mean 0 and spread 1."""
        return self.seen(self.encode(images))

    def encode(self, images: Tensor) -> Tensor:
        """The encoder alone: patches (B, P, D)."""
        x = self.stem(images).flatten(2).transpose(1, 2) + self.position  # (B, P, D)
        for layer in self.layers:
            x = layer(x)
        return self.norm(x)

    def seen(self, tokens: Tensor) -> Seen:
        """Patches (B, P, D) that the encoder has made, with their places, and what they look like."""
        tokens = tokens + self.places
        return Seen(tokens, self.local(tokens))

    def node_queries(self) -> Tensor:
        """The queries (N, D) of all nodes: learned at leaves, the mean of the children's above them."""
        return self.shares @ self.queries

    def ask(self, seen: Seen) -> Regions:
        """What every node's query finds in the patches."""
        tokens = self.node_queries().expand(seen.tokens.shape[0], -1, -1)
        for layer in self.query_layers:
            tokens = layer(tokens, seen.tokens)
        tokens = self.query_norm(tokens)
        logits = self.where(tokens) @ self.place(seen.tokens).transpose(1, 2) / math.sqrt(tokens.shape[-1])
        attention = logits.float().softmax(-1)
        content = attention.to(seen.local.dtype) @ seen.local
        context = self.from_token(tokens) + self.from_image(seen.tokens.mean(1, keepdim=True))
        if self.training:
            # Without these drops, few pictures are learned by heart from their context and the region's own look is left unused.
            context = context * (torch.rand(*context.shape[:2], 1, device=context.device) < 0.5)
        embeddings = F.normalize((content + context).float(), dim=-1)
        return Regions(tokens, self.box(tokens).float().sigmoid(), self.visible(tokens)[..., 0].float(), attention, content, embeddings)

    def image_embedding(self, seen: Seen) -> Tensor:
        """What the whole image looks like, (B, E), of length 1."""
        return F.normalize(self.image(seen.tokens.mean(1)).float(), dim=-1)

    def phrases(self, features: Tensor) -> Tensor:
        """Phrases (K, E) of length 1, from `text.encode`'s vectors (K, W)."""
        return F.normalize(self.text(features).float(), dim=-1)

    def ground(self, seen: Seen, phrases: Tensor) -> Tensor:
        """How well every patch fits every phrase, (B, K, P), cosines."""
        return phrases @ F.normalize(seen.local.float(), dim=-1).transpose(1, 2)

    def ground_by_regions(self, regions: Regions, phrases: Tensor, among: Sequence[int]) -> Tensor:
        """Where the regions look that fit a phrase best, (B, K, P) of sum 1: their attention, shared out by how well each fits.

        ``among`` numbers the nodes that count; those that were never shown their region would only blur the map.
        """
        fit = regions.embeddings[:, among] @ phrases.t() * self.log_scale[0].clamp(max=4.0).exp()  # (B, N, K)
        shares = (fit + F.logsigmoid(regions.visible[:, among])[..., None]).softmax(1)
        return shares.transpose(1, 2) @ regions.attention[:, among]

    def image_scores(self, seen: Seen, phrases: Tensor) -> tuple[Tensor, Tensor]:
        """How well images fit phrases, twice (B, K): as a whole, and by the patches that fit each phrase best."""
        whole = self.image_embedding(seen) @ phrases.t()
        patches = self.ground(seen, phrases)
        best = (patches * self.log_scale[2].exp()).softmax(-1)
        return whole, (best * patches).sum(-1)


def place_code(cells: int, dim: int) -> Tensor:
    """Sines and cosines of the places of ``cells`` x ``cells`` patches, (P, D), half of them along each side."""
    at = (torch.arange(cells) + 0.5) / cells
    waves = torch.logspace(0, math.log10(cells / 2), dim // 4) * math.pi
    along = torch.cat([(at[:, None] * waves).sin(), (at[:, None] * waves).cos()], 1)
    rows, columns = along[:, None].expand(-1, cells, -1), along[None].expand(cells, -1, -1)
    return F.pad(torch.cat([rows, columns], -1).flatten(0, 1), (0, dim - 4 * (dim // 4)))


def leaf_shares(nodes: tuple[tuple[str, str], ...]) -> Tensor:
    """How much each leaf has in each node's query, (N, L): rows sum to 1, a parent's row is the mean of its children's.

    Raises:
        ValueError: a parent is not among the nodes, or comes after its child.
    """
    names = [name for name, _ in nodes]
    children: dict[str, list[str]] = {name: [] for name in names}
    for index, (name, parent) in enumerate(nodes):
        if parent:
            if parent not in names[:index]:
                raise ValueError(f"The node {name!r} comes before its parent {parent!r}.")
            children[parent].append(name)
    leaves = [name for name in names if not children[name]]
    rows: dict[str, Tensor] = {name: F.one_hot(torch.tensor(i), len(leaves)).float() for i, name in enumerate(leaves)}
    for name in reversed(names):
        if children[name]:
            rows[name] = torch.stack([rows[child] for child in children[name]]).mean(0)
    return torch.stack([rows[name] for name in names])
