"""Tiny random checkpoints of the large architectures, installed in a user's folder of the tests' own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from RAUSlicerLib.full_size import adding, composing, sam2_checkpoints
from RAUSlicerLib.models import store
from RAUSlicerLib.rau.sam2 import Sam2Config, build_sam2
from RAUSlicerLib.training.tiny_backbone import KINDS, make_tiny_backbone


@pytest.fixture(scope="session")
def backbones(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Hugging Face folders of a tiny Qwen2.5-VL and a tiny Qwen3-VL."""
    home = tmp_path_factory.mktemp("backbones")
    return {kind: make_tiny_backbone(home / kind, kind) for kind in KINDS}


@pytest.fixture(scope="session")
def sam2_file(tmp_path_factory: pytest.TempPathFactory, tiny_sam2: Sam2Config) -> Path:
    """A ``.pt`` file as Meta publishes them, of a tiny network."""
    torch.manual_seed(1)
    path = tmp_path_factory.mktemp("sam2") / "sam2.1_hiera_tiny.pt"
    torch.save({"model": build_sam2(tiny_sam2).state_dict()}, path)
    return path


@pytest.fixture
def sizes(monkeypatch: pytest.MonkeyPatch, tiny_sam2: Sam2Config) -> None:
    """SAM2.1's sizes are the tiny one alone."""
    known = {"sam2.1-hiera-tiny": tiny_sam2}
    monkeypatch.setattr(sam2_checkpoints, "SIZES", known)
    monkeypatch.setattr(composing, "SIZES", known)


@pytest.fixture
def installed(home: Path, sizes: None, backbones: dict[str, Path], sam2_file: Path) -> Iterator[Path]:
    """The user's folder with both backbones and the SAM2."""
    for folder in backbones.values():
        adding.add(folder)
    adding.add(sam2_file, "sam2.1")
    yield home


@pytest.fixture
def small_matching(monkeypatch: pytest.MonkeyPatch, tiny_model: Path) -> None:
    """In the embedded model's place stands a tiny one, which matches a volume to itself."""
    real, embedded = store.resolve, store.ModelFolder("tiny", tiny_model, embedded=True)
    monkeypatch.setattr("RAUSlicerLib.loading.resolve", lambda name: embedded if name == store.EMBEDDED else real(name))
