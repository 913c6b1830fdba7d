"""A report as Markdown: short enough to read as plain text, with tables where there are many structures."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from ... import NOTICE
from ..evidence import Report, Sentence, StructureFindings
from ..wording import body
from .layout import DETAILS, TITLE, Table, overview_table, paragraphs, state, sureness, table

_SPECIAL = re.compile(r"[\\`*\[\]<>|#~]|(?<!\w)_|_(?!\w)")


def render(report: Report) -> str:
    """The report as Markdown text; names and phrases can't be taken for markup."""
    lines = [f"# {TITLE}", "", f"**{NOTICE}**", ""]
    lines += [f"- {_escaped(heading)}: {_escaped(text)}" for heading, text in report.source.items()]
    by_name = {found.name: found for found in report.findings}
    for section in report.sections:
        shown = overview_table(report) if section is report.sections[0] else table(section, report)
        lines += ["", f"## {_escaped(section.title)}", "", *_sentences(section.sentences, by_name), *_table(shown)]
    detailed = [section for section in report.sections if section.details]
    if detailed:
        lines += ["", f"## {DETAILS}"]
    for section in detailed:
        lines += ["", f"### {_escaped(section.title)}", "", *_sentences(section.details, by_name)]
    return "\n".join(lines) + "\n"


def _sentences(sentences: Sequence[Sentence], by_name: Mapping[str, StructureFindings]) -> list[str]:
    lines = []
    for paragraph in paragraphs(sentences):
        texts = " ".join(_escaped(body(sentence) if paragraph.structure else sentence.text) for sentence in paragraph.sentences)
        if paragraph.structure is not None:
            found = by_name.get(paragraph.structure)
            lines.append(f"- **{_escaped(paragraph.structure)}**{'' if found is None else f' ({state(found)})'}. {texts}")
        else:
            note = sureness(paragraph.sentences[0])
            lines.append(f"- {texts[:1].upper()}{texts[1:]}{f' *{note}*' if note else ''}")
    return lines


def _table(rows: Table | None) -> list[str]:
    if rows is None:
        return []
    rules = ["---", *["---:"] * (len(rows.header) - 1)]
    return ["", *(f"| {' | '.join(cells)} |" for cells in (rows.header, rules, *(map(_escaped, row) for row in rows.rows)))]


def _escaped(text: str) -> str:
    return _SPECIAL.sub(r"\\\g<0>", " ".join(text.split()))
