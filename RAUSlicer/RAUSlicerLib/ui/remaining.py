"""How long a run still takes, from how far it has come."""

from __future__ import annotations

from slicer.i18n import tr as _

_LEAST_SECONDS = 4.0
_LEAST_FRACTION = 0.05
_SMOOTHING = 0.3


class TimeLeft:
    """Estimates the rest of a run. Stages don't go at one speed, so the estimate is smoothed and given in round figures."""

    def __init__(self) -> None:
        self._started: float | None = None
        self._last: tuple[float, float] | None = None
        self._seconds: float | None = None

    def start(self, now: float) -> None:
        """A run starts at this time, in seconds of any clock."""
        self._started, self._last, self._seconds = now, None, None

    def note(self, fraction: float, now: float) -> None:
        """The run has come this far, 0 to 1."""
        if self._started is None:
            return
        elapsed = now - self._started
        if fraction < _LEAST_FRACTION or elapsed < _LEAST_SECONDS:
            return
        estimate = elapsed * (1 - min(fraction, 1.0)) / fraction
        if self._seconds is not None and self._last is not None:
            expected = max(self._seconds - (now - self._last[1]), 0.0)
            estimate = (1 - _SMOOTHING) * expected + _SMOOTHING * estimate
        self._last, self._seconds = (fraction, now), estimate

    def text(self, now: float) -> str:
        """The rest in words; empty while too little is known."""
        if self._seconds is None or self._last is None:
            return ""
        return in_words(max(self._seconds - (now - self._last[1]), 0.0))


def in_words(seconds: float) -> str:
    """A rough time, as people say it."""
    if seconds < 10:
        return _("a few seconds left")
    if seconds < 90:
        return _("about {seconds} s left").format(seconds=5 * round(seconds / 5))
    return _("about {minutes} min left").format(minutes=round(seconds / 60))
