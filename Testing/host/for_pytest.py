"""What the rooms' conftest files share: skip with a reason where the host can't run, a fresh scene for every test."""

from __future__ import annotations

import sys

import pytest

from . import environment

REASON = environment.missing()
environment.prepare()


class _NotHosted(pytest.Module):
    def collect(self):
        pytest.skip(f"The Slicer host can't run here: it {REASON}", allow_module_level=True)


def pytest_pycollect_makemodule(module_path, parent):
    """Leave test files unimported where their imports would fail, or start the host before they are imported."""
    if REASON:
        return _NotHosted.from_parent(parent, path=module_path)
    from . import modules

    modules.install()
    return None


@pytest.fixture
def scene():
    """The application's scene, empty before and after the test."""
    import slicer

    slicer.mrmlScene.SetUndoOff()
    slicer.mrmlScene.Clear(0)
    yield slicer.mrmlScene
    slicer.mrmlScene.SetUndoOff()
    slicer.mrmlScene.Clear(0)


@pytest.fixture(autouse=True)
def slot_errors(monkeypatch):
    """An exception in a Qt slot does not reach the test by itself (nor does it in Slicer): collect it and fail."""
    seen: list = []
    monkeypatch.setattr(sys, "excepthook", lambda _kind, value, _trace: seen.append(value))
    yield seen
    assert not seen, seen
