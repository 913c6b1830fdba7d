"""Finds what is shipped with the code: models, sample data, anatomy files."""

from __future__ import annotations

from pathlib import Path

from ..errors import ResourceError

_LIBRARY = Path(__file__).parents[1]
# An installed wheel carries the resources inside the package, Slicer's build has them beside the library, a checkout at its top.
_CANDIDATES = (_LIBRARY / "_resources", _LIBRARY.parent / "Resources" / "RAUSlicer", _LIBRARY.parents[1] / "Resources")


def resource_path(*parts: str) -> Path:
    """Path of a shipped file or folder, for example ``resource_path("SampleData")``.

    Raises:
        ResourceError: nothing of that name was shipped.
    """
    for root in _CANDIDATES:
        path = root.joinpath(*parts)
        if path.exists():
            return path
    raise ResourceError(
        f"The shipped resource {'/'.join(parts)!r} is missing.",
        "The installation is incomplete.",
        "Install RAUSlicer again, or run it from a complete checkout of the repository.",
    )
