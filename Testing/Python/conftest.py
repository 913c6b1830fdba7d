"""Fixtures that every room's tests share: development data where it is at hand, small synthetic volumes everywhere."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from RAUSlicerLib.full_size.sam2_checkpoints import SIZES
from RAUSlicerLib.imaging.segmentation import Reference, Segmentation, Structure
from RAUSlicerLib.matching.network import MatchingConfig, MatchingNet
from RAUSlicerLib.models.checkpoint import save_checkpoint
from RAUSlicerLib.pipeline import Pipeline
from RAUSlicerLib.rau.network import RauVlm, VlmConfig
from RAUSlicerLib.rau.sam2 import MemorySegmenter, Sam2Config
from RAUSlicerLib.refinement.network import RefinerConfig, RefinerNet

REPOSITORY = Path(__file__).parents[2]

# The tests' tensors are small: on a busy machine threads that wait for each other cost ten times what they bring.
torch.set_num_threads(1)

# Started in the background by a shell, or under nohup, the suite and all that it starts would ignore these; tests send them.
for _name in ("SIGINT", "SIGHUP"):
    if hasattr(signal, _name) and signal.getsignal(getattr(signal, _name)) == signal.SIG_IGN:
        signal.signal(getattr(signal, _name), signal.default_int_handler if _name == "SIGINT" else signal.SIG_DFL)


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The development data set; tests that ask for it are skipped where it is absent."""
    folder = Path(os.environ.get("RAUSLICER_DATA") or REPOSITORY.parent / "shared" / "data")
    if not (folder / "splits.json").is_file():
        pytest.skip(f"no development data at {folder} (set RAUSLICER_DATA)")
    return folder


@pytest.fixture
def in_time() -> Iterator[None]:
    """Fails what hangs, on a pipe or in an endless computation, instead of the whole suite."""
    if not hasattr(signal, "SIGALRM"):
        yield
        return

    def fail(*_: object) -> None:
        pytest.fail("it hangs")

    before = signal.signal(signal.SIGALRM, fail)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


MakeEllipsoids = Callable[..., Reference]
TINY_SAM2: dict[str, Any] = {
    **{"embed_dim": 16, "stages": (1, 1, 2, 1), "global_att_blocks": (3,), "window_spec": (8, 4, 4, 2), "d_model": 32},
    **{"window_pos_embed_bkg_spatial_size": (4, 4), "memory_dim": 16, "memory_layers": 1, "feedforward": 64},
}


@pytest.fixture(scope="session")
def make_ellipsoids() -> MakeEllipsoids:
    """Builds a volume of one large ellipsoid with a bright one on its left and a dark one on its right, all labelled."""

    def make(
        size: tuple[int, int, int] = (48, 56, 40),
        spacing: tuple[float, float, float] = (2.0, 2.0, 2.0),
        scale: tuple[float, float, float] = (1.0, 1.0, 1.0),
        shift: tuple[float, float, float] = (0.0, 0.0, 0.0),
        seed: int = 0,
    ) -> Reference:
        axes = [(np.arange(n) - (n - 1) / 2) * step for n, step in zip(size, spacing, strict=True)]
        z, y, x = np.meshgrid(axes[2], axes[1], axes[0], indexing="ij")

        def ellipsoid(centre: tuple[float, float, float], radii: tuple[float, float, float]) -> np.ndarray:
            terms = [((w / s - c - d / s) / r) ** 2 for w, s, c, d, r in zip((x, y, z), scale, centre, shift, radii, strict=True)]
            return sum(terms) < 1

        labels = np.zeros(x.shape, np.uint8)
        labels[ellipsoid((0, 0, 0), (36, 44, 30))] = 1
        labels[ellipsoid((15, 5, 2), (9, 14, 10))] = 2
        labels[ellipsoid((-16, -8, -4), (8, 10, 12))] = 3
        noise = np.random.default_rng(seed).normal(0, 3, x.shape)
        volume = sitk.GetImageFromArray((np.array([0, 100, 180, 40])[labels] + noise * (labels > 0)).astype(np.float32))
        labelmap = sitk.GetImageFromArray(labels)
        for image in (volume, labelmap):
            image.SetSpacing(spacing)
            image.SetOrigin((-50.0, 20.0, 300.0))
        structures = (Structure(1, "body"), Structure(2, "left organ"), Structure(3, "right organ"))
        return Reference(volume, Segmentation(labelmap, structures))

    return make


@pytest.fixture(scope="session")
def case(make_ellipsoids: MakeEllipsoids) -> Reference:
    """A small case that is matched in a second or two."""
    return make_ellipsoids(size=(40, 46, 20), spacing=(2.4, 2.4, 3.6))


@pytest.fixture(scope="module")
def coarse() -> Iterator[None]:
    """Volumes are matched on few voxels: what most tests ask does not depend on the scale."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("RAUSlicerLib.imaging.frame.WORKING_EXTENT", 36)
        yield


@pytest.fixture(scope="session")
def tiny_sam2() -> Sam2Config:
    """SAM2.1 in everything but its sizes: the smallest real one takes seconds a slice."""
    return replace(SIZES["sam2.1-hiera-tiny"], image_size=64, encoder_size=128, **TINY_SAM2)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder with random weights, small enough to run in seconds. It matches a volume to itself and knows nothing else."""
    torch.manual_seed(0)
    backbone = dict(VlmConfig().backbone, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1, head_dim=16)
    parts = {
        "matching": MatchingNet(MatchingConfig(widths=(8, 8, 16), fine_dim=16, coarse_dim=16, labels=(5, 3))),
        "refiner": RefinerNet(RefinerConfig(widths=(8, 8, 16))),
        "vlm": RauVlm(VlmConfig(vision_dim=32, image_tokens=4, backbone=backbone | {"intermediate_size": 64})),
        "sam2": MemorySegmenter(Sam2Config(image_size=64, query_dim=32, **TINY_SAM2)),
    }
    folder = tmp_path_factory.mktemp("models") / "tiny"
    for name, network in parts.items():
        config = network.config.to_dict()
        if name == "matching":
            config["calibration"] = {"intercept": -2.0, "weights": {"round_trip_dice": 4.0}, "low": 0.5, "absent": 0.2}
        save_checkpoint(
            folder / name, config, network.state_dict(), "A model for tests.", name="tiny", kind=config["model_type"], licence="none"
        )
    return folder


@pytest.fixture(scope="session")
def hub_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A backbone whose weights take a while to send: 13 MB."""
    from RAUSlicerLib.training.tiny_backbone import make_tiny_backbone

    return make_tiny_backbone(tmp_path_factory.mktemp("hub") / "tiny", "qwen3_vl", width=512)


@pytest.fixture
def hub(hub_files: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A hub on this machine with the repository Qwen/tiny: see hub_server.py."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    from hub_server import Hub

    server = Hub(hub_files)
    yield server
    server.close()


@pytest.fixture(scope="session")
def tiny_pipeline(tiny_model: Path) -> Pipeline:
    return Pipeline(str(tiny_model), "cpu")


class SmallDisk:
    """A file system of 256 KiB that can be filled to the last byte."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def fill(self, leaving: int = 0) -> None:
        """Fill it but for so many bytes."""
        with open(self.path / "filler", "wb", buffering=0) as filler:
            try:
                while True:
                    filler.write(b"x" * 1024)
            except OSError as error:
                assert error.errno == errno.ENOSPC
            filler.truncate(filler.tell() - leaving)

    def free(self) -> None:
        (self.path / "filler").unlink()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    """A small disk; skipped where this user may not mount one."""
    path = tmp_path / "small"
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(path)]
    if sys.platform != "linux" or os.getuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small disk needs Linux and the rights of root")
    yield SmallDisk(path)
    subprocess.run(["umount", "--lazy", str(path)], check=True)


@pytest.fixture
def cuda() -> Iterator[Any]:
    """A pretended CUDA device: see devices/pretended_cuda.py. What it has computed is in ``calls``."""
    with pretended_device() as device:
        yield device


@contextmanager
def pretended_device() -> Iterator[Any]:
    """As the fixture ``cuda``, for others that keep it longer."""
    if torch.cuda.is_available():
        pytest.skip("this machine has a real GPU: make gpu-check")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(REPOSITORY / "Testing" / "Python" / "devices"))
        from pretended_cuda import pretended_cuda
    with pretended_cuda() as device:
        yield device


@pytest.fixture(scope="module")
def cuda_for_all() -> Iterator[Any]:
    """The same for all tests of a module, which then have to leave it alone."""
    with pretended_device() as device:
        yield device


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's folder of models, empty."""
    from RAUSlicerLib.models.folders import FOLDER_VARIABLE

    folder = tmp_path / "models"
    monkeypatch.setenv(FOLDER_VARIABLE, str(folder))
    return folder
