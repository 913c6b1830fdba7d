"""Joint assignment of boxes to structures by optimal transport, so that no two structures claim the same place."""

from __future__ import annotations

import numpy as np
import ot


def assign(evidence: np.ndarray, presence: np.ndarray) -> list[int | None]:
    """Choose at most one box a structure and at most one structure a box.

    Args:
        evidence: (S, B) how well each box holds what matching says of each structure, 0 to 1.
        presence: (S,) probability that the structure is in the target at all.

    Returns:
        For each structure the index of its box, None where it is better left out.

    Source: RAU (arXiv 2509.22404) assigns boxes jointly by optimal transport; solved exactly with POT. One extra row and column take what
    stays unassigned.
    """
    structures, boxes = evidence.shape
    if structures == 0 or boxes == 0:
        return [None] * structures
    cost = np.ones((structures + 1, boxes + 1))
    cost[:structures, :boxes] = 1 - evidence * presence[:, None]
    # Leaving a present structure out costs more than a fair box for it; leaving out an absent one costs less than a poor box.
    cost[:structures, boxes] = 0.6 + 0.3 * presence
    cost[structures, :boxes] = 0.05
    cost[structures, boxes] = 0.0
    supply = np.r_[np.ones(structures), float(boxes)]
    demand = np.r_[np.ones(boxes), float(structures)]
    plan = ot.emd(supply, demand, cost)
    chosen = plan[:structures].argmax(1)
    return [int(box) if box < boxes else None for box in chosen]
