import pytest

from RAUSlicerLib.anatomy.names import NameKey, name_key, name_keys


@pytest.mark.parametrize(
    "name",
    "left kidney|Left Kidney|kidney_left|KIDNEY-LEFT|L kidney|kidney (L)|Kidney, left|lh.kidney|left  kidneys|Kidney L.|lt_kidney".split(
        "|"
    ),
)
def test_a_name_is_the_same_however_it_is_written(name):
    assert name_key(name) == NameKey("left", ("kidney",))


@pytest.mark.parametrize("name", ["right kidney", "kidney_r", "RH kidney", "rt kidney"])
def test_the_other_side_is_another_name(name):
    assert name_key(name) == NameKey("right", ("kidney",))


def test_a_letter_within_a_word_is_no_side():
    assert name_key("vertebrae_L1").side is None
    assert name_key("liver").side is None


def test_a_name_of_both_sides_belongs_to_neither():
    assert name_key("left and right lung").side == "both"


def test_accents_and_full_width_letters_make_no_difference():
    assert name_key("Ｌｉｖｅｒ") == name_key("liver")
    assert name_key("fœtus-têtê") == name_key("FŒTUS_tete")


def test_words_joined_by_capitals_can_be_taken_apart():
    assert NameKey("left", ("kidney",)) in name_keys("LeftKidney")
