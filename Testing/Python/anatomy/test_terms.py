import json

import pytest

from RAUSlicerLib.anatomy.names import name_key
from RAUSlicerLib.anatomy.terms import GRAPHS, attach, lateralized, load_graph
from RAUSlicerLib.errors import ResourceError
from RAUSlicerLib.imaging.files import read_segmentation
from RAUSlicerLib.imaging.segmentation import Structure
from RAUSlicerLib.support.resources import resource_path

# Names of labels as the three embedded domains and TotalSegmentator write them.
BRAIN = """3rd Ventricle|4th Ventricle|5th Ventricle|Right Accumbens Area|Left Amygdala|Brain Stem|Right Caudate|Left Cerebellum Exterior
Right Cerebellum White Matter|Left Cerebral Exterior|Left Cerebral White Matter|CSF|Right Hippocampus|Left Hippocampus|Right Inf Lat Vent
Left Lateral Ventricle|Left Pallidum|Right Putamen|Left Thalamus Proper|Right Ventral DC|Left vessel|Optic Chiasm
Cerebellar Vermal Lobules I-V|Cerebellar Vermal Lobules VI-VII|Cerebellar Vermal Lobules VIII-X|Left Basal Forebrain|Vitamin E Tablet
Right ACgG  anterior cingulate gyrus|Left OpIFG opercular part of the inferior frontal gyrus|Right PCu   precuneus|Left Insula"""
ABDOMEN = """spleen|right kidney|left kidney|gallbladder|esophagus|liver|stomach|aorta|inferior vena cava|portal and splenic veins|pancreas
right adrenal gland|left adrenal gland"""
HEART = "right ventricle cavity|left ventricular myocardium|left ventricle cavity"
TRUNK = """kidney_right|adrenal_gland_left|lung_upper_lobe_left|lung_middle_lobe_right|small_bowel|urinary_bladder|kidney_cyst_left
vertebrae_S1|vertebrae_L5|vertebrae_T12|vertebrae_C1|brachiocephalic_trunk|common_carotid_artery_left|atrial_appendage_left
portal_vein_and_splenic_vein|iliac_vena_right|clavicula_left|hip_right|spinal_cord|gluteus_medius_left|autochthon_right|rib_left_1
rib_right_12|costal_cartilages|lung_left|intervertebral_discs"""
FREESURFER = """Left-Cerebral-White-Matter|Left-Cerebral-Cortex|Left-Lateral-Ventricle|Left-Inf-Lat-Vent|Left-Cerebellum-White-Matter
Left-Cerebellum-Cortex|Left-Thalamus|Left-Caudate|Left-Putamen|Left-Pallidum|3rd-Ventricle|4th-Ventricle|Brain-Stem|Left-Hippocampus
Left-Amygdala|CSF|Left-Accumbens-area|Left-VentralDC|Left-vessel|Left-choroid-plexus|Right-Cerebral-White-Matter|Right-VentralDC
Optic-Chiasm|ctx-lh-superiorfrontal|ctx-rh-parsopercularis|ctx-rh-insula"""

LEFT, RIGHT = "SCT^7771000^Left", "SCT^24028007^Right"


def names(text):
    return text.replace("\n", "|").split("|")


def structures_of(all_names):
    return tuple(Structure(label, name) for label, name in enumerate(all_names, start=1))


def entry(type_code, modifier="^^", category="SCT^123037004^Anatomical Structure"):
    return f"Segmentation category and type~{category}~{type_code}~{modifier}~Anatomic codes~^^~^^"


def ids(structures, **options):
    return [node.id for _, node in attach(structures, **options).values()]


@pytest.mark.parametrize(
    ("text", "graph"), [(BRAIN, "brain"), (ABDOMEN, "abdomen"), (HEART, "heart"), (TRUNK, "abdomen"), (FREESURFER, "brain")]
)
def test_names_of_the_embedded_domains_are_attached_each_to_a_node_of_its_own(text, graph):
    structures = structures_of(names(text))

    attached = attach(structures)

    assert list(attached) == list(structures)
    assert {of.name for of, _ in attached.values()} == {graph}
    assert len({node.id for _, node in attached.values()}) == len(structures)
    assert all(name_key(node.name).side == name_key(structure.name).side for structure, (_, node) in attached.items())


@pytest.mark.data
@pytest.mark.parametrize("folder", ["brain_t1", "abdomen_ct", "heart_mr", "ct_mr_samples"])
def test_every_label_of_the_development_data_is_attached(data_folder, folder):
    content = json.loads((data_folder / folder / "labels.json").read_text(encoding="utf-8"))
    tables = content.values() if folder == "ct_mr_samples" else [content]

    for table in tables:
        structures = structures_of(table.values())
        attached = attach(structures)
        assert [structure.name for structure in structures if structure not in attached] == []
        assert len({node.id for _, node in attached.values()}) == len(structures)


def test_every_structure_of_the_sample_data_is_attached_on_its_own_side():
    structures = read_segmentation(resource_path("SampleData", "reference.seg.nrrd")).structures

    attached = attach(structures)

    assert len(structures) == 116
    assert len({node.id for _, node in attached.values()}) == 116
    assert all(name_key(structure.name).side == node.laterality for structure, (_, node) in attached.items())


@pytest.mark.parametrize("graph", GRAPHS)
def test_a_sided_name_never_reaches_a_node_of_another_side(graph):
    nodes = [node for node in load_graph(graph).nodes.values() if node.laterality]
    other = {"left": "right", "right": "left"}

    for node in nodes:
        for name in (node.name, *node.synonyms):
            bare = name.removeprefix(node.laterality)
            for written in (f"{other[node.laterality]}{bare}", f"{bare}_{other[node.laterality][0].upper()}"):
                found = attach([Structure(1, written)], graphs=[graph])
                assert all(place.laterality != node.laterality for _, place in found.values())
            assert all(place.laterality is None for _, place in attach([Structure(1, bare)], graphs=[graph]).values())


def test_the_code_counts_more_than_the_name():
    coded = Structure(1, "Segment_1", terminology=entry("SCT^64033007^Kidney", RIGHT))
    older = Structure(2, "Segment_2", terminology=entry("SRT^T-62000^Liver"))

    assert ids([coded, older]) == ["right_kidney", "liver"]


def test_the_name_gives_the_side_where_the_terminology_gives_none():
    assert ids([Structure(1, "Kidney L", terminology=entry("SCT^64033007^Kidney"))]) == ["left_kidney"]
    assert ids([Structure(1, "Kidney", terminology=entry("SCT^64033007^Kidney"))]) == []


def test_a_side_that_is_part_of_the_code_need_not_be_in_the_name():
    assert ids([Structure(1, "LV", terminology=entry("SCT^87878005^Left ventricle"))]) == ["left_ventricle"]


def test_contradicting_sides_leave_a_structure_out():
    assert ids([Structure(1, "left kidney", terminology=entry("SCT^64033007^Kidney", RIGHT))]) == []
    assert ids([Structure(1, "right ventricle", terminology=entry("SCT^87878005^Left ventricle"))]) == []
    assert ids([Structure(1, "left and right kidney")]) == []


def test_what_is_abnormal_is_not_the_organ_it_lies_in():
    mass = entry("SCT^4147007^Mass", category="SCT^49755003^Morphologically Altered Structure")

    assert ids([Structure(1, "liver", terminology=mass)]) == []


def test_unknown_codes_and_unclassified_entries_leave_it_to_the_name():
    tissue = "c~SCT^85756007^Tissue~SCT^85756007^Tissue~^^~r~^^~^^"

    assert ids([Structure(1, "liver", terminology=tissue), Structure(2, "spleen", terminology=entry("99X^1^Spleen"))]) == [
        "liver",
        "spleen",
    ]


def test_what_several_graphs_know_goes_with_most_of_the_others():
    aorta = Structure(1, "aorta")
    beside_heart = attach([aorta, Structure(2, "left ventricle cavity"), Structure(3, "right ventricle cavity")])
    beside_liver = attach([aorta, Structure(2, "liver"), Structure(3, "pulmonary trunk")])

    assert beside_heart[aorta][0].name == "heart"
    assert beside_liver[aorta][0].name == "abdomen"
    assert {graph.name for graph, _ in beside_liver.values()} == {"abdomen", "heart"}


def test_what_fits_nowhere_is_left_out():
    known, unknown = Structure(1, "liver"), Structure(2, "screw of the left hip")

    assert list(attach([known, unknown])) == [known]


def test_an_unknown_graph_is_said_to_be_missing():
    with pytest.raises(ResourceError, match="kneecap"):
        load_graph("kneecap")


def test_a_side_is_what_a_body_has_two_of():
    structures = structures_of(
        ["left kidney", "liver", "Right Hippocampus", "left ventricle cavity", "lump L", "left and right lump", "lump"]
    )
    coded = Structure(8, "lump", terminology=entry("SCT^1^Lump", LEFT))
    assert [structure.label for structure in lateralized((*structures, coded))] == [1, 3, 5, 8]
    assert lateralized(()) == lateralized(structures_of(names(HEART))) == ()
