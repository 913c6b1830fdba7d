import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def tool():
    spec = importlib.util.spec_from_file_location("list_sources", ROOT / "CMake" / "list_sources.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("variable", ["MODULE_PYTHON_SCRIPTS", "MODULE_PYTHON_RESOURCES", "MODULE_SHARED_RESOURCES"])
def test_slicer_installs_exactly_what_is_on_the_disk(tool, variable):
    listed = tool.listed(tool.LISTS.read_text(encoding="utf-8"), variable)

    assert listed == tool.expected_lists()[variable], "run: python CMake/list_sources.py"


def test_the_lists_hold_the_files_that_slicer_asks_for_by_name(tool):
    lists = tool.expected_lists()

    assert "RAUSlicer.py" in lists["MODULE_PYTHON_SCRIPTS"]
    assert "RAUSlicerLib/service/worker.py" in lists["MODULE_PYTHON_SCRIPTS"]
    assert {"Resources/Icons/RAUSlicer.png", "Resources/UI/RAUSlicer.ui"} <= set(lists["MODULE_PYTHON_RESOURCES"])
    assert not any("__pycache__" in name for names in lists.values() for name in names)


def test_rewriting_keeps_the_rest_of_the_file_and_names_with_blanks(tool):
    text = "set(A x)\nset(MODULE_PYTHON_SCRIPTS\n  old.py\n)\nkeep(this)\n"

    new = tool.rewritten(text, {"MODULE_PYTHON_SCRIPTS": ["a.py", "b c.py"]})

    assert tool.listed(new, "MODULE_PYTHON_SCRIPTS") == ["a.py", "b c.py"]
    assert new.startswith("set(A x)\n") and new.endswith("keep(this)\n")
