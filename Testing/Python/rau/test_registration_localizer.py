from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import SimpleITK as sitk

from RAUSlicerLib.imaging.frame import canonical
from RAUSlicerLib.imaging.segmentation import Reference
from RAUSlicerLib.matching.registration import register
from RAUSlicerLib.progress import CancelToken, ignore
from RAUSlicerLib.rau.registration_localizer import RegistrationLocalizer
from RAUSlicerLib.results import Localization


def true_box(case: Reference, name: str) -> np.ndarray:
    structure = case.segmentation.select([name])[0]
    indices = np.argwhere(case.segmentation.array(structure))[:, ::-1]
    points = np.array([case.volume.TransformIndexToPhysicalPoint(index.tolist()) for index in indices])
    half = np.array(case.volume.GetSpacing()) / 2
    return np.array([points.min(axis=0) - half, points.max(axis=0) + half])


@dataclass
class Placed:
    """A target with a reference laid over it, as far as this localizer looks at it."""

    target: sitk.Image
    matches: list[SimpleNamespace]


def located(reference: Reference, target: sitk.Image, cancel: CancelToken) -> list[Localization]:
    transform = register(canonical(target), reference.volume, deformable=False, progress=ignore, cancel=CancelToken())
    case = Placed(target, [SimpleNamespace(reference=reference, transform=transform)])
    return RegistrationLocalizer().locate(case, reference.segmentation.structures, [], {}, ignore, cancel)


def locate(reference: Reference, target: sitk.Image) -> dict[str, Localization]:
    found = located(reference, target, CancelToken())
    return {localization.structure.name: localization for localization in found}


def test_boxes_lie_around_the_structures_in_patient_space(make_ellipsoids) -> None:
    reference, target = make_ellipsoids(), make_ellipsoids(scale=(1.1, 1.0, 1.0), shift=(4.0, -4.0, 0.0), seed=1)
    found = locate(reference, target.volume)
    for name, localization in found.items():
        np.testing.assert_allclose(localization.box_mm, true_box(target, name), atol=4.0, err_msg=name)
        assert localization.presence > 0.8


def test_slice_boxes_hold_the_structure_in_the_canonical_frame(make_ellipsoids) -> None:
    reference, target = make_ellipsoids(), make_ellipsoids(seed=1)
    flipped = sitk.DICOMOrient(target.volume, "RAS")
    boxes = locate(reference, flipped)["left organ"].slice_boxes
    truth = target.segmentation.array(target.segmentation.structures[1])
    middle = 21
    rows, columns = np.nonzero(truth[middle])
    np.testing.assert_allclose(boxes[middle], (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1), atol=2.0)


def test_a_structure_beyond_the_field_of_view_is_not_present(make_ellipsoids) -> None:
    reference, target = make_ellipsoids(), make_ellipsoids(seed=1)
    # The left organ begins at x = 6 mm right of the cut.
    half = target.volume[: target.volume.GetSize()[0] // 2 - 2, :, :]
    found = locate(reference, half)
    assert found["left organ"].presence < 0.4 < 0.7 < found["right organ"].presence


def test_another_modality_lowers_the_presence(make_ellipsoids) -> None:
    reference, target = make_ellipsoids(), make_ellipsoids(seed=1)
    same = locate(reference, target.volume)["left organ"].presence
    inverted = sitk.Mask(200.0 - target.volume, target.volume > 10)
    assert locate(reference, inverted)["left organ"].presence < same - 0.2


def test_a_cancelled_search_returns_nothing(make_ellipsoids) -> None:
    reference = make_ellipsoids()
    cancel = CancelToken()
    cancel.cancel()
    assert located(reference, reference.volume, cancel) == []
