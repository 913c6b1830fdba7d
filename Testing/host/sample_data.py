"""The registry of Slicer's Sample Data module, with the application's arguments: what extensions register can be looked at and loaded."""

from __future__ import annotations

import dataclasses
import shutil
import sys
import types
import urllib.parse
import urllib.request
from pathlib import Path

import slicer
import slicer.util


@dataclasses.dataclass
class SampleDataSource:
    """One button of the Sample Data module."""

    sampleName: str
    uris: list
    fileNames: list
    nodeNames: list
    thumbnailFileName: str
    loadFileTypes: list


class SampleDataLogic:
    """Registers sources and loads them; only file URLs, since the host has no network."""

    @staticmethod
    def registerCustomSampleDataSource(
        category="Custom",
        sampleName=None,
        uris=None,
        fileNames=None,
        nodeNames=None,
        customDownloader=None,
        thumbnailFileName=None,
        loadFileTypes=None,
        loadFiles=None,
        loadFileProperties=None,
        checksums=None,
        loadFileType=None,
    ) -> None:
        source = SampleDataSource(sampleName, uris, fileNames, nodeNames, thumbnailFileName, loadFileTypes)
        sources = slicer.modules.sampleDataSources.setdefault(category, [])
        if source not in sources:
            sources.append(source)

    def downloadFromSource(self, source: SampleDataSource) -> list:
        """Copy the files to the cache and load them."""
        cache = Path(slicer.app.temporaryPath)
        nodes = []
        for uri, file, name, kind in zip(source.uris, source.fileNames, source.nodeNames, source.loadFileTypes, strict=True):
            path = Path(urllib.request.url2pathname(urllib.parse.urlparse(uri).path))
            shutil.copyfile(path, cache / file)
            load = slicer.util.loadSegmentation if kind == "SegmentationFile" else slicer.util.loadVolume
            nodes.append(load(str(cache / file), {"name": name}))
        return nodes


def install() -> None:
    """Make ``import SampleData`` work, as it does in the application."""
    module = types.ModuleType("SampleData")
    module.SampleDataLogic, module.SampleDataSource = SampleDataLogic, SampleDataSource
    sys.modules["SampleData"] = module
    slicer.modules.sampleDataSources = {}
