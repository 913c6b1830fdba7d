"""A handful of terminology entries: the terminologies logic reports errors when its folder is empty."""

from __future__ import annotations

import json
from pathlib import Path

_SCHEMA = "https://raw.githubusercontent.com/qiicr/dcmqi/master/doc/"
_CONTEXTS = {
    "SegmentationCategoryTypeModifier-SlicerGeneralAnatomy": "Segmentation category and type - 3D Slicer General Anatomy list",
    "SegmentationCategoryTypeModifier-DICOM-Master": "Segmentation category and type - DICOM master list",
}


def write(folder: Path) -> Path:
    """Write the terminology files into a folder and return it."""
    types = [_type("10200004", "Liver", [221, 130, 101]), _type("78961009", "Spleen", [157, 108, 162])]
    categories = [
        {**_code("123037004", "Anatomical Structure"), "showAnatomy": "true", "Type": types},
        {**_code("85756007", "Tissue"), "showAnatomy": "true", "Type": [_type("85756007", "Tissue", [128, 174, 128])]},
    ]
    for name, title in _CONTEXTS.items():
        content = {
            "SegmentationCategoryTypeContextName": title,
            "@schema": _SCHEMA + "segment-context-schema.json#",
            "SegmentationCodes": {"Category": categories},
        }
        (folder / f"{name}.term.json").write_text(json.dumps(content), encoding="utf-8")
    anatomy = {
        "AnatomicContextName": "Anatomic codes - DICOM master list",
        "@schema": _SCHEMA + "anatomic-context-schema.json#",
        "AnatomicCodes": {"AnatomicRegion": [_code("10200004", "Liver")]},
    }
    (folder / "AnatomicRegionAndModifier-DICOM-Master.term.json").write_text(json.dumps(anatomy), encoding="utf-8")
    return folder


def _code(value: str, meaning: str) -> dict:
    return {"CodeMeaning": meaning, "CodingSchemeDesignator": "SCT", "CodeValue": value}


def _type(value: str, meaning: str, color: list[int]) -> dict:
    return {**_code(value, meaning), "recommendedDisplayRGBValue": color}
