import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parent)]

from host.for_pytest import pytest_pycollect_makemodule, scene, slot_errors  # noqa: E402

__all__ = ["pytest_pycollect_makemodule", "scene", "slot_errors"]
