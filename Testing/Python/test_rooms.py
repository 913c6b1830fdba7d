"""Rooms know only those below them, as the contracts in pyproject.toml say."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def test_no_import_goes_the_wrong_way(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from importlinter import cli

    monkeypatch.chdir(ROOT)
    failed = cli.lint_imports(config_filename=str(ROOT / "pyproject.toml"), no_cache=True)

    assert failed == cli.EXIT_STATUS_SUCCESS, capsys.readouterr().out
