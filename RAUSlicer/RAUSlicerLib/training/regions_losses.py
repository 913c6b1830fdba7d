"""Losses of the region model: boxes, phrases against regions and images, and anatomical consistency without any label."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import box_convert, generalized_box_iou_loss

from ..interpretation.region.network import Regions
from .regions_batches import FALSE, TRUE, Bank, Batch

# How often a region's positive phrase is its name, a finding it has, or the denial of one it has not.
_NAME, _HAS, _HAS_NOT = 0.3, 0.56, 0.14


def detection(regions: Regions, batch: Batch) -> dict[str, Tensor]:
    """Boxes of visible regions by L1 and generalized IoU, where their queries look, and whether a region is in the picture."""
    there = batch.visible == TRUE
    known = there | (batch.visible == FALSE)
    found, wanted = regions.boxes[there], batch.boxes[there]
    corners = [box_convert(b, "cxcywh", "xyxy") for b in (found, wanted)]
    cells = round(regions.attention.shape[-1] ** 0.5)
    target = coverage(wanted, cells)
    target = target / target.sum(1, keepdim=True).clamp_min(1e-6)
    attention = regions.attention[there].clamp_min(1e-6)
    return {
        # Kullback-Leibler divergence from the evenly covered box: a query looks at all of its region, not at what tells pictures apart.
        "attention": (target * (target.clamp_min(1e-6).log() - attention.log())).sum(1).mean(),
        "l1": F.l1_loss(found, wanted),
        "giou": generalized_box_iou_loss(*corners, reduction="mean"),
        "visible": F.binary_cross_entropy_with_logits(regions.visible[known], there[known].float()),
    }


def coverage(boxes: Tensor, cells: int) -> Tensor:
    """How much of each of ``cells`` x ``cells`` patches lies in boxes (R, 4), centre and size: (R, P), 0 to 1."""
    edges = torch.arange(cells, device=boxes.device) / cells
    along = []
    for centre, size in ((boxes[:, 0], boxes[:, 2]), (boxes[:, 1], boxes[:, 3])):
        low, high = (centre - size / 2)[:, None], (centre + size / 2)[:, None]
        along.append((torch.minimum(high, edges + 1 / cells) - torch.maximum(low, edges)).clamp_min(0) * cells)
    return (along[1][:, :, None] * along[0][:, None, :]).flatten(1)


def choose_positives(truths: Tensor, bank: Bank, generator: torch.Generator | None = None) -> Tensor:
    """One true phrase for each row of truths (R, K), as its index; -1 for a row without one.

    Mostly something the region has; where it has nothing, what it has not, and the findings it lacks are then among the negatives.
    """
    is_name = bank.findings < 0
    kinds = ((is_name, _NAME), (~is_name & ~bank.negated, _HAS), (~is_name & bank.negated, _HAS_NOT))
    weights = torch.zeros_like(truths, dtype=torch.float32)
    for kind, share in kinds:
        true = (truths == TRUE) & kind
        weights += share * true / true.sum(1, keepdim=True).clamp_min(1)
    out = torch.full((len(truths),), -1, device=truths.device)
    usable = weights.sum(1) > 0
    if usable.any():
        out[usable] = torch.multinomial(weights[usable], 1, generator=generator)[:, 0]
    return out


def contrast(similarities: Tensor, truths: Tensor, chosen: Tensor, scale: Tensor) -> Tensor:
    """InfoNCE both ways between rows and phrases, (R, K): a row's chosen phrase against all that are false of it; a phrase against the rows
    that it is false of. What is true but not chosen, or not known, is no negative.
    """
    logits = similarities * scale
    usable = chosen >= 0
    if not usable.any():
        return similarities.sum() * 0
    rows, positive = logits[usable], chosen[usable, None]
    kept = truths[usable] == FALSE
    kept.scatter_(1, positive, True)
    forward = (rows.masked_fill(~kept, -1e4).logsumexp(1) - rows.gather(1, positive)[:, 0]).mean()
    columns = ((truths == TRUE).any(0)) & ((truths == FALSE).any(0))
    if not columns.any():
        return forward
    logits, truths = logits[:, columns], truths[:, columns]
    true = logits.masked_fill(truths != TRUE, -1e4).logsumexp(0)
    all_known = logits.masked_fill((truths != TRUE) & (truths != FALSE), -1e4).logsumexp(0)
    return forward + (all_known - true).mean()


def against_negation(similarities: Tensor, truths: Tensor, bank: Bank, scale: Tensor) -> Tensor:
    """A phrase against its negation, (R, K): the hardest negative. Rows that it holds for and rows that it doesn't weigh the same."""
    said = ((bank.pairs >= 0) & ~bank.negated).nonzero()[:, 0]
    denied = ((bank.pairs >= 0) & bank.negated).nonzero()[:, 0]
    # Both lie in the order of their pairs.
    difference = (similarities[:, said] - similarities[:, denied]) * scale
    truth = truths[:, said]
    located = bank.nodes[said] >= 0
    losses = []
    for finding in bank.findings[said].unique():
        for where in (located, ~located):
            columns = (bank.findings[said] == finding) & where
            # Of other regions a located phrase is false together with its negation, so that the two can't be weighed there.
            known = (truths[:, denied][:, columns] + truth[:, columns]) == TRUE + FALSE
            values = F.softplus(torch.where(truth[:, columns] == TRUE, -difference[:, columns], difference[:, columns]))
            sides = [values[known & (truth[:, columns] == side)] for side in (TRUE, FALSE)]
            losses += [side.mean() for side in sides if len(side)]
    return torch.stack(losses).mean() if losses else similarities.sum() * 0


def regional_contrast(first: Tensor, second: Tensor, related: Tensor, allowed: Tensor, scale: float = 10.0) -> Tensor:
    """What a region's query sees in one picture is nearest to what it sees in other pictures, not to what other queries see.

    Args:
        first: Content of regions (B, N, E).
        second: The same of other views, (B, N, E).
        related: (N, N), nodes that lie in one another, which are no negatives.
        allowed: (B, N), nodes of the picture's graph.
    """
    a, b = F.normalize(first, dim=-1)[allowed], F.normalize(second, dim=-1)[allowed]
    count, nodes = allowed.shape
    node = torch.arange(nodes, device=allowed.device).expand(count, -1)[allowed]
    same = node[:, None] == node[None]
    kept = same | ~related[node][:, node]
    logits = (a @ b.t() * scale).masked_fill(~kept, -1e4)
    # Each positive on its own: an average over them would be content with the easiest.
    others = logits.masked_fill(same, -1e4).logsumexp(1, keepdim=True)
    return (torch.logaddexp(others, logits) - logits)[same].mean()


def hierarchy(content: Tensor, shares: Tensor, parents: Tensor, predictor: nn.Module, allowed: Tensor) -> Tensor:
    """Children must tell what their parent sees: 1 minus the cosine of the parent's content and a prediction from its children's.

    ``content`` (B, N, E); ``parents`` (N, N), which share of a parent (row) each child (column) is; rows of leaves are zero.
    ``shares`` (N,) says which are parents.
    """
    made = predictor(torch.einsum("pn,bne->bpe", parents, content))
    off = 1 - F.cosine_similarity(made, content.detach(), dim=-1)
    kept = allowed & shares.bool()[None]
    return off[kept].mean()


def reconstruction(made: Tensor, images: Tensor, hidden: Tensor, patch: int) -> Tensor:
    """Squared error of the hidden patches' pixels: ``made`` (B, P, patch*patch), ``images`` (B, 1, S, S), ``hidden`` (B, P), bool."""
    wanted = F.unfold(images, patch, stride=patch).transpose(1, 2)
    return F.mse_loss(made[hidden].float(), wanted[hidden])


def hide(images: Tensor, patch: int, generator: torch.Generator | None = None, share: float = 0.5, block: int = 2) -> tuple[Tensor, Tensor]:
    """Images with blocks of patches blanked, and which patches those are, (B, P)."""
    cells = images.shape[-1] // patch
    coarse = torch.rand(len(images), 1, cells // block, cells // block, generator=generator) < share
    hidden = coarse.repeat_interleave(block, 2).repeat_interleave(block, 3)
    pixels = hidden.repeat_interleave(patch, 2).repeat_interleave(patch, 3).to(images.device)
    return images.masked_fill(pixels, 0.0), hidden.flatten(1).to(images.device)
