"""Many structures in the results table stand under headings of anatomy."""

import pytest
from clicks import click_item
from host import modules

from RAUSlicerLib.scene.record import Row

ORGANS = ("spleen", "left kidney", "liver", "right kidney", "stomach", "pancreas", "gallbladder", "esophagus", "left adrenal gland")
VESSELS = ("aorta", "inferior vena cava", "portal and splenic veins")
NAMES = (*ORGANS, "right adrenal gland", *VESSELS, "duodenum", "left lung", "right lung", "heart", "screw")


def row(name, number):
    return Row(f"key {name}", name, (1.0, 0.5, 0.0), "found", 0.8, float(number), 1.0)


@pytest.fixture
def table(panel):
    """The results table with 18 structures, as after a run whose result is not in the scene."""
    panel._results.show(None, loose=[row(name, number) for number, name in enumerate(NAMES, start=1)])
    modules.settle(50)
    return panel._results.table


def texts(panel):
    widget = panel.ui.resultsTable
    return [widget.item(line, 0).text().split("\n")[0] for line in range(widget.rowCount) if not widget.isRowHidden(line)]


def click_heading(panel, title):
    widget = panel.ui.resultsTable
    line = next(line for line in range(widget.rowCount) if title in widget.item(line, 0).text())
    click_item(widget, widget.item(line, 0))


def test_every_structure_stands_once_under_a_heading_that_counts_them(panel, table):
    shown = texts(panel)

    headings = [text for text in shown if text.startswith("▾")]
    assert sorted(text for text in shown if text not in headings) == sorted(NAMES)
    assert len(headings) > 2 and headings[0] == shown[0]
    assert sum(int(text.split("(")[-1].rstrip(")")) for text in headings) == len(NAMES)
    assert shown[-2:] == ["▾ Other (1)", "screw"]
    kidneys = [text for text in shown if "kidney" in text]
    assert kidneys == ["right kidney", "left kidney"]


def test_a_click_on_a_heading_folds_its_structures_and_another_one_shows_them(panel, table):
    before = texts(panel)

    click_heading(panel, "Abdomen")
    folded = texts(panel)
    click_heading(panel, "Abdomen")

    assert "liver" not in folded and "aorta" in folded
    assert next(text for text in folded if "Abdomen" in text).startswith("▸")
    assert texts(panel) == before
    assert table.selected == []


def test_a_selected_row_is_the_structure_that_was_asked_for_even_in_a_folded_group(panel, table):
    click_heading(panel, "Abdomen")

    table.select("key liver")

    assert [one.name for one in table.selected] == ["liver"]
    assert "liver" in texts(panel)


def test_stepping_through_the_rows_passes_over_headings_and_what_is_folded(panel, table):
    click_heading(panel, "Abdomen")
    visible = [text for text in texts(panel) if text in NAMES]

    walked = []
    for _step in range(len(visible) + 1):
        table.select_next(1)
        walked += [one.name for one in table.selected]

    assert walked == [*visible, visible[-1]]


def test_sorting_takes_the_headings_away_and_a_third_click_brings_them_back(panel, table):
    grouped = texts(panel)
    header = panel.ui.resultsTable.horizontalHeader()

    orders = []
    for _click in range(3):
        header.sectionClicked.emit(3)
        orders.append(texts(panel))

    assert orders == [list(NAMES), list(reversed(NAMES)), grouped]


def test_few_structures_get_no_headings(panel):
    panel._results.show(None, loose=[row(name, 1) for name in ("aorta", "liver")])

    assert texts(panel) == ["aorta", "liver"]
