import numpy as np
import pytest
import SimpleITK as sitk
import torch
from scipy import ndimage

from RAUSlicerLib.confidence import laterality
from RAUSlicerLib.confidence.laterality import Fit, Laterality, compare_laterality, mirrored
from RAUSlicerLib.confidence.settings import LateralitySettings
from RAUSlicerLib.imaging.frame import from_array
from RAUSlicerLib.imaging.segmentation import Reference, Segmentation, Structure
from RAUSlicerLib.matching.matcher import Matcher
from RAUSlicerLib.matching.network import MatchingConfig, MatchingNet
from RAUSlicerLib.progress import CancelToken

pytestmark = pytest.mark.usefixtures("enough")

SIZE = (48, 56, 40)
LIMITS = LateralitySettings()


@pytest.fixture
def enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer voxels than usual; a quarter of the usual, as most tests have, leaves too few at twice the spacing."""
    monkeypatch.setattr("RAUSlicerLib.imaging.frame.WORKING_EXTENT", 64)


@pytest.fixture(scope="module")
def matcher() -> Matcher:
    torch.manual_seed(0)
    return Matcher(MatchingNet(MatchingConfig(widths=(8, 8, 16), fine_dim=16, coarse_dim=16)), torch.device("cpu"))


def head(spot: float, noise: int = 0) -> sitk.Image:
    """A body full of folds, the same on both sides, and a bright or dark spot on its left."""
    random = np.random.default_rng(7)
    folds = ndimage.gaussian_filter(random.normal(size=SIZE[::-1]), 2.0)
    folds = folds + folds[:, :, ::-1]
    z, y, x = np.meshgrid(*((np.arange(n) - (n - 1) / 2) / (n / 2 - 3) for n in SIZE[::-1]), indexing="ij")
    values = np.where(z**2 + y**2 + x**2 < 1, 100 + 30 * folds / folds.std(), 0)
    values[(z / 0.3) ** 2 + ((y + 0.2) / 0.3) ** 2 + ((x - 0.5) / 0.25) ** 2 < 1] += spot
    values += np.random.default_rng(noise).normal(0, 2, values.shape) * (values > 0)
    image = sitk.GetImageFromArray(values.clip(0).astype(np.float32))
    image.SetSpacing((2.0, 2.0, 2.0))
    image.SetOrigin((-31.0, 12.0, 80.0))
    return image


def annotated(volume: sitk.Image) -> Reference:
    """The volume with a part of it as a structure."""
    values = np.zeros(volume.GetSize()[::-1], np.uint8)
    values[tuple(slice(n // 3, n // 3 + n // 5 + 1) for n in values.shape)] = 1
    return Reference(volume, Segmentation(from_array(values, volume), (Structure(1, "organ"),)))


def check(matcher: Matcher, reference: sitk.Image, target: sitk.Image) -> Laterality:
    return compare_laterality(matcher, annotated(reference), target, CancelToken())


@pytest.mark.parametrize("orientation", ["LPS", "RAS", "PIR"])
def test_a_target_is_told_from_its_mirror_image_in_any_order_of_its_axes(matcher: Matcher, orientation: str) -> None:
    reference, target = head(40), head(40, noise=1)
    assert check(matcher, reference, sitk.DICOMOrient(target, orientation)) is Laterality.AGREES
    assert check(matcher, reference, sitk.DICOMOrient(mirrored(target), orientation)) is Laterality.MIRRORED


def test_where_left_and_right_look_alike_nothing_is_said(matcher: Matcher) -> None:
    assert check(matcher, head(0), head(0, noise=1)) is Laterality.UNKNOWN
    assert check(matcher, head(0), mirrored(head(0, noise=1))) is Laterality.UNKNOWN


def test_another_body_says_nothing_of_sides(matcher: Matcher) -> None:
    strange = np.random.default_rng(3).normal(size=SIZE[::-1])
    strange = ndimage.gaussian_filter(strange, 2.0).astype(np.float32)
    assert check(matcher, head(40), from_array(100 + 300 * strange, head(0))) is Laterality.UNKNOWN


def test_after_a_poor_match_nothing_is_fitted(matcher: Matcher, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(laterality._Pair, "fit", lambda *given: pytest.fail("its fits would be poor too"))
    monkeypatch.setattr(laterality, "label_margins", lambda *given: asked.append(given))
    said = compare_laterality(matcher, annotated(head(40)), head(40, noise=1), CancelToken(), inlier_ratio=LIMITS.inlier_ratio - 0.01)
    assert said is Laterality.UNKNOWN and len(asked) == 1


@pytest.mark.parametrize("depth", [1, 3])
def test_slices_say_nothing_of_sides(matcher: Matcher, depth: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(laterality._Pair, "fit", lambda *given: pytest.fail("there is nothing to fit"))
    flat = head(40)[:, :, 18 : 18 + depth]
    assert check(matcher, head(40), flat) is check(matcher, flat, head(40)) is Laterality.UNKNOWN


def verdict(matcher: Matcher, monkeypatch: pytest.MonkeyPatch, fits: dict[tuple[bool, bool], Fit]) -> tuple[Laterality, int]:
    """The answer to given fits by (reference, target) mirrored or not, and how many of them it took."""
    asked = []

    def fit(_pair: object, reference: bool, target: bool) -> Fit:
        asked.append((reference, target))
        return fits[reference, target]

    monkeypatch.setattr(laterality._Pair, "fit", fit)
    return check(matcher, head(0), head(0)), len(asked)


def four(straight: float, crossed: float, straight_again: float, crossed_again: float, inlier_ratio: float = 0.9) -> dict:
    order = ((False, False), (True, False), (True, True), (False, True))
    return {key: Fit(value, inlier_ratio) for key, value in zip(order, (straight, crossed, straight_again, crossed_again), strict=True)}


def test_a_better_fit_as_it_is_needs_no_confirmation(matcher: Matcher, monkeypatch: pytest.MonkeyPatch) -> None:
    assert verdict(matcher, monkeypatch, four(0.70, 0.69, 0.0, 0.9)) == (Laterality.AGREES, 2)


def test_a_better_fit_of_the_mirror_image_is_confirmed(matcher: Matcher, monkeypatch: pytest.MonkeyPatch) -> None:
    assert verdict(matcher, monkeypatch, four(0.69, 0.70, 0.68, 0.70)) == (Laterality.MIRRORED, 4)
    # The same, but it comes from the side that the networks prefer and not from the anatomy.
    assert verdict(matcher, monkeypatch, four(0.69, 0.70, 0.71, 0.69)) == (Laterality.AGREES, 4)


@pytest.mark.parametrize(
    "fits",
    [
        four(0.70, 0.70 - LIMITS.unsure / 2, 0, 0),
        four(0.70, 0.71, 0.71, 0.70 + LIMITS.unsure / 2),
        four(0.70, 0.70 - 1.1 * LIMITS.asymmetric, 0, 0),
        four(0.70, 0.71, 0.70, 0.71 + LIMITS.asymmetric),
        four(0.65, 0.70, 0.68, 0.66),
        four(0.69, 0.70, 0.68, 0.70, inlier_ratio=LIMITS.inlier_ratio - 0.01),
    ],
    ids=["too near", "too near when confirmed", "not symmetric", "not symmetric when confirmed", "contradictory", "not matched"],
)
def test_what_is_unsure_is_unknown(matcher: Matcher, monkeypatch: pytest.MonkeyPatch, fits: dict) -> None:
    assert verdict(matcher, monkeypatch, fits)[0] is Laterality.UNKNOWN


@pytest.mark.parametrize("number", range(4))
def test_any_fit_that_found_too_few_matches_makes_it_unknown(matcher: Matcher, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    fits = four(0.69, 0.70, 0.68, 0.70)
    key = list(fits)[number]
    fits[key] = Fit(fits[key].correlation, LIMITS.inlier_ratio - 0.01)
    assert verdict(matcher, monkeypatch, fits) == (Laterality.UNKNOWN, number + 1)


@pytest.mark.parametrize("number", range(4))
def test_a_cancel_is_answered_before_the_next_fit(matcher: Matcher, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    cancel, asked = CancelToken(), []

    def fit(_pair: object, reference: bool, target: bool) -> Fit:
        asked.append((reference, target))
        if len(asked) == number:
            cancel.cancel()
        return four(0.69, 0.70, 0.68, 0.70)[reference, target]

    if number == 0:
        cancel.cancel()
    monkeypatch.setattr(laterality._Pair, "fit", fit)
    expected = Laterality.MIRRORED if number == 4 else Laterality.UNKNOWN
    assert (compare_laterality(matcher, annotated(head(0)), head(0), cancel), len(asked)) == (expected, number)


@pytest.mark.parametrize(
    ("margins", "expected"),
    [
        ((0.1, 0.1), Laterality.AGREES),
        ((-0.1, -0.1), Laterality.AGREES),
        ((0.1, -0.1), Laterality.MIRRORED),
        ((-0.1, 0.1), Laterality.MIRRORED),
        ((0.1, 0.9 * LIMITS.label_margin), Laterality.UNKNOWN),
        ((-0.9 * LIMITS.label_margin, 0.1), Laterality.UNKNOWN),
        (None, Laterality.UNKNOWN),
    ],
)
def test_where_no_fit_tells_the_training_labels_do(
    matcher: Matcher, monkeypatch: pytest.MonkeyPatch, margins: tuple[float, float] | None, expected: Laterality
) -> None:
    monkeypatch.setattr(laterality, "label_margins", lambda *_: margins)
    assert verdict(matcher, monkeypatch, four(0.69, 0.70, 0.68, 0.70, inlier_ratio=LIMITS.inlier_ratio - 0.01))[0] is expected
    # A fit that tells is believed.
    assert verdict(matcher, monkeypatch, four(0.70, 0.69, 0.0, 0.9))[0] is Laterality.AGREES
