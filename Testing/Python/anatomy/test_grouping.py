from RAUSlicerLib.anatomy.grouping import OTHER, grouped, sections
from RAUSlicerLib.imaging.segmentation import Structure


def structures_of(*all_names):
    return tuple(Structure(label, name) for label, name in enumerate(all_names, start=1))


def titles(group):
    return {group.title: [structure.name for structure in group.structures]} | {
        title: shown for below in group.groups for title, shown in titles(below).items()
    }


def test_organs_stand_under_their_systems_right_before_left():
    (abdomen,) = grouped(structures_of("left kidney", "liver", "spleen", "right kidney", "pancreas"))

    assert abdomen.title == "Abdomen and trunk"
    assert titles(abdomen) == {
        "Abdomen and trunk": ["spleen"],
        "Digestive organs": ["liver", "pancreas"],
        "Urinary system and adrenal glands": ["right kidney", "left kidney"],
    }


def test_every_structure_is_shown_once_and_the_unknown_come_last():
    brain = ("Right Hippocampus", "Left Hippocampus", "Left Caudate", "Brain Stem", "Left FRP   frontal pole")
    structures = structures_of("screw", "spleen", "left kidney", "aorta", *brain, "another screw")

    groups = grouped(structures)

    assert sorted(structure.label for group in groups for structure in group) == [structure.label for structure in structures]
    assert [group.title for group in groups] == ["Brain", "Abdomen and trunk", OTHER]
    assert [structure.name for structure in groups[-1]] == ["screw", "another screw"]


def test_a_whole_with_parts_heads_their_group():
    (trunk,) = grouped(structures_of("left lung", "lung_lower_lobe_left", "lung_upper_lobe_left"))

    assert titles(trunk) == {"Abdomen and trunk": ["left lung", "lung_upper_lobe_left", "lung_lower_lobe_left"]}


def test_nothing_gives_no_groups():
    assert grouped(()) == ()


def test_sections_hold_every_structure_once_and_divide_only_large_groups():
    structures = structures_of("left kidney", "liver", "spleen", "right kidney", "pancreas", "screw")

    few, whole = sections(structures, most=2), sections(structures)

    assert [(title, [structure.name for structure in found]) for title, found in whole] == [
        ("Abdomen and trunk", ["spleen", "liver", "pancreas", "right kidney", "left kidney"]),
        (OTHER, ["screw"]),
    ]
    assert [(title, [structure.name for structure in found]) for title, found in few] == [
        ("Digestive organs", ["liver", "pancreas"]),
        ("Urinary system and adrenal glands", ["right kidney", "left kidney"]),
        ("Abdomen and trunk: other structures", ["spleen"]),
        (OTHER, ["screw"]),
    ]
