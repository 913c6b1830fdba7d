import dataclasses

import numpy as np
import pytest
import SimpleITK as sitk

from RAUSlicerLib.errors import InputError
from RAUSlicerLib.results import Localization, Status, StructureResult, Transfer
from RAUSlicerLib.service import exchange


def same_image(one, other):
    np.testing.assert_allclose(one.GetSpacing(), other.GetSpacing(), rtol=1e-12)
    np.testing.assert_allclose(one.GetOrigin(), other.GetOrigin(), rtol=0, atol=1e-9)
    np.testing.assert_allclose(one.GetDirection(), other.GetDirection(), rtol=0, atol=1e-12)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(one), sitk.GetArrayFromImage(other))


def test_a_request_is_read_back_equal(tmp_path, case):
    reference, target = case

    read_reference, read_target = exchange.read_request(exchange.write_request(tmp_path, reference, target))

    same_image(read_reference.volume, reference.volume)
    same_image(read_target, target)
    assert read_reference.segmentation.structures == reference.segmentation.structures
    for one, other in zip(read_reference.segmentation.layers, reference.segmentation.layers, strict=True):
        same_image(one, other)


def test_a_result_is_read_back_equal(tmp_path, case):
    reference, _ = case
    liver, tumor, gone = reference.segmentation.structures
    transfer = Transfer(
        reference.segmentation,
        (
            StructureResult(
                liver,
                Status.FOUND,
                0.9,
                10.0,
                11.0,
                Localization(liver, 0.99, ((0.0, 1.0, 2.0), (3.0, 4.0, 5.0)), {3: (0.0, 1.0, 2.0, 3.0)}),
            ),
            StructureResult(tumor, Status.LOW_CONFIDENCE, 0.2, 1.0, 2.0, Localization(tumor, 0.4, None)),
            StructureResult(gone, Status.NOT_FOUND, 0.0, 0.0, 1.0),
        ),
        {"localization": 1.5},
        ("Careful.",),
        cancelled=True,
        model="embedded",
        localizer="copy",
    )

    back = exchange.read_result(exchange.write_result(transfer, tmp_path / "result.seg.nrrd"))

    assert dataclasses.replace(back, segmentation=None) == dataclasses.replace(transfer, segmentation=None)
    assert back.segmentation.structures == transfer.segmentation.structures
    for one, other in zip(back.segmentation.layers, transfer.segmentation.layers, strict=True):
        same_image(one, other)


def test_a_result_in_which_nothing_was_found_is_read_back(tmp_path, case):
    segmentation = case[0].segmentation
    nothing = segmentation.map_layers(layer * 0 for layer in segmentation.layers)
    results = tuple(StructureResult(s, Status.NOT_FOUND, 0.0, 0.0, 1.0) for s in nothing.structures)

    back = exchange.read_result(exchange.write_result(Transfer(nothing, results, {}), tmp_path / "result.seg.nrrd"))

    assert back.statuses == {s.name: Status.NOT_FOUND for s in nothing.structures}
    assert not any(back.segmentation.array(s).any() for s in back.segmentation.structures)


def test_a_missing_file_is_an_input_error(tmp_path, case):
    request = exchange.write_request(tmp_path, *case)
    (tmp_path / "target.nrrd").unlink()

    with pytest.raises(InputError, match=r"target\.nrrd"):
        exchange.read_request(request)
