"""Slicer's serialized terminology entries and DICOM's codes."""

from __future__ import annotations

import pytest
from pydicom.sr.coding import Code

from RAUSlicerLib.imaging.terminology import UNCLASSIFIED, parse_terminology, serialize_terminology

ENTRY = (
    "Segmentation category and type - 3D Slicer General Anatomy list~SCT^49755003^Morphologically Altered Structure~SCT^4147007^Mass~^^"
    "~Anatomic codes - DICOM master list~SCT^64033007^Kidney~SCT^24028007^Right"
)


def test_an_entry_with_region_and_side_is_taken_apart_and_put_together():
    terminology = parse_terminology(ENTRY)

    assert terminology.type == Code("4147007", "SCT", "Mass")
    assert terminology.modifier is None
    assert terminology.region == Code("64033007", "SCT", "Kidney")
    assert terminology.region_modifier == Code("24028007", "SCT", "Right")
    assert serialize_terminology(terminology) == ENTRY


@pytest.mark.parametrize("entry", [None, "", "nonsense", "a~b~c~d~e~f~g", "list~^^~^^~^^~list~^^~^^", "list~SCT^1^Category~^^~^^"])
def test_an_entry_without_category_and_type_is_unclassified(entry):
    assert parse_terminology(entry) == UNCLASSIFIED
    assert serialize_terminology(parse_terminology(entry)) is None
