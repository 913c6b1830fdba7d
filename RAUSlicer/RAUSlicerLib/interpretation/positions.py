"""Where the reference says that structures should lie: its middles, carried over by an affine map between those that both have."""

from __future__ import annotations

import numpy as np

# How far structures have to be spread (root of the sum of squares along an axis, mm) before they may claim a stretch. From one person to
# another, on 17 abdomens and 4 brains of the training cases: without it (10 mm) middles were off by 29.5 mm in the abdomen and 6.57 in the
# brain (root mean square), with 80 mm by 27.2 and 6.56, with 200 by 30.3 and 6.59, by a shift alone by 35.6 and 7.51.
_RIDGE_MM = 80.0
_FEWEST = 2


def expected_positions(reference: np.ndarray, target: np.ndarray, usable: np.ndarray) -> np.ndarray:
    """Where each structure's middle would lie in the target.

    The map is fitted for every structure anew without that structure itself, which would otherwise pull it to where it lies. It is the
    least-squares affine map, held near a shift as far as the structures don't determine it (ridge on the linear part).

    Args:
        reference: Middles in the reference's patient space, shape (n, 3), mm.
        target: Those of the same structures in the target's, shape (n, 3), mm.
        usable: Which of them may determine the map, shape (n,); cut structures have no true middle.

    Returns:
        Shape (n, 3), mm; NaN where fewer than two others are usable.
    """
    out = np.full(reference.shape, np.nan)
    for index in range(len(reference)):
        others = usable.copy()
        others[index] = False
        if others.sum() >= _FEWEST:
            out[index] = _carried(reference[index], reference[others], target[others])
    return out


def _carried(point: np.ndarray, reference: np.ndarray, target: np.ndarray) -> np.ndarray:
    middle, shifted = reference.mean(axis=0), target.mean(axis=0)
    spread, moved = reference - middle, (target - shifted) - (reference - middle)
    stretch = np.linalg.solve(spread.T @ spread + _RIDGE_MM**2 * np.eye(3), spread.T @ moved)
    carried: np.ndarray = shifted + (point - middle) @ (np.eye(3) + stretch)
    return carried
