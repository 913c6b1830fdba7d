"""A report as Markdown, HTML and JSON."""

from __future__ import annotations

import base64
import json
import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from io import BytesIO

import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image

from RAUSlicerLib.errors import InputError
from RAUSlicerLib.imaging.segmentation import Segmentation, Structure
from RAUSlicerLib.interpretation.evidence import Comparison, Report
from RAUSlicerLib.interpretation.rendering import html, json_report, markdown
from RAUSlicerLib.interpretation.rendering.outlines import structure_pictures
from RAUSlicerLib.interpretation.report import write_report
from RAUSlicerLib.results import Status

from .report_cases import GRAPHS, abdomen, found, gyri, volume

SOURCE = {"Model": "embedded", "Compared with": "the reference case"}
WICKED = '<script>alert("1")</script> [x](http://example.org) | *a* `b`'


def _report() -> Report:
    return write_report(abdomen(), SOURCE, graphs=GRAPHS)


def _long() -> Report:
    findings, graphs = gyri(40, wrong=(7,))
    missing = replace(findings[1], status=Status.NOT_FOUND, measurements=())
    return write_report([findings[0], missing, *findings[2:]], SOURCE, graphs=graphs)


class _Page(HTMLParser):
    """Collects what a page links to, where it can be linked to, and the text a reader sees."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def values(self, attribute: str) -> list[str]:
        return [str(attributes[attribute]) for _, attributes in self.tags if attribute in attributes]


def test_markdown_says_each_sentence_once_under_its_structure() -> None:
    text = markdown.render(_report())

    assert text.startswith("# Report on a segmentation\n\n**Research use only. Not a medical device.**\n")
    assert "- Model: embedded\n" in text
    assert "- **Liver** (found, confidence 0.90). The volume is 1533 mL, 12 % larger" in text
    assert "- **Left kidney** (low confidence 0.43). The outline is uncertain" in text
    assert "- **Gallbladder** (not found). Not found; it may be absent" in text
    assert text.count("its middle lies") + text.count("Its middle lies") == 1
    assert "*Lowest confidence: 0.43.*" in text


def test_markdown_of_many_structures_has_a_table_of_sections_and_one_for_each() -> None:
    text = markdown.render(_long())

    assert "| Section | Found | Not found | Volume (mL) | Reference (mL) | Difference |" in text
    assert "| Gyrus 7 | 51.0 | 17.0 | +200 % | 0.90 |" in text
    assert "| Gyrus 1 | not found |  |  |  |" in text
    assert text.index("## Limits") < text.index("## Details") < text.index("- **Gyrus 7** (found")


def test_markup_in_names_stays_text() -> None:
    report = write_report([found(WICKED, volume(WICKED, 3.0))], {"Model": WICKED}, graphs={})

    marked = markdown.render(report)
    assert "<script" not in marked.replace("\\<script", "") and "\\[x\\](http" in marked and "\\| \\*a\\* \\`b\\`" in marked
    page = _Page(html.render(report))
    assert "script" not in {tag for tag, _ in page.tags}
    assert WICKED in page.text


def test_the_page_fetches_nothing() -> None:
    page = _Page(html.render(_report(), {"Liver": b"png"}))

    assert [value for value in page.values("src") if not value.startswith("data:image/png;base64,")] == []
    assert all(value.startswith("#") for value in page.values("href"))
    assert "link" not in {tag for tag, _ in page.tags} and "url(" not in html.render(_report())
    assert any("default-src 'none'" in value for value in page.values("content"))


@pytest.mark.parametrize("report", [_report(), _long()])
def test_every_sentence_is_on_the_page_with_its_structures_and_every_link_leads_somewhere(report: Report) -> None:
    page = _Page(html.render(report))

    shown = [value.split("\n") for value in page.values("data-structures")]
    assert sorted(shown) == sorted([list(sentence.structures) or [""] for sentence in report.sentences])
    assert len(set(page.values("id"))) == len(page.values("id"))
    assert {value.removeprefix("#") for value in page.values("href")} <= set(page.values("id"))
    assert {f"structure-{index}" for index in range(1, len(report.findings) + 1)} <= set(page.values("id"))


def test_a_sentence_shows_its_evidence_and_its_structure_the_picture() -> None:
    page = html.render(_report(), {"Liver": b"some picture"})

    assert 'title="Rests on: volume 1533.27\u00a0mL (Liver); confidence 0.900"' in page
    card = page[page.index("<h4>Liver") - 400 : page.index("<h4>Liver")]
    assert base64.b64encode(b"some picture").decode() in card and 'alt="Slices through Liver with its outline"' in card
    assert re.search(r'<a href="#structure-4">Left kidney</a> \(171\u00a0mL\) is larger', page)


def test_json_comes_back_as_it_was() -> None:
    for report in (_report(), _long()):
        assert json_report.from_values(json.loads(json_report.render(report))) == report


def test_json_has_a_schema_and_keeps_an_unknown_confidence() -> None:
    findings = [found("Liver", volume("Liver", 3.0, Comparison(1.0, 2.0, 3.0, -1.5, 4)), confidence=math.nan)]
    text = json_report.render(write_report(findings, SOURCE, graphs={}))

    values = json.loads(text)
    assert (values["schema"], values["version"]) == ("rauslicer-report", 1)
    assert "Research use only" in values["notice"]
    assert values["findings"][0]["confidence"] is None
    read = json_report.from_values(values)
    assert math.isnan(read.findings[0].confidence)
    assert read.findings[0].measurements == findings[0].measurements


@pytest.mark.parametrize(
    "text",
    ["[]", '{"schema": "other"}', '{"schema": "rauslicer-report", "version": 2}', '{"schema": "rauslicer-report", "version": 1}'],
)
def test_what_is_no_report_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="can't be read"):
        json_report.from_values(json.loads(text))


def _ball(spacing: tuple[float, float, float], direction: tuple[float, ...]) -> tuple[sitk.Image, Segmentation]:
    """A red ball on the patient's left, in front, in the upper part of a grey block of 120 mm."""
    size = [round(120 / step) for step in spacing]
    labels = sitk.Image(size, sitk.sitkUInt8)
    labels.SetSpacing(spacing)
    labels.SetDirection(direction)
    labels.SetOrigin(np.array([-60.0, -60.0, -60.0]) * np.sign(np.reshape(direction, (3, 3)).sum(axis=1)))
    z, y, x = np.indices(size[::-1]).reshape(3, -1)
    points = np.array([x, y, z]).T * spacing @ np.reshape(direction, (3, 3)).T + labels.GetOrigin()
    inside = np.linalg.norm(points - (30.0, -30.0, 20.0), axis=1) < 15
    image = sitk.GetImageFromArray(inside.reshape(size[::-1]).astype(np.uint8) * 3)
    image.CopyInformation(labels)
    structures = (Structure(3, "ball", (1.0, 0.0, 0.0)), Structure(5, "nothing"))
    return sitk.Cast(image * 0 + 100, sitk.sitkInt16) + sitk.Cast(image, sitk.sitkInt16), Segmentation(image, structures)


@pytest.mark.parametrize("label", [65536, 614454277, 4294967295])
def test_a_structure_of_any_label_gets_its_picture(label: int) -> None:
    image, segmentation = _ball((1.0, 1.0, 1.0), (1, 0, 0, 0, 1, 0, 0, 0, 1))
    large = sitk.Cast(segmentation.labelmap == 3, sitk.sitkUInt32) * label
    structures = (replace(segmentation.structures[0], label=label), Structure(5, "nothing"))

    pictures = structure_pictures(image, Segmentation(large, structures), {structure.name: structure for structure in structures})

    assert pictures == structure_pictures(image, segmentation, {structure.name: structure for structure in segmentation.structures})


@pytest.mark.parametrize(
    ("spacing", "direction", "row"),
    [
        ((1.0, 1.0, 1.0), (1, 0, 0, 0, 1, 0, 0, 0, 1), "front"),
        ((1.0, 1.0, 1.0), (-1, 0, 0, 0, -1, 0, 0, 0, 1), "front"),
        ((1.0, 4.0, 1.0), (1, 0, 0, 0, 1, 0, 0, 0, 1), "upper"),
    ],
)
def test_a_picture_shows_the_outline_where_the_structure_is(spacing: tuple, direction: tuple, row: str) -> None:
    image, segmentation = _ball(spacing, direction)

    pictures = structure_pictures(image, segmentation, {structure.name: structure for structure in segmentation.structures})

    assert list(pictures) == ["ball"]
    pixels = np.asarray(Image.open(BytesIO(pictures["ball"])).convert("RGB")).astype(int)
    # Two slices side by side, the sharper one first.
    assert pixels.shape[1] == 2 * pixels.shape[0]
    pixels = pixels[:, : len(pixels)]
    red = np.argwhere((pixels[..., 0] > 180) & (pixels[..., 1] < 80) & (pixels[..., 2] < 80)) / len(pixels)
    # Radiological convention: left of the patient on the right. Front or upper is on top; 90 of the 120 mm are shown.
    assert red.size and red[:, 1].mean() == pytest.approx(0.67, abs=0.06)
    assert red[:, 0].mean() == pytest.approx(0.33 if row == "front" else 0.45, abs=0.08)
