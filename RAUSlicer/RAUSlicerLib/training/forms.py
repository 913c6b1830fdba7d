"""Reads YAML files into settings classes: what is unknown or of the wrong kind is refused, with what may have been meant."""

from __future__ import annotations

import difflib
import types
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, fields, is_dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin, get_type_hints

from ..errors import InputError, ResourceError
from ..imaging.headers import require_file
from ..support.header_fields import Unsound

T = TypeVar("T")
# From 0 to 1, both included; other numbers must be above 0, unless 0 is their default.
Share = Annotated[float, "share"]
# Numbers that may be 0.
Count = Annotated[int, "count"]
Weight = Annotated[float, "weight"]
HELP = "docs/how-to/train.md explains the file, docs/how-to/full-size-models.md that of `rauslicer train recipe`."


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file.

    Raises:
        InputError: it can't be read, or is no mapping.
        ResourceError: the package PyYAML is missing.
    """
    try:
        import yaml
    except ImportError as error:
        raise ResourceError(
            "The package 'PyYAML' is missing.", "Configurations of a training are YAML.", "Install it: pip install 'rauslicer[train]'."
        ) from error
    try:
        require_file(path)
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except Unsound as error:
        raise unusable(path, error.reason) from error
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise unusable(path, (str(error) or "It is damaged.").splitlines()[0]) from error
    return mapping(document, path, "")


def filled(cls: type[T], values: object, path: Path, where: str = "", **given: Any) -> T:
    """An instance of a settings class from what a file says under ``where`` (``""`` or ``"a.b."``); ``given`` is what it need not say.

    Raises:
        InputError: a key is unknown or missing, or a value is of the wrong kind.
    """
    values = mapping(values, path, where)
    known = {one.name: one for one in fields(cls)}  # type: ignore[arg-type]
    require_known(values, known, path, where)
    hints = get_type_hints(cls, include_extras=True)
    made = {key: _value(hints[key], value, path, f"{where}{key}", known[key].default) for key, value in values.items()}
    for key, one in known.items():
        if key not in made and key not in given and one.default is MISSING and one.default_factory is MISSING:
            raise unusable(path, f"It lacks '{where}{key}'.")
    return cls(**{**given, **made})


def mapping(values: object, path: Path, where: str) -> dict[str, Any]:
    """The values, if they are a mapping; nothing is an empty one."""
    if values is None and where:
        return {}
    if not isinstance(values, dict):
        what = f"'{where.rstrip('.')}' is {values!r} and no mapping" if where else "It is no mapping"
        raise unusable(path, f"{what} of names to values.")
    return values


def require_known(values: Mapping[Any, Any], known: Iterable[str], path: Path, where: str) -> None:
    """Refuse keys that nobody reads."""
    for key in values:
        if key not in known:
            near = difflib.get_close_matches(str(key), list(known), n=1)
            meant = f" Did you mean '{where}{near[0]}'?" if near else ""
            raise unusable(path, f"It says '{where}{key}'; known are {', '.join(sorted(known))}.{meant}")


def unusable(path: Path, why: str) -> InputError:
    """What is raised when a file says something that can't be used."""
    return InputError(f"The configuration {str(path)!r} can't be used.", why, HELP)


def _value(hint: Any, value: Any, path: Path, where: str, default: Any) -> Any:
    def refuse(kind: str) -> InputError:
        return unusable(path, f"'{where}' is {value!r}, which is no {kind}.")

    kind, marks = get_origin(hint) or hint, get_args(hint)
    if kind in (Union, types.UnionType):
        inner = next(one for one in marks if one is not type(None))
        return None if value is None else _value(inner, value, path, where, default)
    if is_dataclass(kind):
        return filled(kind, value, path, f"{where}.")  # type: ignore[arg-type]
    if kind is Annotated:
        kind, mark = marks[0], marks[1]
    else:
        mark = ""
    if kind in (int, float):
        number = type(value) is int or (kind is float and type(value) is float)
        if not number or value < 0 or (value == 0 and not mark and default != 0) or (mark == "share" and value > 1):
            raise refuse("share between 0 and 1" if mark == "share" else f"{'whole ' if kind is int else ''}positive number")
        return kind(value)
    if kind is tuple:
        if not isinstance(value, list | tuple) or (marks[-1] is not Ellipsis and len(value) != len(marks)):
            raise refuse("list" if marks[-1] is Ellipsis else f"list of {len(marks)}")
        kinds = [marks[0]] * len(value) if marks[-1] is Ellipsis else marks
        return tuple(_value(one, item, path, where, MISSING) for one, item in zip(kinds, value, strict=True))
    if kind in (dict, Mapping):
        items = mapping(value, path, f"{where}.").items()
        return {_value(marks[0], key, path, where, 0): _value(marks[1], one, path, f"{where}.{key}", MISSING) for key, one in items}
    if kind in (str, Path):
        if not isinstance(value, str | Path | int) or isinstance(value, bool):
            raise refuse("text")
        return kind(str(value))
    if isinstance(kind, type) and issubclass(kind, StrEnum):
        return kind(value)
    if not isinstance(value, bool):
        raise refuse("yes or no")
    return value
