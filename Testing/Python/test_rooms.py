"""Rooms know only those below them, as the contracts in pyproject.toml say."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_no_import_goes_the_wrong_way() -> None:
    # In a process of its own: import-linter switches off every logger that there is.
    code = "from importlinter import cli; raise SystemExit(cli.lint_imports(no_cache=True))"
    here = {**os.environ, "PYTHONPATH": str(ROOT / "RAUSlicer")}
    linted = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=here, capture_output=True, text=True, timeout=300, check=False)
    assert linted.returncode == 0 and "3 kept, 0 broken" in linted.stdout, linted.stdout + linted.stderr
