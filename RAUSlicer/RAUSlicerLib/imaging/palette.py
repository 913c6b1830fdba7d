"""Colours for structures that come without one."""

from __future__ import annotations

import colorsys
import math
from collections.abc import Sequence

_GOLDEN_RATIO_FRACTION = 0.618033988749895
_SHADES = ((0.75, 0.95), (0.50, 1.00), (0.85, 0.75))


def label_color(label: int) -> tuple[float, float, float]:
    """A fixed colour for a label value, RGB 0 to 1; neighbouring labels get hues far apart.

    Steps of the golden ratio spread any number of hues evenly round the circle; three shades keep large palettes apart. Values are
    multiples of 1/255, so that they survive formats with 8 bits a channel.

    >>> label_color(1) == label_color(1) != label_color(2)
    True
    """
    saturation, value = _SHADES[label % len(_SHADES)]
    red, green, blue = colorsys.hsv_to_rgb(label * _GOLDEN_RATIO_FRACTION % 1.0, saturation, value)
    return round(red * 255) / 255, round(green * 255) / 255, round(blue * 255) / 255


def shown_color(color: Sequence[float] | None, label: int) -> tuple[float, float, float]:
    """A color as files can hold it: channels from 0 to 1, the palette's where there is none or one that is no number."""
    if color is None or not all(math.isfinite(channel) for channel in color):
        return label_color(label)
    red, green, blue = (min(max(float(channel), 0.0), 1.0) for channel in color)
    return red, green, blue
