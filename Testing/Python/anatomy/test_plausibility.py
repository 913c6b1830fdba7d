import numpy as np
import pytest
import SimpleITK as sitk

from RAUSlicerLib.anatomy.plausibility import implausible
from RAUSlicerLib.anatomy.shapes import shapes
from RAUSlicerLib.anatomy.terms import attach
from RAUSlicerLib.imaging.segmentation import Segmentation, Structure


def warnings_of(boxes, size=(30, 30, 30), direction=(1, 0, 0, 0, 1, 0, 0, 0, 1)):
    """Sentences for structures given as name: (z, y, x) slices, each in a layer of its own."""
    structures, layers = [], []
    for number, (name, box) in enumerate(boxes.items()):
        labels = np.zeros(size, np.uint8)
        labels[box] = 1
        layer = sitk.GetImageFromArray(labels)
        layer.SetDirection([float(value) for value in direction])
        layers.append(layer)
        structures.append(Structure(1, name, layer=number))
    segmentation = Segmentation(layers[0], tuple(structures), tuple(layers[1:]))
    found = implausible(shapes(segmentation, structures), attach(structures), {one: one.name for one in structures})
    return {structure.name: sentences for structure, sentences in found.items()}


HERE, AROUND, AWAY = (np.s_[10:15, 10:15, 10:15], np.s_[5:20, 5:20, 5:20], np.s_[22:27, 22:27, 22:27])


def test_a_part_in_its_whole_is_plausible():
    assert warnings_of({"left lung": AROUND, "lung_upper_lobe_left": HERE}) == {}


def test_a_part_outside_of_its_whole_is_not():
    (sentence,) = warnings_of({"left lung": AROUND, "lung_upper_lobe_left": AWAY})["lung_upper_lobe_left"]

    assert sentence == "100 % of lung_upper_lobe_left lies outside of left lung, which should hold it."


def test_a_cavity_lies_in_the_wall_around_it_though_the_wall_is_hollow():
    labels = np.ones((15, 15, 15), bool)
    labels[5:10, 5:10, 5:10] = False
    wall = np.zeros((30, 30, 30), bool)
    wall[5:20, 5:20, 5:20] = labels

    assert warnings_of({"left ventricular myocardium": wall, "left ventricle cavity": HERE}) == {}
    assert "left ventricle cavity" in warnings_of({"left ventricular myocardium": wall, "left ventricle cavity": AWAY})


def test_what_was_left_of_a_whole_is_not_its_outline():
    assert warnings_of({"left lung": np.s_[5:7, 5:7, 5:7], "lung_upper_lobe_left": AWAY}) == {}


def test_a_part_is_not_measured_against_another_side():
    assert warnings_of({"right lung": AROUND, "lung_upper_lobe_left": AWAY}) == {}


def test_left_lies_at_larger_x_in_patient_space_whatever_the_grid():
    low, high = np.s_[10:15, 10:15, 5:8], np.s_[10:15, 10:15, 20:23]

    assert warnings_of({"left kidney": high, "right kidney": low}) == {}
    assert warnings_of({"left kidney": low, "right kidney": high}, direction=(-1, 0, 0, 0, -1, 0, 0, 0, 1)) == {}
    exchanged = warnings_of({"left kidney": low, "right kidney": high})
    assert exchanged["left kidney"][0].startswith("left kidney lies to the right of right kidney")
    assert exchanged["right kidney"][0].startswith("right kidney lies to the left of left kidney")


def test_chambers_of_the_heart_are_no_pair_of_sides():
    low, high = np.s_[10:15, 10:15, 5:8], np.s_[10:15, 10:15, 20:23]

    assert warnings_of({"left ventricle cavity": low, "right ventricle cavity": high}) == {}


@pytest.mark.parametrize("size", [(1, 30, 30), (30, 1, 30)])
def test_a_single_slice_has_shapes_too(size):
    inside, around = np.s_[:, 0:, 10:12], np.s_[:, 0:, 5:20]

    assert warnings_of({"left lung": around, "lung_upper_lobe_left": inside}, size=size) == {}
