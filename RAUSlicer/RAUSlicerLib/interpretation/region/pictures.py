"""Brings any gray picture to what the region network sees: square, of its size, with intensities of mean 0 and spread 1."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ...imaging.intensity import tamed


@dataclass(frozen=True)
class Letterbox:
    """How a picture of ``rows`` by ``columns`` lies in a square of ``side`` pixels: centred, its shape kept, empty strips beside it."""

    rows: int
    columns: int
    side: int

    @property
    def scale(self) -> float:
        return self.side / max(self.rows, self.columns)

    @property
    def size(self) -> tuple[int, int]:
        """Rows and columns of the picture within the square."""
        return max(1, round(self.rows * self.scale)), max(1, round(self.columns * self.scale))

    @property
    def corner(self) -> tuple[int, int]:
        """First row and column of the picture within the square."""
        rows, columns = self.size
        return (self.side - rows) // 2, (self.side - columns) // 2

    def put(self, picture: np.ndarray) -> Tensor:
        """A picture or a mask (rows, columns) in the square, float32, 0 beside it."""
        values = torch.from_numpy(np.ascontiguousarray(picture, np.float32))[None, None]
        small = F.interpolate(values, self.size, mode="bilinear", antialias=True, align_corners=False)[0, 0]
        out = torch.zeros(self.side, self.side)
        (top, left), (rows, columns) = self.corner, self.size
        out[top : top + rows, left : left + columns] = small
        return out

    def back(self, square: Tensor) -> Tensor:
        """A map over the square, of any resolution, on the picture's own pixels."""
        full = F.interpolate(square[None, None], (self.side, self.side), mode="bilinear", align_corners=False)
        (top, left), (rows, columns) = self.corner, self.size
        inside = full[:, :, top : top + rows, left : left + columns]
        return F.interpolate(inside, (self.rows, self.columns), mode="bilinear", align_corners=False)[0, 0]

    def box_back(self, box: tuple[float, float, float, float]) -> tuple[float, float, float, float]:
        """A box (centre x, centre y, width, height) of fractions of the square as (x, y, width, height) in the picture's pixels."""
        cx, cy, width, height = (value * self.side / self.scale for value in box)
        top, left = (value / self.scale for value in self.corner)
        return cx - width / 2 - left, cy - height / 2 - top, width, height


def standardized(square: Tensor) -> Tensor:
    """Intensities of squares (..., S, S) with mean 0 and spread 1 over what is not empty; the tails are cut, emptiness is the darkest."""
    flat = square.flatten(-2)
    out = []
    for values in flat.reshape(-1, flat.shape[-1]):
        low = values.min()
        inside = values[values > low + 0.02 * (values.max() - low)]
        if inside.numel() < 16:
            out.append(torch.zeros_like(values))
            continue
        inside = inside[:: max(1, inside.numel() // 4096)]
        first, last = torch.quantile(inside, torch.tensor([0.01, 0.99]))
        kept = values.clamp(first, last)
        inside = inside.clamp(first, last)
        out.append((kept - inside.mean()) / inside.std().clamp_min(1e-4))
    return torch.stack(out).view(square.shape).clamp(-3, 3)


def prepare(picture: np.ndarray, side: int) -> tuple[Tensor, Letterbox]:
    """A gray picture (rows, columns), bright where much is absorbed, as input (1, 1, side, side) and how it lies there."""
    box = Letterbox(picture.shape[0], picture.shape[1], side)
    values = tamed(picture).astype(np.float64)
    # Whatever the unit of intensities, what the network sees is the same.
    values = (values - values.min()) / (np.ptp(values) or 1.0)
    return standardized(box.put(values))[None, None], box
