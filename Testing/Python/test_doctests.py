import doctest
import importlib
from pathlib import Path

import pytest

import RAUSlicerLib

LIBRARY = Path(RAUSlicerLib.__file__).parent
WITH_EXAMPLES = sorted(
    ".".join(path.relative_to(LIBRARY.parent).with_suffix("").parts) for path in LIBRARY.rglob("*.py") if ">>>" in path.read_text("utf-8")
)


@pytest.mark.parametrize("module", WITH_EXAMPLES)
def test_examples_in_docstrings_say_what_happens(module: str) -> None:
    result = doctest.testmod(importlib.import_module(module))
    assert result.attempted > 0
    assert result.failed == 0
