"""Names and other text of others, compared and made safe."""

from __future__ import annotations

import unicodedata

import pytest
import SimpleITK as sitk

from RAUSlicerLib.errors import InputError
from RAUSlicerLib.imaging.names import same_structure
from RAUSlicerLib.imaging.segmentation import Segmentation, Structure
from RAUSlicerLib.inputs import split_names
from RAUSlicerLib.support.text import name_key, plain_text

CONTROLS = [chr(code) for code in (*range(32), *range(127, 160), 0x2028, 0x2029, 0x202E, 0x2066, 0xFEFF, 0xD800)]


@pytest.mark.parametrize("character", CONTROLS, ids=lambda character: f"{ord(character):04x}")
def test_no_name_holds_what_a_terminal_obeys(character):
    name = Structure(1, f"li{character}ver").name

    assert character not in name
    assert name in ("li ver", "liver", "li?ver")


@pytest.mark.parametrize(
    "name", ["Leber", "左腎 / ľavá oblička", "كبد", "نیم\u200cفاصله", "क्\u200dष", "tumour: a|b ~ c^d", "👩\u200d⚕️", " x "]
)
def test_names_in_any_script_stay_as_they_are(name):
    assert Structure(1, name).name == name == plain_text(name)


@pytest.mark.parametrize("form", ["NFC", "NFD"])
@pytest.mark.parametrize("name", ["Drüse", "ľavá oblička", "간", "STRASSE Straße", "Ångström"])
def test_a_structure_is_found_by_its_name_however_accents_are_stored(name, form):
    other = {"NFC": "NFD", "NFD": "NFC"}[form]
    own = Structure(3, unicodedata.normalize(form, name))
    segmentation = Segmentation(sitk.Image(2, 2, 2, sitk.sitkUInt8), (own, Structure(4, "Leber")))
    asked = unicodedata.normalize(other, name).upper() if "ß" not in name else unicodedata.normalize(other, name)

    assert segmentation.select([asked]) == (own,)
    assert same_structure(segmentation, Structure(9, asked)) == own
    assert name_key(asked) == name_key(own.name)
    with pytest.raises(InputError, match="no structure named"):
        segmentation.select([name + "x"])


@pytest.mark.parametrize("asked", ["li\u202ever\u2066", "li\x1bver", "LI VER ", "\ufeffliver"])
def test_a_structure_is_found_by_the_name_that_its_file_holds(asked):
    own = Structure(3, asked)
    segmentation = Segmentation(sitk.Image(2, 2, 2, sitk.sitkUInt8), (own, Structure(4, "spleen")))

    assert segmentation.select([asked]) == (own,) == segmentation.select([own.name])


def test_names_with_commas_are_split_however_accents_are_stored():
    class Case:
        segmentation = Segmentation(sitk.Image(2, 2, 2, sitk.sitkUInt8), (Structure(1, unicodedata.normalize("NFD", "Drüse, links")),))

    assert split_names(unicodedata.normalize("NFC", "Drüse, links,Leber"), [Case]) == ["Drüse, links", "Leber"]
