"""What a run needs beyond Slicer's own packages: looked for before the first run, installed after one question."""

from __future__ import annotations

import importlib.metadata
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import qt
from slicer.i18n import tr as _

from ..errors import ResourceError
from . import settings

_REQUIREMENTS = Path(__file__).parents[2] / "Resources" / "requirements.txt"
# Measured on disk with torch 2.14 for CUDA on Linux, and the packages of requirements.txt with sam2; a torch for the CPU alone is smaller.
_TORCH_GB = "1 to 5"
_OTHERS_GB = "0.4"


def missing_packages(requirements: Path = _REQUIREMENTS) -> list[str]:
    """Requirements that this Python does not meet, torch first and sam2 last; none where the worker has a Python of its own."""
    if settings.load().python:
        return []
    lines = [line.split("#")[0].strip() for line in requirements.read_text(encoding="utf-8").splitlines()]
    return [line for line in ("torch", "torchvision", *filter(None, lines), "sam2") if not _met(line)]


class FirstRun:
    """Asks once, installs, and says plainly what went wrong.

    Args:
        parent: The widget that the question belongs to.
        log: Takes a line for the log.
        install_torch: Installs torch and torchvision; Slicer's PyTorch extension by default.
        install: Installs a list of requirements; ``slicer.packaging`` by default.
    """

    def __init__(
        self,
        parent,
        log: Callable[[str], None],
        install_torch: Callable[[], None] | None = None,
        install: Callable[[Sequence[str]], None] | None = None,
    ) -> None:
        self._parent, self._log = parent, log
        self._install_torch = install_torch or _install_torch
        self._install = install or _install
        self._complete = False

    def ensure(self) -> bool:
        """Whether a run can start: nothing is missing, or the user let it be installed.

        Raises:
            ResourceError: the installation failed.
        """
        missing = [] if self._complete else missing_packages()
        if missing and not self._ask(missing):
            return False
        if missing:
            self._install_all(missing)
        self._complete = True
        return True

    def _ask(self, missing: list[str]) -> bool:
        box = qt.QMessageBox(self._parent)
        box.setObjectName("firstRunDialog")
        box.setWindowTitle(_("RAUSlicer: first run"))
        box.setIcon(qt.QMessageBox.Question)
        box.setText(_("RAUSlicer needs some Python packages that are not installed yet."))
        box.setInformativeText("\n\n".join(described(missing)))
        box.setDetailedText("\n".join(missing))
        install = box.addButton(_("Install"), qt.QMessageBox.AcceptRole)
        box.addButton(_("Not now"), qt.QMessageBox.RejectRole)
        box.setDefaultButton(install)
        box.exec_()
        # Compared by role: PythonQt may give the same button another wrapper.
        return box.buttonRole(box.clickedButton()) == qt.QMessageBox.AcceptRole if box.clickedButton() else False

    def _install_all(self, missing: list[str]) -> None:
        self._log("Installing: " + ", ".join(missing))
        qt.QApplication.setOverrideCursor(qt.Qt.WaitCursor)
        try:
            if any(_name(line) in ("torch", "torchvision") for line in missing):
                self._install_torch()
            self._install([line for line in missing if _name(line) not in ("torch", "torchvision")])
        except ResourceError as error:
            self._log(error.problem)
            raise
        except Exception as error:
            # pip, the network and a full disk fail in many ways; each must become a message and a line in the log.
            logging.exception("RAUSlicer: the installation failed")
            self._log(f"{type(error).__name__}: {error}")
            raise ResourceError(
                _("The packages could not be installed: {error}").format(error=_first_line(error)),
                _("Usually there is no connection to the internet, a proxy is in the way, or the disk is full."),
                _(
                    "Check these and press the button again. Without internet, choose a Python that has the packages under Advanced. "
                    "The log below holds the details and can be copied."
                ),
            ) from error
        finally:
            qt.QApplication.restoreOverrideCursor()
        importlib.invalidate_caches()


def described(missing: Sequence[str]) -> list[str]:
    """What would be installed, how large it is, and where it comes from."""
    names = [_name(line) for line in missing]
    lines = []
    if "torch" in names or "torchvision" in names:
        lines.append(_("PyTorch, {size} GB on disk, through Slicer's PyTorch extension from download.pytorch.org.").format(size=_TORCH_GB))
    others = [name for name in names if name not in ("torch", "torchvision")]
    if others:
        lines.append(
            _("{names}: up to {size} GB on disk with what they need, from pypi.org.").format(names=", ".join(others), size=_OTHERS_GB)
        )
    lines.append(_("They go into Slicer's own Python. The models come with the extension. Nothing of your data leaves this computer."))
    return lines


def _install_torch() -> None:
    try:
        import PyTorchUtils
    except ImportError as error:
        raise ResourceError(
            _("Slicer's PyTorch extension is not installed."),
            _("It chooses the build of PyTorch that fits this computer and its GPU."),
            _("Install “PyTorch” in the Extensions Manager, restart Slicer, and press the button again."),
        ) from error
    PyTorchUtils.PyTorchUtilsLogic().installTorch(askConfirmation=False)


def _install(requirements: Sequence[str]) -> None:
    import slicer.packaging

    ordinary = [line for line in requirements if _name(line) != "sam2"]
    if ordinary:
        slicer.packaging.pip_ensure(ordinary, prompt_install=False, requester="RAUSlicer")
    if len(ordinary) < len(requirements):
        # An isolated build would fetch torch a second time, and its CUDA part is not needed.
        os.environ["SAM2_BUILD_CUDA"] = "0"
        slicer.packaging.pip_install(["--no-build-isolation", "sam2"])


def _met(line: str) -> bool:
    # Bundled with Slicer; imported here because the module must load fast.
    from packaging.requirements import Requirement

    requirement = Requirement(line)
    try:
        version = importlib.metadata.version(requirement.name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return requirement.specifier.contains(version, prereleases=True)


def _name(line: str) -> str:
    from packaging.requirements import Requirement

    return Requirement(line).name


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
