import json

import pytest

from RAUSlicerLib.errors import InputError, OutputError
from RAUSlicerLib.interpretation.evidence import Measurement, Quantity, StructureFindings
from RAUSlicerLib.interpretation.library import Library
from RAUSlicerLib.results import Status


def case(volume, unit="mL", *, name="liver", node="liver", is_cut=False, quantity=Quantity.VOLUME):
    measurement = Measurement(quantity, volume, unit, (name,), is_cut=is_cut)
    return [StructureFindings(name, Status.FOUND, 0.9, (measurement,), "abdomen", node)]


def volume(value, unit="mL", *, is_cut=False):
    return Measurement(Quantity.VOLUME, value, unit, ("liver",), is_cut=is_cut)


@pytest.fixture
def library():
    return Library.of_cases("livers", [case(1400.0), case(1600.0), case(1500.0)])


def test_a_value_is_set_beside_mean_spread_and_number(library):
    comparison = library.compare("abdomen", "liver", volume(1700.0))

    assert (comparison.mean, comparison.spread, comparison.n) == pytest.approx((1500.0, 100.0, 3))
    assert comparison.z_score == pytest.approx(2.0)
    assert comparison.reference is None


def test_two_cases_have_a_mean_and_no_z_score():
    comparison = Library.of_cases("two", [case(1400.0), case(1600.0)]).compare("abdomen", "liver", volume(1700.0))

    assert (comparison.mean, comparison.n, comparison.spread, comparison.z_score) == (1500.0, 2, None, None)


def test_equal_cases_and_cut_structures_have_no_z_score(library):
    equal = Library.of_cases("equal", [case(1500.0)] * 4).compare("abdomen", "liver", volume(1700.0))

    assert (equal.z_score, equal.n) == (None, 4)
    assert library.compare("abdomen", "liver", volume(1700.0, is_cut=True)).z_score is None


def test_another_unit_node_or_quantity_is_not_compared(library):
    assert library.compare("abdomen", "liver", volume(1.7, "l")).n == 0
    assert library.compare("abdomen", "spleen", volume(1700.0)).n == 0
    assert library.compare("heart", "liver", volume(1700.0)).n == 0
    assert library.compare("abdomen", "liver", Measurement(Quantity.POSITION, 5.0, "mm", ("liver",))).n == 0


def test_only_what_can_be_compared_is_kept():
    library = Library.of_cases(
        "some",
        [
            case(1500.0, is_cut=True),
            case(120.0, "1", quantity=Quantity.MEAN_INTENSITY),
            case(12.0, "mm", quantity=Quantity.POSITION),
            case(float("nan")),
            case(1500.0, node=None),
            case(90.0, name="half of it") + case(95.0, name="the other half"),
        ],
    )

    assert library.values == {}
    assert library.cases == 6


def test_a_cut_structure_is_as_bright_as_all_of_it():
    library = Library.of_cases("cut", [case(110.0, "[hnsf'U]", is_cut=True, quantity=Quantity.MEAN_INTENSITY)])

    assert list(library.values.values()) == [(110.0,)]


def test_adding_leaves_the_library_as_it_was(library):
    larger = library.add(case(1550.0))

    assert (library.cases, larger.cases) == (3, 4)
    assert len(library.values["abdomen", "liver", Quantity.VOLUME]) == 3


def test_it_comes_back_from_its_file(library, tmp_path):
    path = tmp_path / "livers.json"
    library.save(path)

    assert Library.load(path) == library


def test_the_file_holds_values_in_ascending_order_and_no_names_of_structures(tmp_path):
    path = tmp_path / "library.json"
    Library.of_cases("order", [case(1600.0, name="liver of somebody"), case(1400.0, name="liver of somebody")]).save(path)

    text = path.read_text(encoding="utf-8")
    assert "somebody" not in text
    assert json.loads(text)["graphs"]["abdomen"]["liver"]["volume"] == {"unit": "mL", "values": [1400.0, 1600.0]}


def _with_entry(entry):
    return lambda content: content["graphs"]["abdomen"]["liver"].update(volume=entry)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda content: content.update(format=7), "format 7"),
        (lambda content: content.update(name=""), "no name"),
        (lambda content: content.update(cases=-1), "-1"),
        (lambda content: content.pop("graphs"), "no library"),
        (lambda content: content.update(graphs=[]), "graphs"),
        (lambda content: content["graphs"].update(knee={}), "'knee'"),
        (lambda content: content["graphs"]["abdomen"].update(liwer={}), "'liwer'"),
        (lambda content: content["graphs"]["abdomen"]["liver"].update(weight={}), "'weight'"),
        (_with_entry({"unit": "l", "values": [1.0]}), "'l'"),
        (_with_entry({"unit": "mL", "values": []}), "wrong values"),
        (_with_entry({"unit": "mL", "values": ["1"]}), "wrong values"),
        (_with_entry({"unit": "mL", "values": [float("nan")]}), "NaN is no number"),
        (_with_entry({"unit": "mL", "values": [1.0], "patient": "x"}), "wrong entry"),
        (_with_entry({"unit": "mL", "values": [1.0, 2.0, 3.0, 4.0]}), "4 values"),
    ],
)
def test_a_malformed_file_is_refused_with_what_is_wrong(library, tmp_path, spoil, said):
    path = tmp_path / "library.json"
    library.save(path)
    content = json.loads(path.read_text(encoding="utf-8"))
    spoil(content)
    path.write_text(json.dumps(content), encoding="utf-8")

    with pytest.raises(InputError) as caught:
        Library.load(path)

    assert said in f"{caught.value.problem} {caught.value.explanation}".replace("the format", "format")
    assert caught.value.solution


def test_what_is_no_json_and_what_is_missing_are_refused(tmp_path):
    (tmp_path / "text.json").write_text("liver", encoding="utf-8")

    for name in ("text.json", "nothing.json"):
        with pytest.raises(InputError, match="can't be read"):
            Library.load(tmp_path / name)


def test_a_folder_that_is_not_there_is_said_to_be_the_problem(library, tmp_path):
    with pytest.raises(OutputError, match="can't be written"):
        library.save(tmp_path / "nowhere" / "library.json")
