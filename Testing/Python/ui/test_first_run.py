"""The one question before the first run, and what happens when the installation fails."""

import re
import subprocess
import sys
import tomllib

import pytest
import qt
from clicks import click, results_of
from host import modules

from RAUSlicerLib.errors import ResourceError
from RAUSlicerLib.ui import first_run


@pytest.fixture
def requirements(tmp_path):
    """A requirements file that this environment does not meet."""
    path = tmp_path / "requirements.txt"
    path.write_text("# a comment\nnumpy>=2.0\nno-such-package>=1.0  # why\nscipy>=999\n")
    return path


@pytest.fixture
def asked(monkeypatch, requirements, scene, own_settings):
    """asked(button, **installers): answer the question with that button; returns (answer, text, installed)."""
    missing = first_run.missing_packages(requirements)
    monkeypatch.setattr(first_run, "missing_packages", lambda: missing)

    def ask(button, install_torch=None, install=None):
        installed: list = []
        texts: list = []

        def press():
            dialog = next((w for w in qt.QApplication.topLevelWidgets() if w.objectName == "firstRunDialog"), None)
            if dialog is None:
                qt.QTimer.singleShot(20, press)
                return
            texts.append(dialog.informativeText)
            qt.QTest.mouseClick(next(b for b in dialog.buttons() if b.text == button), qt.Qt.LeftButton)

        qt.QTimer.singleShot(100, press)
        one = first_run.FirstRun(
            None, installed.append, install_torch or (lambda: None), install or (lambda lines: installed.append(lines))
        )
        return one.ensure(), texts[0], installed

    return ask


def test_what_is_installed_and_new_enough_is_not_asked_for(requirements, own_settings):
    missing = first_run.missing_packages(requirements)

    assert [line for line in missing if not line.startswith(("torch", "sam2"))] == ["no-such-package>=1.0", "scipy>=999"]


@pytest.mark.slow
def test_the_worker_imports_nothing_that_is_neither_asked_for_nor_bundled_with_slicer():
    project = tomllib.loads((modules.repository() / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    named = {re.split("[<>=]", line)[0] for line in project["dependencies"]}
    asked = {re.split("[<>=]", line)[0] for line in first_run._REQUIREMENTS.read_text().splitlines() if not line.startswith("#")}
    bundled = {"numpy", "scipy", "SimpleITK", "pydicom", "highdicom", "pillow"}
    others = named - asked - bundled - {"torch", "torchvision"}
    # Only what the project itself depends on is asked for.
    assert asked <= named and {"monai", "scikit-image", "matplotlib"} <= others
    code = (
        "import sys\n"
        f"for name in {sorted({'scikit-image': 'skimage'}.get(name, name) for name in others)!r}: sys.modules[name] = None\n"
        "import RAUSlicerLib.pipeline, RAUSlicerLib.correction.update, RAUSlicerLib.service.worker, RAUSlicerLib.service.exchange"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr


def test_a_python_of_its_own_is_left_alone(requirements, own_settings):
    from RAUSlicerLib.ui.settings import ComputerSettings, save

    save(ComputerSettings(python="/somewhere/python"))

    assert first_run.missing_packages(requirements) == []


def test_the_question_says_what_how_large_and_from_where(asked):
    answer, text, installed = asked("Install")

    assert answer
    assert "no-such-package, scipy: up to 0.4 GB on disk" in text and "pypi.org" in text
    assert ["no-such-package>=1.0", "scipy>=999"] in installed


def test_not_now_installs_nothing(asked):
    answer, _text, installed = asked("Not now")

    assert not answer
    assert installed == []


def test_a_failure_says_what_to_do_and_goes_to_the_log(asked):
    def fail(_lines):
        raise OSError("No space left on device")

    with pytest.raises(ResourceError) as raised:
        asked("Install", install=fail)

    assert "No space left on device" in raised.value.problem
    assert "choose a Python that has the packages under Advanced" in raised.value.solution


def test_torch_comes_from_the_pytorch_extension_or_the_user_is_told():
    with pytest.raises(ResourceError, match="Extensions Manager"):
        first_run._install_torch()


def test_the_panel_shows_the_failure_and_starts_nothing(panel, loaded, monkeypatch):
    def fail(_self):
        raise ResourceError("No connection.", "The proxy answered 407.", "Ask your administrator.")

    monkeypatch.setattr(first_run.FirstRun, "ensure", fail)
    click(panel.ui.transferButton)

    assert panel.ui.problemLabel.text == "No connection."
    assert panel.ui.transferButton.enabled and not panel.ui.cancelButton.visible
    panel.ui.logSection.collapsed = False
    assert "No connection." in panel.ui.logText.toPlainText()
    assert results_of(loaded[1]) == []
