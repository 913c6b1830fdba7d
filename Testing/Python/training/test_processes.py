"""Training on two processes: the same as on one, and it goes on after a crash."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import RAUSlicerLib

SCRIPT = Path(__file__).parent / "two_processes.py"
TWO = ["-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2", "--num_machines", "1", "--mixed_precision", "no"]
FEW = ["--dynamo_backend", "no", "--main_process_port", "0"]


def trained(output: Path, processes: int, crash_at: int = -1) -> tuple[int, dict]:
    launcher = [sys.executable, *TWO, *FEW] if processes == 2 else [sys.executable]
    environment = {**os.environ, "PYTHONPATH": str(Path(RAUSlicerLib.__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*launcher, str(SCRIPT), str(output), str(crash_at)], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0 or crash_at >= 0, done.stderr[-3000:]
    return done.returncode, torch.load(output / "state.pt", weights_only=True)


@pytest.mark.slow
def test_two_processes_learn_what_one_does_and_go_on_after_a_crash(tmp_path: Path) -> None:
    _, one = trained(tmp_path / "one", 1)
    _, two = trained(tmp_path / "two", 2)
    code, broken = trained(tmp_path / "broken", 2, crash_at=4)
    assert code != 0 and broken["step"] < one["step"] == two["step"]
    _, resumed = trained(tmp_path / "broken", 2)
    assert set(one["model"]) == {"learned.weight", "learned.bias"}
    for key, value in one["model"].items():
        torch.testing.assert_close(two["model"][key], value)
        torch.testing.assert_close(resumed["model"][key], two["model"][key])
        torch.testing.assert_close(resumed["ema"][key], two["ema"][key])
        assert not torch.equal(broken["model"][key], value)
