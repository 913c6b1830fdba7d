import json

import pytest

from RAUSlicerLib.anatomy.loading import read_graph
from RAUSlicerLib.errors import InputError

BODY = {"id": "body", "name": "body"}
LUNG = {"id": "lung", "name": "lung", "parent": "body", "sides": "both", "synonyms": ["pulmo"]}


@pytest.fixture
def write(tmp_path):
    def write(*nodes, **changes):
        path = tmp_path / "graph.json"
        path.write_text(json.dumps({"format": 1, "name": "graph", "title": "Graph", "nodes": list(nodes)} | changes))
        return path

    return write


def test_a_paired_node_becomes_two_and_its_children_lie_in_their_own_side(write):
    lobe = {"id": "lobe", "name": "upper lobe", "parent": "lung", "sides": "both", "within": ["lung"]}
    middle = {"id": "middle", "name": "middle lobe", "parent": "lung", "sides": "right"}

    graph = read_graph(write(BODY, lobe, LUNG, middle))

    assert [node.id for node in graph.depth_first()] == list(graph.nodes)
    assert list(graph.nodes) == ["body", "right_lung", "right_lobe", "right_middle", "left_lung", "left_lobe"]
    assert graph.nodes["left_lobe"].parent == "left_lung"
    assert graph.nodes["left_lobe"].within == ("left_lung",)
    assert graph.nodes["right_lung"].name == "right lung"
    assert graph.nodes["right_lung"].synonyms == ("right pulmo",)
    assert graph.nodes["right_lung"].laterality == "right"
    assert graph.counterpart("right_lung") is graph.nodes["left_lung"]
    assert graph.counterpart("right_middle") is None
    assert graph.counterpart("body") is None


@pytest.mark.parametrize(
    ("nodes", "said"),
    [
        ([BODY, {"id": "a", "name": "a", "parent": "nobody"}], "'nobody'"),
        ([BODY, LUNG, {"id": "a", "name": "a", "parent": "lung"}], "same side"),
        ([BODY, {"id": "a", "name": "one", "parent": "b"}, {"id": "b", "name": "two", "parent": "a"}], "cycle"),
        ([BODY, {"id": "a", "name": "one", "parent": "a"}], "cycle"),
        ([BODY, {"id": "a", "name": "one"}], "2 nodes without a parent"),
        ([BODY, LUNG, {"id": "left_lung", "name": "other", "parent": "body"}], "'left_lung' twice"),
        ([BODY, LUNG, {"id": "a", "name": "Lung, LEFT", "parent": "body"}], "'Lung, LEFT'"),
        ([BODY, {"id": "a", "name": "one", "parent": "body", "colour": "red"}], "'colour'"),
        ([BODY, {"id": "a", "parent": "body"}], "'name'"),
        ([BODY, {"id": "a", "name": " ", "parent": "body"}], "' '"),
        ([BODY, {"id": "a", "name": "left", "parent": "body"}], "'left'"),
        ([BODY, {"id": "a", "name": "one", "parent": "body", "sides": "upper"}], "'upper'"),
        ([BODY, {"id": "a", "name": "one", "parent": "body", "synonyms": "two"}], "synonyms"),
        ([BODY, {"id": "a", "name": "one", "parent": "body", "within": ["c"]}], "'c'"),
        ([BODY, {"id": "a", "name": "one", "parent": "body", "code": {"scheme": "SCT", "value": "1"}}], "'meaning'"),
        ([BODY, "lung"], "a node"),
        ([], "no nodes"),
    ],
)
def test_a_wrong_graph_is_refused_with_what_is_wrong_and_where(write, nodes, said):
    path = write(*nodes)

    with pytest.raises(InputError) as caught:
        read_graph(path)

    assert said in f"{caught.value.problem} {caught.value.explanation}"
    assert str(path) in caught.value.problem
    assert "docs/reference/anatomy.md" in caught.value.solution


def test_another_format_no_json_and_no_file_are_refused(write, tmp_path):
    with pytest.raises(InputError, match="format 2"):
        read_graph(write(BODY, format=2))
    with pytest.raises(InputError, match="can't be read"):
        read_graph(tmp_path / "nothing.json")
    (tmp_path / "text.json").write_text("liver")
    with pytest.raises(InputError, match="can't be read"):
        read_graph(tmp_path / "text.json")
