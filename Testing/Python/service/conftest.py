import os
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from RAUSlicerLib.imaging.grids import from_array
from RAUSlicerLib.imaging.segmentation import Reference, Segmentation, Structure
from RAUSlicerLib.service.client import WorkerClient

HERE = Path(__file__).parent


@pytest.fixture
def temporary(tmp_path):
    folder = tmp_path / "exchange"
    folder.mkdir()
    return folder


@pytest.fixture
def client(temporary):
    """A client of the real worker."""
    client = WorkerClient(temporary_folder=temporary)
    yield client
    client.stop()


@pytest.fixture
def release(tmp_path, monkeypatch):
    """release(): let a step of the scripted pipeline end that hears nothing until then."""
    path = tmp_path / "release"
    monkeypatch.setenv("SCRIPTED_RELEASE", str(path))
    return path.touch


@pytest.fixture
def scripted(temporary, release):
    """A client of the real worker around a scripted pipeline."""
    client = WorkerClient(temporary_folder=temporary, command=[sys.executable, "-u", str(HERE / "scripted_worker.py")])
    yield client
    client.stop()


@pytest.fixture
def tiny(temporary, tiny_model):
    """A client of the real worker with the real pipeline; the tiny model is found in an offline folder of models."""
    environment = {**os.environ, "RAUSLICER_MODELS": str(tiny_model.parent), "OMP_NUM_THREADS": "1"}
    client = WorkerClient(temporary_folder=temporary, environment=environment, command=[sys.executable, "-u", str(HERE / "tiny_worker.py")])
    yield client
    client.stop()


@pytest.fixture
def case():
    """A reference with two overlapping structures, and a target, on oblique grids."""
    rng = np.random.default_rng(0)
    volume = sitk.GetImageFromArray(rng.integers(-1000, 1000, (5, 6, 7), dtype=np.int16))
    volume.SetSpacing((0.7, 1.1, 2.5))
    volume.SetOrigin((-12.3, 45.6, 78.9))
    turn = sitk.Euler3DTransform((0, 0, 0), 0.3, -0.2, 0.5)
    volume.SetDirection(turn.GetMatrix())
    layers = []
    for low, high in ((0, 4), (2, 5)):
        array = np.zeros((5, 6, 7), np.uint8)
        array[low:high, 1:3, 2:5] = 7
        layer = from_array(array, volume)
        layers.append(layer)
    liver = Structure(7, "Leber, groß", (0.1, 0.2, 0.3), "a~b^c", id="Segment_1.2")
    tumor = Structure(7, "Tumor", (1.0, 0.0, 0.0), None, layer=1, id="t")
    missing = Structure(9, "Gone", (0.0, 1.0, 0.0), None, layer=0, id="g")
    return Reference(volume, Segmentation(layers[0], (liver, tumor, missing), (layers[1],))), sitk.Cast(volume, sitk.sitkFloat32)
