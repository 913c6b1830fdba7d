import sys
import time
from pathlib import Path

import pytest

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parents[1]), str(HERE), str(HERE.parent / "scene")]

from host.for_pytest import pytest_pycollect_makemodule, scene, slot_errors  # noqa: E402

__all__ = ["pytest_pycollect_makemodule", "scene", "slot_errors"]

SCRIPTED = HERE.parent / "service" / "scripted_worker.py"


@pytest.fixture(scope="session")
def hosted():
    """The module, loaded from its file as Slicer loads it: (Python module, entry of slicer.modules)."""
    from host import modules

    return modules.load_module(modules.repository() / "RAUSlicer" / "RAUSlicer.py")


@pytest.fixture
def own_settings():
    """The application's settings, empty before and after the test."""
    import qt

    qt.QSettings().clear()
    yield
    qt.QSettings().clear()


@pytest.fixture
def panel(scene, hosted, own_settings, tmp_path, monkeypatch):
    """The shown and entered panel; its worker is real, its exchange folder is ``tmp_path``."""
    from host import modules

    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    entry = hosted[1]
    top = entry.widgetRepresentation()
    top.resize(350, 900)
    top.show()
    widget = top.self()
    widget.enter()
    modules.settle()
    yield widget.panel
    modules.close_panel(entry)


@pytest.fixture
def release(tmp_path_factory, monkeypatch):
    """release(): let a step of the scripted pipeline end that hears nothing until then."""
    path = tmp_path_factory.mktemp("release") / "now"
    monkeypatch.setenv("SCRIPTED_RELEASE", str(path))
    return path.touch


@pytest.fixture
def scripted(monkeypatch, release):
    """Let the panel's worker run a scripted pipeline: the parameter ``model`` says what happens."""
    from RAUSlicerLib.service.client import WorkerClient

    command = [sys.executable, "-u", str(SCRIPTED)]
    monkeypatch.setattr("RAUSlicerLib.ui.run.WorkerClient", lambda **_options: WorkerClient(command=command))


@pytest.fixture
def wait_until():
    """wait_until(predicate): let Qt run until it holds."""
    from host import modules

    def wait(predicate, seconds=180.0):
        end = time.monotonic() + seconds
        while not predicate():
            assert time.monotonic() < end, "it did not happen in time"
            modules.settle(20)

    return wait


@pytest.fixture
def idle(panel, wait_until):
    """idle(): wait until the run has ended."""
    return lambda seconds=180.0: wait_until(lambda: panel.ui.transferButton.visible, seconds)


@pytest.fixture
def run(panel, scripted, idle):
    """run(model): let the scripted pipeline run from the first click to the end."""

    def from_start_to_end(model=None):
        from clicks import click

        if model is not None:
            panel.parameters.model = model
        click(panel.ui.transferButton)
        idle()

    return from_start_to_end


@pytest.fixture
def loaded(panel):
    """A reference volume, its segmentation and a target volume, which the panel has paired."""
    from clicks import load_case

    return load_case()
