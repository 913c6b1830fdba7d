import subprocess
import sys
from pathlib import Path

import pytest
import torch

from RAUSlicerLib import __version__
from RAUSlicerLib.cli import app as cli
from RAUSlicerLib.cli.app import main
from RAUSlicerLib.models.checkpoint import save_checkpoint
from RAUSlicerLib.models.folders import FOLDER_VARIABLE


def exit_code(arguments: list[str]) -> int:
    """The code that the shell would see; argparse leaves by SystemExit."""
    try:
        return main(arguments)
    except SystemExit as leaving:
        return int(leaving.code or 0)


def test_help_imports_no_heavy_library():
    program = (
        "import sys\nfrom RAUSlicerLib.cli.app import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "print(sorted({'torch', 'SimpleITK', 'numpy', 'matplotlib'} & set(sys.modules)))"
    )
    output = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert output.splitlines()[-1] == "[]"


@pytest.mark.parametrize("command", [[], ["transfer"], ["models"], ["benchmark"], ["demo"]])
def test_every_help_documents_exit_codes_and_intended_use(command, capsys):
    assert exit_code([*command, "--help"]) == 0
    shown = capsys.readouterr().out
    assert "exit codes:" in shown and "130" in shown and "Research use only" in shown


def test_version(capsys):
    assert exit_code(["--version"]) == 0
    assert __version__ in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments",
    [[], ["transmogrify"], ["transfer"], ["models"], ["demo", "--device", "tpu"], ["benchmark", "--output", "x", "--limit", "few"]],
)
def test_wrong_usage_is_2(arguments):
    assert exit_code(arguments) == 2


def test_an_interrupt_is_130(monkeypatch):
    def interrupt(_options):
        raise KeyboardInterrupt

    monkeypatch.setattr("RAUSlicerLib.cli.models.run_models", interrupt)
    assert main(["models", "list"]) == cli.CANCELLED == 130


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "home"))
    folder = tmp_path / "tiny"
    save_checkpoint(folder / "sam2", {}, {"w": torch.ones(2)}, "# Card", name="tiny", kind="sam2", licence="CC0-1.0")
    return folder


def test_a_model_is_added_listed_verified_and_removed(model, capsys):
    assert main(["models", "add", str(model)]) == 0
    assert main(["models", "list"]) == 0
    listed = capsys.readouterr().out
    assert "tiny" in listed and "CC0-1.0" in listed
    assert main(["models", "verify", "tiny"]) == 0
    assert main(["models", "remove", "tiny"]) == 0
    capsys.readouterr()
    assert main(["models", "list"]) == 0
    assert "CC0-1.0" not in capsys.readouterr().out


def test_a_damaged_model_is_5_and_the_file_is_named(model, tmp_path, capsys):
    assert main(["models", "add", str(model)]) == 0
    (tmp_path / "home" / "tiny" / "sam2" / "model.safetensors").write_bytes(b"")
    assert main(["models", "verify"]) == 5
    assert "model.safetensors" in capsys.readouterr().err


def test_the_embedded_model_can_not_be_removed(model, capsys):
    assert main(["models", "remove", "embedded"]) == 5
    assert "'embedded'" in capsys.readouterr().err
