"""Slices as pictures for a language model: plain, and with numbered regions drawn on them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from ..imaging.palette import label_color

# Of the region's colour, so much is laid over the image inside of it: enough to tell regions apart, and the anatomy still shows.
_TINT = 0.25


def picture(image: np.ndarray, side: int) -> Image.Image:
    """A slice (S, S) in 0 to 1 as an RGB picture of ``side`` pixels.

    >>> picture(np.zeros((4, 4)), 8).size
    (8, 8)
    """
    grey = np.round(np.clip(image, 0, 1) * 255).astype(np.uint8)
    return Image.fromarray(grey).convert("RGB").resize((side, side), Image.Resampling.BICUBIC)


def with_regions(image: np.ndarray, masks: Sequence[np.ndarray], side: int) -> Image.Image:
    """The same with masks (S, S) outlined, tinted and numbered from 1 on; an empty mask keeps its number and is not drawn."""
    canvas = np.asarray(picture(image, side)).astype(np.float32)
    labels: list[tuple[int, int, int]] = []
    for number, mask in enumerate(masks, start=1):
        large = np.asarray(Image.fromarray(mask.astype(np.uint8)).resize((side, side), Image.Resampling.NEAREST)) > 0
        if not large.any():
            continue
        color = 255 * np.array(label_color(number), np.float32)
        canvas[large] = (1 - _TINT) * canvas[large] + _TINT * color
        canvas[large & ~ndimage.binary_erosion(large, iterations=max(1, side // 224))] = color
        # The number stands where the region is widest: the centre of a ring lies outside of it.
        inmost = np.unravel_index(int(np.argmax(ndimage.distance_transform_edt(large))), large.shape)
        labels.append((number, int(inmost[1]), int(inmost[0])))
    out = Image.fromarray(np.round(canvas).astype(np.uint8))
    pen = ImageDraw.Draw(out)
    font = ImageFont.load_default(size=max(9, side // 28))
    for number, column, row in labels:
        pen.text((column, row), str(number), fill="white", font=font, anchor="mm", stroke_width=2, stroke_fill="black")
    return out
