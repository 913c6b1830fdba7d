"""Frozen settings classes filled from what a file says: lists become tuples, unknown names are refused."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping
from typing import Any, TypeVar

from ..errors import ModelError

Settings = TypeVar("Settings")


def settings_from(cls: type[Settings], values: Mapping[str, Any], what: str) -> Settings:
    """An instance of a frozen dataclass; what ``values`` leave out keeps its default.

    Raises:
        ModelError: ``values`` name a setting that the class does not have; ``what`` says whose they are.
    """
    require_known(values, cls, what)
    return cls(**{name: _frozen(value) for name, value in values.items()})


def require_known(values: Mapping[str, Any], cls: type, what: str) -> None:
    """Raise ModelError unless a dataclass has all names of ``values``."""
    known = [one.name for one in dataclasses.fields(cls)]
    strange = sorted(values.keys() - set(known))
    if strange:
        near = difflib.get_close_matches(strange[0], known, 1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ModelError(
            f"{what} names {', '.join(map(repr, strange))}.",
            f"This RAUSlicer knows nothing of that name; the model was made by another version.{hint}",
            "Install the model again from the release that you use, or update RAUSlicer.",
        )


def _frozen(value: Any) -> Any:
    return tuple(_frozen(one) for one in value) if isinstance(value, list) else value


def changed(settings: Any) -> dict[str, Any]:
    """What differs from the defaults of a settings class, as a file would say it: what was never chosen may improve later."""
    values = dataclasses.asdict(settings)
    return {name: value for name, value in values.items() if value != getattr(type(settings), name)}
