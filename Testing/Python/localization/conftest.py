import pytest

from RAUSlicerLib.imaging.segmentation import Reference


@pytest.fixture(scope="module")
def case(make_ellipsoids) -> Reference:
    return make_ellipsoids(size=(40, 46, 20), spacing=(2.4, 2.4, 3.6))


@pytest.fixture
def coarse(monkeypatch: pytest.MonkeyPatch) -> None:
    """Volumes are matched on few voxels."""
    monkeypatch.setattr("RAUSlicerLib.imaging.frame.WORKING_EXTENT", 36)
