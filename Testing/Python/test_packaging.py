"""What is in the wheel, and whether it declares what it imports and nothing else."""

from __future__ import annotations

import ast
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
LIBRARY = ROOT / "RAUSlicer" / "RAUSlicerLib"
OWN = {"RAUSlicerLib", "rauslicer"}
# Where the package's name is not the module's.
PACKAGES = {"PIL": "pillow", "ants": "antspyx", "itk": "itk-elastix", "ot": "POT", "skimage": "scikit-image", "yaml": "PyYAML"}
# Its isolated build would fetch torch a second time, so it is installed beside the others.
UNDECLARED = {"sam2"}
# torch.utils.tensorboard writes by it.
UNSEEN = {"tensorboard"}
# The rooms that need an extra, and which.
EXTRAS = {"training": ["train"], "baselines": ["benchmark", "ants"], "full_size": ["train"]}


def _modules(path: Path) -> set[str]:
    """Top-level modules of other projects that a file imports anywhere, but for type checking."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.add(str(node.module).split(".")[0])
    return found - OWN - set(sys.stdlib_module_names)


def _in_wheel() -> list[Path]:
    files = [*LIBRARY.rglob("*.py"), *(ROOT / "RAUSlicer" / "rauslicer").rglob("*.py")]
    return [path for path in files if not {"scene", "ui"} & set(path.relative_to(ROOT / "RAUSlicer").parts)]


def _imported(paths: list[Path]) -> set[str]:
    return {canonicalize_name(PACKAGES.get(name, name)) for path in paths for name in _modules(path)} - UNDECLARED


def _declared(extra: str | None = None) -> set[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = project["dependencies"] if extra is None else project["optional-dependencies"][extra]
    return {canonicalize_name(Requirement(line).name) for line in lines}


def test_every_import_is_declared_and_extras_serve_only_their_own_rooms() -> None:
    core = _declared()
    for path in _in_wheel():
        room = path.relative_to(ROOT / "RAUSlicer").parts[1]
        allowed = core.union(*(_declared(extra) for extra in EXTRAS.get(room, [])))

        assert _imported([path]) <= allowed, path


def test_nothing_is_declared_that_nobody_imports() -> None:
    declared = _declared().union(*(_declared(extra) for extras in EXTRAS.values() for extra in extras))

    assert declared - UNSEEN == _imported(_in_wheel())


def test_the_wheel_has_the_library_and_its_resources_but_not_what_needs_slicer() -> None:
    builders = pytest.importorskip("hatchling.builders.wheel")

    files = {file.distribution_path for file in builders.WheelBuilder(str(ROOT)).recurse_included_files()}

    library = {str(path.relative_to(ROOT / "RAUSlicer")) for path in _in_wheel()}
    assert {name for name in files if name.endswith(".py") and "_resources" not in name} == library
    resources = ("Models/embedded/matching/model.safetensors", "Anatomy/brain.json", "SampleData/target.nii.gz")
    assert {f"RAUSlicerLib/_resources/{name}" for name in resources} <= files
