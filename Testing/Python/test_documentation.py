"""Documentation that is true: links lead somewhere, options and exit codes are all described, versions agree, no private words."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from RAUSlicerLib import __version__
from RAUSlicerLib.cli import app

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    [
        *ROOT.glob("*.md"),
        *(ROOT / "docs").rglob("*.md"),
        *(ROOT / "Testing" / "Benchmarks").rglob("*.md"),
        *(ROOT / "Testing" / "host").glob("*.md"),
        *(ROOT / "Resources" / "SampleData").glob("*.md"),
    ]
)
REFERENCE = ROOT / "docs" / "reference" / "command-line.md"
# What the project's own words were before the field's.
PRIVATE = re.compile(r"\b(carried over|carry over|carries over|carried masks?|heeds?|labels of training|likeness(es)?)\b", re.IGNORECASE)


def _without_code(text: str) -> str:
    return re.sub(r"```.*?```|`[^`\n]*`", "", text, flags=re.DOTALL)


def _anchors(page: Path) -> set[str]:
    """The addresses of a page's headings, as GitHub makes them."""
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_to_a_file_and_a_heading(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", _without_code(page.read_text(encoding="utf-8"))):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, heading = link.partition("#")
        target = (page.parent / path).resolve() if path else page

        assert target.exists(), link
        assert not heading or heading in _anchors(target), link


def test_pages_that_code_and_cards_name_exist() -> None:
    named = [*(ROOT / "RAUSlicer").rglob("*.py"), *(ROOT / "Testing" / "Benchmarks").glob("*.*"), *(ROOT / "Resources").rglob("README.md")]
    missing = {
        f"{path.relative_to(ROOT)}: {page}"
        for path in named
        for page in re.findall(r"docs/[\w/-]+\.md", path.read_text(encoding="utf-8"))
        if not (ROOT / page).is_file()
    }

    assert sorted(missing) == []


def _parsers(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for child in action.choices.values():
                yield from _parsers(child)


def test_the_reference_has_every_command_option_and_exit_code() -> None:
    text = REFERENCE.read_text(encoding="utf-8")
    parsers = list(_parsers(app._parser()))
    commands = {parser.prog.split()[-1] for parser in parsers[1:]}
    options = {option for parser in parsers for action in parser._actions for option in action.option_strings}
    codes = set(re.findall(r"^  (\d+)  ", app._EXIT_CODES, re.MULTILINE))

    assert len(codes) >= 8 and len(options) > 30
    assert {name for name in commands if not re.search(rf"(`|## ){name}\b", text)} == set()
    assert {option for option in options if not re.search(rf"`{option}\b", text)} == set()
    assert {code for code in codes if f"\n| {code} | " not in text} == set()


def test_the_reference_has_every_field_of_the_json_of_a_transfer() -> None:
    from RAUSlicerLib.cli.transfer import transfer_report
    from RAUSlicerLib.imaging.segmentation import Structure
    from RAUSlicerLib.results import Status, StructureResult, Transfer

    outcome = StructureResult(Structure(1, "liver"), Status.FOUND, 0.9, 1.0, 1.0, None)
    document = transfer_report(Transfer(None, (outcome,), {}, (), False, "embedded", "vlm"), Path("out.nii.gz"))
    text = REFERENCE.read_text(encoding="utf-8")

    assert {name for name in [*document, *document["structures"][0]] if f"`{name}`" not in text} == set()


def test_version_changelog_and_citation_agree() -> None:
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    released = re.findall(r"^## \[(\d+\.\d+\.\d+)\] - \d{4}-\d\d-\d\d$", changes, re.MULTILINE)
    cited = re.search(r"^version: (\S+)$", (ROOT / "CITATION.cff").read_text(encoding="utf-8"), re.MULTILINE)

    assert cited is not None
    assert released[0] == cited.group(1) == __version__


def test_the_readme_is_read_in_ten_minutes() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 120


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_pages_use_the_words_of_the_field(page: Path) -> None:
    assert PRIVATE.findall(_without_code(page.read_text(encoding="utf-8"))) == []
