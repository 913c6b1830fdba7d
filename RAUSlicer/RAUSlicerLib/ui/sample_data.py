"""The embedded pair in Slicer's Sample Data module, by file URL: it works without internet."""

from __future__ import annotations

from pathlib import Path

import slicer

from ..support.resources import resource_path

CATEGORY = "RAUSlicer"
NAME = "RAUSlicerBrainPair"
# (file, name in the scene, what kind of file Slicer reads it as)
_FILES = (
    ("reference.nii.gz", "Colin27 T1", "VolumeFile"),
    ("reference.seg.nrrd", "AAL structures", "SegmentationFile"),
    ("target.nii.gz", "ICBM152 T1", "VolumeFile"),
)


def register(icon: str) -> None:
    """Add the pair to the Sample Data module; does nothing in an application without that module.

    Args:
        icon: Picture file of its button.
    """
    try:
        import SampleData
    except ImportError:
        return
    folder = resource_path("SampleData")
    SampleData.SampleDataLogic.registerCustomSampleDataSource(
        category=CATEGORY,
        sampleName=NAME,
        uris=[(folder / file).as_uri() for file, _name, _kind in _FILES],
        # Names of files in Slicer's cache, which all extensions share.
        fileNames=[f"RAUSlicer-{file}" for file, _name, _kind in _FILES],
        nodeNames=[name for _file, name, _kind in _FILES],
        loadFileTypes=[kind for _file, _name, kind in _FILES],
        thumbnailFileName=icon,
    )


def load() -> tuple:
    """Load the pair from where it lies: (reference volume, its segmentation, target volume).

    Raises:
        ResourceError: the sample data was not shipped.
    """
    folder: Path = resource_path("SampleData")
    reference, segmentation, target = _FILES
    return (
        slicer.util.loadVolume(str(folder / reference[0]), {"name": reference[1]}),
        slicer.util.loadSegmentation(str(folder / segmentation[0]), {"name": segmentation[1]}),
        slicer.util.loadVolume(str(folder / target[0]), {"name": target[1]}),
    )
