"""Too little memory in every guise: told as such, with less where there is less to do; and limits are read wherever they are set."""

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from safetensors import SafetensorError

from RAUSlicerLib import pipeline as pipelines
from RAUSlicerLib.cli.app import main
from RAUSlicerLib.errors import InputError, ModelError, OutOfMemory, OutputError
from RAUSlicerLib.full_size.memory import free_memory
from RAUSlicerLib.full_size.plan import Needs, place
from RAUSlicerLib.pipeline import Pipeline, transfer
from RAUSlicerLib.progress import CancelToken
from RAUSlicerLib.service.worker import _explained
from RAUSlicerLib.support.shortage import ended_for_memory, free_here, kills_for_memory, limited_memory, out_of_memory, with_less

linux = pytest.mark.skipif(sys.platform != "linux", reason="limits of Linux")


def raised(allocate: Callable[[], object]) -> Exception:
    """What a library really raises."""
    with pytest.raises((MemoryError, RuntimeError)) as caught:
        allocate()
    return caught.value


GUISES = {
    "torch": lambda: raised(lambda: torch.empty(2**60)),
    "numpy": lambda: raised(lambda: np.ones(2**60, np.uint8)),
    "ITK": lambda: raised(lambda: sitk.Image([2**20] * 3, sitk.sitkUInt8)),
    "Python": lambda: MemoryError(),
    "CUDA": lambda: torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    "CUDA, later": lambda: RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"),
    "cuBLAS": lambda: RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    "cuDNN": lambda: RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    "Apple": lambda: RuntimeError("MPS backend out of memory (MPS allocated: 5.11 GB, max allowed: 9.07 GB)"),
    "torch on Windows": lambda: RuntimeError("[enforce fail at alloc_cpu.cpp:121] data. DefaultCPUAllocator: not enough memory: you tried"),
    "oneDNN": lambda: RuntimeError("could not create a primitive"),
    "oneDNN's memory": lambda: RuntimeError("could not create a memory object"),
    "C++": lambda: RuntimeError("std::bad_alloc"),
    "C++ on Windows": lambda: RuntimeError("bad allocation"),
    "mapped files": lambda: RuntimeError("unable to mmap 8388608 bytes from file </m/model.safetensors>: Cannot allocate memory (12)"),
    "safetensors": lambda: SafetensorError("Error while reading: Cannot allocate memory (os error 12)"),
    "safetensors' mapping": lambda: OSError("Cannot allocate memory (os error 12)"),
    "the system": lambda: OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)),
    "a library that can't be mapped": lambda: ImportError("libtorch_cpu.so: failed to map segment from shared object"),
    "a library that can't be held": lambda: ImportError("libmkl_core.so: cannot allocate memory"),
    "threads": lambda: RuntimeError("can't start new thread"),
    "a model that can't be held": lambda: wrapped(ModelError, OSError(errno.ENOMEM, "Cannot allocate memory")),
    "a result that can't be held": lambda: wrapped(OutputError, MemoryError()),
}
OTHERS = {
    "an operation that oneDNN lacks": lambda: RuntimeError("could not create a primitive descriptor for the matmul primitive"),
    "a library that is loaded too late": lambda: ImportError("libgomp.so.1: cannot allocate memory in static TLS block"),
    "a name": lambda: ValueError("there is no structure 'out of memory'"),
    "a full disk": lambda: OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
    "an input with an absurd header": lambda: wrapped(InputError, RuntimeError("Failed to allocate memory for image.")),
    "a damaged model": lambda: wrapped(ModelError, OSError(errno.EIO, "Input/output error")),
    "a bug": lambda: ZeroDivisionError("division by zero"),
}


def wrapped(kind: type[Exception], cause: Exception) -> Exception:
    error = kind("It can't be read.", "It is damaged.", "Get it again.")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize("make", GUISES.values(), ids=GUISES.keys())
def test_every_guise_is_told_as_memory(monkeypatch, capsys, make):
    error = make()
    assert out_of_memory(error)

    def fail(_options):
        raise error

    monkeypatch.setattr("RAUSlicerLib.cli.models.run_models", fail)
    assert main(["models", "list"]) == 6
    said = capsys.readouterr().err
    assert "ran out of memory" in said and "Close other programs" in said and "fault" not in said
    told = _explained(error)
    assert (told.code, told.problem) == ("memory", "The computer ran out of memory.") and told.explanation and told.solution


@pytest.mark.parametrize("make", OTHERS.values(), ids=OTHERS.keys())
def test_what_is_no_matter_of_memory_is_not(make):
    assert not out_of_memory(make())


def test_less_is_tried_and_said():
    tried: list[tuple[str, int]] = []

    def run(device, economy):
        tried.append((device, economy))
        if len(tried) < 4:
            raise torch.OutOfMemoryError("CUDA out of memory.") if device == "auto" else RuntimeError("could not create a primitive")
        return "done"

    freed: list[int] = []
    found, notes = with_less(run, "auto", uses_gpu=lambda device: device == "auto", again=lambda: freed.append(1))
    assert found == "done" and tried == [("auto", 0), ("cpu", 0), ("cpu", 1), ("cpu", 2)] and len(freed) == 3
    assert len(notes) == 2 and "repeated on the CPU" in notes[0] and "16 times fewer voxels" in notes[1]


def test_what_is_too_large_however_small_ends_with_one_error_and_a_cancel_ends_at_once():
    tries = []

    def run(_device, _economy):
        tries.append(1)
        raise MemoryError

    with pytest.raises(OutOfMemory, match="tried 3 times"):
        with_less(run, "cpu", uses_gpu=lambda _device: False, again=lambda: None)
    assert len(tries) == 3
    cancel = CancelToken()
    cancel.cancel()
    with pytest.raises(OutOfMemory):
        with_less(run, "cpu", uses_gpu=lambda _device: False, again=lambda: None, cancel=cancel)
    assert len(tries) == 4
    with pytest.raises(ZeroDivisionError):
        with_less(lambda _device, _economy: 1 / 0, "cpu", uses_gpu=lambda _device: False, again=lambda: None)


@pytest.mark.usefixtures("coarse")
def test_a_transfer_of_the_command_line_is_made_smaller_too(tiny_model, case, monkeypatch):
    real = Pipeline.transfer
    economies = []

    def short(self, *given, economy, **more):
        economies.append(economy)
        if economy == 0:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes.")
        return real(self, *given, economy=economy, **more)

    monkeypatch.setattr(pipelines.Pipeline, "transfer", short)
    result = transfer(case, case.volume, ["body"], model=str(tiny_model), device="cpu")
    assert economies == [0, 1] and result.results[0].structure.name == "body"
    assert any("4 times fewer voxels" in warning for warning in result.warnings)


def tree(root: Path, groups: dict[str, dict[str, object]], mounts: list[str], own: list[str]) -> Path:
    """A made-up Linux with 16 GiB free: groups' files by their folder, and the lines of mountinfo and of this process's groups."""
    files = {
        "proc/meminfo": "MemTotal: 33554432 kB\nMemAvailable: 16777216 kB\n",
        "proc/self/mountinfo": "".join(f"{line}\n" for line in mounts),
        "proc/self/cgroup": "".join(f"{line}\n" for line in own),
        "proc/self/status": "VmSize: 1000000 kB\nVmData: 500000 kB\nVmRSS: 100000 kB\n",
    }
    for folder, given in groups.items():
        files |= {f"sys/fs/cgroup/{folder}/{name}": f"{value}\n" for name, value in given.items()}
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


MB = 2**20
V1 = "35 31 0:32 {root} /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory"
V2 = "30 23 0:26 {root} /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate"
NONE = 9223372036854771712


def first(limit: object, used: int, files: int = 0) -> dict[str, object]:
    return {"memory.limit_in_bytes": limit, "memory.usage_in_bytes": used, "memory.stat": f"inactive_file 1\ntotal_inactive_file {files}"}


def second(limit: object, used: int, files: int = 0, high: object = "max") -> dict[str, object]:
    return {"memory.max": limit, "memory.high": high, "memory.current": used, "memory.stat": f"anon 5\ninactive_file {files}"}


LIMITED, LIMITED_2, ROOT_1, ROOT_2 = first(800 * MB, 300 * MB), second(800 * MB, 300 * MB), V1.format(root="/"), V2.format(root="/")
CPU = "34 31 0:31 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu"
UNIFIED = "41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw"
# The files of groups, the lines of mounts, those of this process's groups, and the MB that are free.
CASES = {
    "no group": ({}, [], [], 16384),
    "version 1": ({"memory/job": LIMITED}, [ROOT_1], ["4:memory:/job"], 500),
    "version 1 without a limit": ({"memory/job": first(NONE, 300 * MB)}, [ROOT_1], ["4:memory:/job"], 16384),
    "version 1, seen from inside": ({"memory": LIMITED}, [V1.format(root="/docker/abc")], ["4:memory:/docker/abc"], 500),
    "version 1 among others": ({"memory/job": LIMITED}, [CPU, ROOT_1], ["9:name=systemd:/", "4:cpu,memory:/job", "1:cpu:/other"], 500),
    "version 1, a group in a group": (
        {"memory/job": first(900 * MB, 300 * MB), "memory/job/step": first(NONE, 100 * MB)},
        *([ROOT_1], ["4:memory:/job/step"], 600),
    ),
    "version 2": ({"job": LIMITED_2}, [ROOT_2], ["0::/job"], 500),
    "version 2 without a limit": ({"job": second("max", 300 * MB)}, [ROOT_2], ["0::/job"], 16384),
    "version 2, seen from inside": ({"": LIMITED_2}, [ROOT_2], ["0::/"], 500),
    "version 2, a group in a group": (*({"a": second(700 * MB, 600 * MB), "a/b": second(800 * MB, 100 * MB)}, [ROOT_2], ["0::/a/b"], 100),),
    "version 2, a limit that slows": ({"job": second("max", 300 * MB, high=400 * MB)}, [ROOT_2], ["0::/job"], 100),
    "files that were read are given back": ({"job": second(800 * MB, 700 * MB, 400 * MB)}, [ROOT_2], ["0::/job"], 500),
    "version 1, files are given back": ({"memory/job": first(800 * MB, 700 * MB, 400 * MB)}, [ROOT_1], ["4:memory:/job"], 500),
    "both versions": ({"memory/job": LIMITED, "unified/job": {}}, [ROOT_1, UNIFIED], ["4:memory:/job", "0::/job"], 500),
    "more used than allowed": ({"job": second(300 * MB, 400 * MB)}, [ROOT_2], ["0::/job"], 0),
    "lines that say nothing": ({"job": LIMITED_2}, ["nonsense"], ["0::/job"], 16384),
}


@linux
@pytest.mark.parametrize(("groups", "mounts", "own", "expected"), CASES.values(), ids=CASES.keys())
def test_limits_of_containers_are_read(tmp_path, groups, mounts, own, expected):
    assert free_here(tree(tmp_path, groups, mounts, own)) == expected * MB


@linux
def test_a_plan_keeps_to_a_containers_limit(tmp_path, monkeypatch):
    root = tree(tmp_path, {"memory/job": first(900 * MB, 300 * MB)}, [V1.format(root="/")], ["4:memory:/job"])
    monkeypatch.setattr("RAUSlicerLib.full_size.memory.free_here", lambda: free_here(root))
    assert free_memory(torch.device("cpu")) == 600 * MB
    with pytest.raises(Exception, match=r"0\.6 GB are free"):
        place(Needs("large", 2 * 10**9, 0), torch.device("cpu"))


@linux
def test_limits_of_a_shell_are_read(tmp_path, monkeypatch):
    import resource

    given = {resource.RLIMIT_AS: 3000000 * 1024, resource.RLIMIT_DATA: resource.RLIM_INFINITY}
    monkeypatch.setattr(resource, "getrlimit", lambda which: (given[which], resource.RLIM_INFINITY))
    root = tree(tmp_path, {}, [], [])
    assert free_here(root) == 2000000 * 1024
    given[resource.RLIMIT_DATA] = 600000 * 1024
    assert free_here(root) == 100000 * 1024


@linux
def test_a_limit_is_lifted_again():
    import resource

    before = resource.getrlimit(resource.RLIMIT_DATA)
    with limited_memory(1):
        assert resource.getrlimit(resource.RLIMIT_DATA) != before
    assert resource.getrlimit(resource.RLIMIT_DATA) == before


@pytest.mark.parametrize(
    ("code", "last", "kills", "told"),
    [
        (1, ["OpenBLAS error: Memory allocation still failed after 10 retries, giving up."], (None, None), "library"),
        (-6, ["terminate called after throwing an instance of 'std::bad_alloc'", "  what():  std::bad_alloc"], (2, 2), "library"),
        (-9, ["computing"], (2, 3), "operating system"),
        (137, [], (0, 1), "operating system"),
        (-9, [], (2, 2), None),
        (-9, [], (None, None), None),
        (3, ["done"], (2, 3), None),
        (0, ["std::bad_alloc"], (2, 3), None),
    ],
)
def test_a_process_that_ended_for_memory_is_known(code, last, kills, told):
    found = ended_for_memory(code, last, kills)
    assert found is None if told is None else found is not None and told in found


@linux
def test_the_system_counts_whom_it_killed(tmp_path):
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc" / "vmstat").write_text("nr_free_pages 5\noom_kill 7\n")
    assert kills_for_memory(tmp_path) == 7 and kills_for_memory(tmp_path / "nothing") is None


@linux
@pytest.mark.parametrize("room_mb", [150, 700])
def test_a_command_that_really_runs_out_reports_it(room_mb, tmp_path, tiny_model, case):
    """At first torch itself can't be mapped, then the run's volumes can't be held."""
    for image, name in ((case.volume, "volume.nrrd"), (case.segmentation.labelmap, "labels.nrrd")):
        # A hundred times the voxels.
        larger = sitk.Expand(image, [5, 5, 4], sitk.sitkNearestNeighbor)
        sitk.WriteImage(larger, str(tmp_path / name))
    code = (
        "import resource, sys; from pathlib import Path\n"
        "from RAUSlicerLib.cli.app import main; from RAUSlicerLib.support.shortage import _kilobytes\n"
        f"{'' if room_mb < 500 else 'import RAUSlicerLib.pipeline'}\n"
        f"limit = 1024 * _kilobytes(Path('/proc/self/status'), 'VmSize') + {room_mb} * 2**20\n"
        "resource.setrlimit(resource.RLIMIT_AS, (limit, limit))\n"
        "sys.exit(main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", code, "transfer", "--reference", "volume.nrrd", "--reference-segmentation", "labels.nrrd"]
    command += ["--target", "volume.nrrd", "--output", "out.nrrd", "--model", str(tiny_model), "--device", "cpu"]
    few = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env={**os.environ, **few}, check=False)
    assert done.returncode == 6, done.stderr
    assert "ran out of memory" in done.stderr and "Close other programs" in done.stderr
    assert not (tmp_path / "out.nrrd").exists()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_no_room_on_a_disk_is_told_as_such_whoever_meets_it(number, monkeypatch, capsys):
    """A file longer than it may be was "can't be started" to the client, and everything of it a fault to the command line."""
    from RAUSlicerLib.full_size import download
    from RAUSlicerLib.service import client

    error = OSError(number, os.strerror(number))

    def full(*_arguments, **_named):
        raise error

    monkeypatch.setattr("RAUSlicerLib.cli.models.run_models", full)
    assert main(["models", "list"]) == 4 and "its disk is full" in capsys.readouterr().err
    monkeypatch.setattr(client, "ExchangeFolder", full)
    with pytest.raises(OutputError, match="its disk is full"):
        client.WorkerClient().start()
    assert _explained(error).problem == "The temporary folder can't be written: its disk is full."
    assert isinstance(download._explained("a/b", "main", error), OutputError)
