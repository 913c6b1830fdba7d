"""Keeps the lists of files in RAUSlicer/CMakeLists.txt equal to what is on the disk; a file that is not listed is not installed.

Usage: python CMake/list_sources.py (rewrites the lists), python CMake/list_sources.py --check (only says whether they are right).
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LISTS = ROOT / "RAUSlicer" / "CMakeLists.txt"
# Of the resources at the top, the library needs these; screenshots are for the web pages, scripts are for developers.
SHARED = ("Models", "SampleData", "Anatomy")


def expected_lists(root: Path = ROOT) -> dict[str, list[str]]:
    """CMake variable -> the files it has to hold: relative to RAUSlicer/, shared resources to the top-level Resources/."""
    module, shared = root / "RAUSlicer", root / "Resources"
    scripts = ["RAUSlicer.py", *(str(path) for path in _files(module, "RAUSlicerLib") if path.suffix == ".py")]
    others = [str(path) for path in _files(module, "RAUSlicerLib") if path.suffix != ".py"]
    return {
        "MODULE_PYTHON_SCRIPTS": scripts,
        "MODULE_PYTHON_RESOURCES": [str(path) for path in _files(module, "Resources")] + others,
        "MODULE_SHARED_RESOURCES": [str(path) for folder in SHARED for path in _files(shared, folder) if path.suffix != ".py"],
    }


def listed(text: str, variable: str) -> list[str]:
    """The files that a CMakeLists.txt sets a variable to."""
    return [quoted or plain for quoted, plain in re.findall(r'"([^"]*)"|(\S+)', _block(text, variable))]


def rewritten(text: str, lists: dict[str, list[str]]) -> str:
    """A CMakeLists.txt with its lists replaced."""
    for variable, files in lists.items():
        body = "".join(f'\n  "{name}"' if re.search(r"[\s;#()$]", name) else f"\n  {name}" for name in files)
        text = re.sub(rf"set\({variable}\b[^)]*\)", lambda _match, v=variable, b=body: f"set({v}{b}\n)", text, count=1)
    return text


def main() -> None:
    """Rewrite the lists, or check them with --check."""
    text = LISTS.read_text(encoding="utf-8")
    correct = rewritten(text, expected_lists())
    if text == correct:
        return
    if "--check" in sys.argv[1:]:
        sys.exit("RAUSlicer/CMakeLists.txt does not list the files on the disk: run python CMake/list_sources.py")
    LISTS.write_text(correct, encoding="utf-8", newline="\n")
    print(f"Rewrote the lists of {LISTS.relative_to(ROOT)}.")


def _block(text: str, variable: str) -> str:
    found = re.search(rf"set\({variable}\b([^)]*)\)", text)
    return found.group(1) if found else ""


def _files(base: Path, folder: str) -> list[Path]:
    """Files below ``base/folder`` relative to ``base``, sorted, without caches and what git ignores."""
    found = [path for path in (base / folder).rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    ignored = _ignored(found)
    return sorted(path.relative_to(base) for path in found if path not in ignored and not path.name.startswith("."))


def _ignored(paths: list[Path]) -> set[Path]:
    names = "\0".join(str(path) for path in paths)
    try:
        result = subprocess.run(
            ["git", "check-ignore", "-z", "--stdin"], cwd=ROOT, input=names, capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        return set()
    return {Path(name) for name in result.stdout.split("\0") if name}


if __name__ == "__main__":
    main()
