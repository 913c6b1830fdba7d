"""How many decimals a number is shown with. Loads nothing, so that the panel may ask too."""

from __future__ import annotations

import math


def enough_decimals(value: float, usual: int) -> int:
    """The usual number of decimals, or where these show no digit of a value, as of a tiny structure in a small animal, two digits' worth.

    >>> enough_decimals(12.5, 2), enough_decimals(0.00042, 2), enough_decimals(0.0, 2)
    (2, 5, 2)
    """
    return 1 - math.floor(math.log10(abs(value))) if 0 < abs(value) < 10**-usual else usual


def volume_text(millilitres: float, usual: int = 2) -> str:
    """A volume for a table, with ``usual`` decimals where they are enough."""
    return f"{millilitres:.{enough_decimals(millilitres, usual)}f}"
