from collections import defaultdict

import pytest
from pydicom.sr.codedict import codes

from RAUSlicerLib.anatomy.names import name_key
from RAUSlicerLib.anatomy.terms import GRAPHS, load_graph

# What the dictionary's names say besides the structure.
_FILLING = frozenset({"structure", "body", "bone", "entire"})


@pytest.fixture(scope="module")
def meanings():
    """SNOMED CT's meanings by code, as far as DICOM uses them."""
    out = defaultdict(set)
    for code in codes.SCT.concepts.values():
        out[code.value].add(code.meaning)
    return out


def words(name: str) -> frozenset[str]:
    return frozenset(name_key(name).words) - _FILLING


@pytest.mark.parametrize("name", GRAPHS)
def test_every_graph_is_read_and_is_what_its_name_says(name):
    graph = load_graph(name)

    assert graph.name == name
    assert graph.root.parent is None


@pytest.mark.parametrize("name", GRAPHS)
def test_every_code_is_in_the_dictionary_of_dicom_and_means_what_the_node_is_called(name, meanings):
    coded = [node for node in load_graph(name).nodes.values() if node.code is not None]

    assert len(coded) > 20
    for node in coded:
        assert node.code.scheme == "SCT"
        assert node.code.meaning in meanings[node.code.value], node
        called = {words(other) for other in (node.name, *node.synonyms)}
        assert words(node.code.meaning) in called, f"{node.id} is coded as {node.code.meaning!r}"


@pytest.mark.parametrize("name", GRAPHS)
def test_no_two_nodes_of_one_side_share_a_code(name):
    owners = {}
    for node in load_graph(name).nodes.values():
        if node.code is not None:
            assert owners.setdefault((node.code.value, node.laterality), node) is node


@pytest.mark.parametrize("name", GRAPHS)
def test_sided_nodes_say_so_in_id_and_name_and_keep_to_their_side(name):
    graph = load_graph(name)

    for node in graph.nodes.values():
        if node.laterality is None:
            continue
        assert node.id.startswith(f"{node.laterality}_")
        assert name_key(node.name).side == node.laterality
        others = [*graph.ancestors(node.id), *(graph.nodes[id_] for id_ in node.within)]
        assert {other.laterality for other in others} <= {None, node.laterality}


def test_the_chest_radiograph_has_the_nodes_of_ss_acl():
    graph = load_graph("chest_xray")

    assert len(graph.nodes) == 32
    assert len(graph.leaves()) == 25
    assert 1 + max(len(graph.ancestors(node.id)) for node in graph.leaves()) == 4
    assert {node.id for node in graph.nodes.values() if graph.children(node.id)} == {
        "chest",
        "lungs",
        "right_lung",
        "left_lung",
        "mediastinum",
        "cardiac_silhouette",
        "skeletal_structures",
    }
    assert [node.name for node in graph.children("right_lung")] == [
        f"right {zone}"
        for zone in (
            "upper lung zone",
            "mid lung zone",
            "lower lung zone",
            "hilar structures",
            "apical zone",
            "costophrenic angle",
            "hemidiaphragm",
        )
    ]


def test_chambers_of_the_heart_have_no_side_of_the_body():
    graph = load_graph("heart")

    assert all(node.laterality is None for node in graph.nodes.values())
    assert graph.nodes["left_ventricle_cavity"].within == ("left_ventricle_myocardium",)
