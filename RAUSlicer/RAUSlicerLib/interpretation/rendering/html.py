"""A report as one HTML file: sentences whose structures lead to their pictures, nothing fetched from anywhere."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from html import escape as escape_html
from itertools import groupby

from ... import NOTICE, __version__
from ...results import Status
from ..evidence import Report, Section, Sentence, StructureFindings
from ..wording import body
from .layout import DETAILS, TITLE, Paragraph, evidence, overview_table, paragraphs, state, sureness, table

_STYLE = """
:root { color-scheme: light dark; --paper: #fff; --ink: #1b1f24; --faint: #59636e; --line: #d1d9e0; --link: #0550ae; --warn: #9a5b00; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #0d1117; --ink: #e6edf3; --faint: #9aa7b4; --line: #30363d; --link: #6cb0ff; --warn: #f0b429; }
}
body { margin: 0 auto; max-width: 62rem; padding: 1.5rem; font: 16px/1.5 system-ui, sans-serif; }
body { background: var(--paper); color: var(--ink); }
h1 { font-size: 1.6rem; margin: 0 0 .3rem; } h2 { font-size: 1.25rem; margin: 2rem 0 .6rem; border-bottom: 1px solid var(--line); }
h3 { font-size: 1.05rem; margin: 1.4rem 0 .4rem; }
a { color: var(--link); text-decoration: none; } a:hover, a:focus { text-decoration: underline; }
.notice { color: var(--warn); font-weight: 600; } .note, figcaption, dl.source { color: var(--faint); font-size: .875rem; }
dl.source { display: grid; grid-template-columns: max-content 1fr; gap: .1rem .8rem; } dl.source dd { margin: 0; }
article { display: flow-root; border-top: 1px solid var(--line); padding: .7rem 0; scroll-margin-top: 1rem; break-inside: avoid; }
article:target { outline: 2px solid var(--link); outline-offset: 4px; }
article figure { float: left; max-width: 100%; margin: 0 1rem .3rem 0; }
article img { height: 190px; max-width: 100%; object-fit: contain; display: block; border-radius: 4px; }
article h4 { margin: 0 0 .2rem; font-size: 1rem; } article p { margin: 0; }
ul { margin: .6rem 0; padding-left: 1.2rem; }
.state { font-weight: 400; color: var(--faint); } .uncertain { color: var(--warn); }
table { border-collapse: collapse; margin: .8rem 0; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { padding: .15rem .9rem .15rem 0; border-bottom: 1px solid var(--line); text-align: right; }
th:first-child, td:first-child { text-align: left; }
@media (max-width: 44rem) { article figure { float: none; margin-bottom: .5rem; } article img { height: auto; } }
"""
# What the page may load is nothing, whatever a name tries to smuggle in.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


_QUANTITY = re.compile(r"(?<=\d) (?=mL|mm|HU|%)")


def render(report: Report, pictures: Mapping[str, bytes] | None = None) -> str:
    """The report as an HTML document.

    Every sentence is an element with the names of its structures in ``data-structures`` and its evidence as a tool tip.

    Args:
        report: What to show.
        pictures: PNGs by the name of a structure; a structure without one is shown without.
    """
    page = _Page(report, pictures or {})
    source = "".join(f"<dt>{escape(heading)}</dt><dd>{escape(text)}</dd>" for heading, text in report.source.items())
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta name="generator" content="RAUSlicer {escape(__version__)}">\n'
        f"<title>{TITLE}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<header>\n<h1>{TITLE}</h1>\n"
        f'<p class="notice">{NOTICE}</p>\n<dl class="source">{source}</dl>\n</header>\n<main>\n'
        f"{page.sections()}</main>\n</body>\n</html>\n"
    )


class _Page:
    """Writes sections; knows where each structure's picture stands."""

    def __init__(self, report: Report, pictures: Mapping[str, bytes]) -> None:
        self._report = report
        self._pictures = pictures
        self._findings = {found.name: found for found in report.findings}
        self._anchors = {found.name: f"structure-{index}" for index, found in enumerate(report.findings, start=1)}
        self._by_folded = {name.casefold(): anchor for name, anchor in self._anchors.items()}
        # Longer names first: one may hold another.
        names = sorted(self._anchors, key=len, reverse=True)
        self._names = re.compile("|".join(rf"(?<!\w){re.escape(name)}(?!\w)" for name in names), re.IGNORECASE) if names else None
        self._shown: set[str] = set()
        self._count = 0

    def sections(self) -> str:
        parts = [self._section(section) for section in self._report.sections]
        detailed = [section for section in self._report.sections if section.details]
        if detailed:
            parts.append(f"<h2>{DETAILS}</h2>\n")
        parts += [f"<h3>{escape(section.title)}</h3>\n{self._paragraphs(section.details)}" for section in detailed]
        return "".join(parts)

    def _section(self, section: Section) -> str:
        return f"<section>\n<h2>{escape(section.title)}</h2>\n{self._paragraphs(section.sentences)}{self._table(section)}</section>\n"

    def _paragraphs(self, sentences: Sequence[Sentence]) -> str:
        out = []
        for is_card, group in groupby(paragraphs(sentences), key=lambda paragraph: paragraph.structure in self._findings):
            parts = "".join(self._paragraph(paragraph) for paragraph in group)
            out.append(parts if is_card else f"<ul>\n{parts}</ul>\n")
        return "".join(out)

    def _paragraph(self, paragraph: Paragraph) -> str:
        found = self._findings.get(paragraph.structure or "")
        if found is None:
            note = sureness(paragraph.sentences[0])
            sentence = paragraph.sentences[0]
            text = self._sentence(sentence, sentence.text[:1].upper() + sentence.text[1:])
            note = f' <span class="note">{note}</span>' if note else ""
            return f"<li>{text}{note}</li>\n"
        text = " ".join(self._sentence(sentence, body(sentence)) for sentence in paragraph.sentences)
        anchor = f' id="{self._anchors[found.name]}"' if found.name not in self._shown else ""
        self._shown.add(found.name)
        return f"<article{anchor}>{self._figure(found)}<h4>{escape(found.name)} {self._state(found)}</h4>\n<p>{text}</p></article>\n"

    def _sentence(self, sentence: Sentence, text: str) -> str:
        self._count += 1
        structures = escape("\n".join(sentence.structures))
        title = escape(f"Rests on: {evidence(sentence)}" if sentence.structures else "")
        kind = escape(str(sentence.kind))
        return (
            f'<span id="sentence-{self._count}" class="{kind}" data-structures="{structures}" title="{title}">{self._linked(text)}</span>'
        )

    def _linked(self, text: str) -> str:
        if self._names is None:
            return escape(text)
        parts, end = [], 0
        for match in self._names.finditer(text):
            parts += [escape(text[end : match.start()]), f'<a href="#{self._by_folded[match[0].casefold()]}">{escape(match[0])}</a>']
            end = match.end()
        return "".join((*parts, escape(text[end:])))

    def _figure(self, found: StructureFindings) -> str:
        picture = self._pictures.get(found.name)
        if picture is None:
            return ""
        data = base64.b64encode(picture).decode("ascii")
        name = escape(found.name)
        return f'<figure><img src="data:image/png;base64,{data}" alt="Slices through {name} with its outline" loading="lazy"></figure>'

    def _state(self, found: StructureFindings) -> str:
        sign = "" if found.status is Status.FOUND else " uncertain"
        return f'<span class="state{sign}">({escape(state(found))})</span>'

    def _table(self, section: Section) -> str:
        rows = overview_table(self._report) if section is self._report.sections[0] else table(section, self._report)
        if rows is None:
            return ""
        head = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in rows.header)
        lines = "".join(
            f"<tr><td>{self._linked(row[0])}</td>{''.join(f'<td>{escape(cell)}</td>' for cell in row[1:])}</tr>\n" for row in rows.rows
        )
        return f"<table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{lines}</tbody>\n</table>\n"


def escape(text: str) -> str:
    """Text that can't be taken for markup, and whose numbers are not parted from their units at the end of a line."""
    return escape_html(_QUANTITY.sub("\u00a0", text))
