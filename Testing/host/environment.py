"""Says whether this machine can host the module: the Python packages and the system libraries that rendering and Qt load."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import sys

# Shared library -> Debian package. Qt aborts the whole process when its platform plugin misses one, so this is asked before Qt is imported.
SYSTEM_LIBRARIES = {
    "libGL.so.1": "libgl1",
    "libEGL.so.1": "libegl1",
    "libxkbcommon.so.0": "libxkbcommon0",
    "libdbus-1.so.3": "libdbus-1-3",
    "libfontconfig.so.1": "libfontconfig1",
    "libglib-2.0.so.0": "libglib2.0-0",
}
# Loaded late or only read, so they can't be asked for by the loader: software rendering and a font.
FURTHER_PACKAGES = ("libgl1-mesa-dri", "fonts-dejavu-core")


def missing() -> str | None:
    """Why the module can't be hosted here, with the command that mends it; None where it can."""
    packages = [package for name, package in {"slicer": "slicer-core", "PySide6": "PySide6_Essentials"}.items() if not _installed(name)]
    if packages:
        return f"needs {' and '.join(packages)}: pip install -e '.[test]'"
    if sys.platform.startswith("linux"):
        debian = [package for library, package in SYSTEM_LIBRARIES.items() if not _loadable(library)]
        if debian:
            return f"needs system libraries: apt-get install {' '.join([*debian, *FURTHER_PACKAGES])}"
    return None


def prepare() -> None:
    """Settings that must be made before Qt and VTK are imported."""
    os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")


def _installed(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


def _loadable(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True
