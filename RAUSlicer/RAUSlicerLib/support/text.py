"""Text that others wrote: made safe to keep and to print, and compared whatever its case, outer spaces and stored form of accents."""

from __future__ import annotations

import unicodedata

# Marks that turn the direction of text round: with them a name can show other words than it holds.
_TURNING = frozenset("\u200e\u200f\u061c\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\ufeff")


def plain_text(text: str) -> str:
    """The text without what a terminal would obey: control characters become spaces, marks that turn text round are left out.

    Halves of characters, as a broken encoding leaves them, become "?".

    >>> plain_text("liver\\x1b[31m\\n")
    'liver [31m '
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(_plain(character) for character in text)


def is_text(text: str, encoding: str = "utf-8") -> bool:
    """Whether text can be given to a library, which bytes that are not UTF-8 can't; or printed in another encoding."""
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return False
    return True


def name_key(name: str) -> str:
    """What two names have in common that mean the same: case, outer spaces, control characters and the form of accents do not count.

    >>> name_key(" Dru\\u0308se ") == name_key("DR\\u00dcSE")
    True
    """
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", plain_text(name).strip()).casefold())


def _plain(character: str) -> str:
    if character in _TURNING:
        return ""
    kind = unicodedata.category(character)
    if kind in ("Cc", "Zl", "Zp"):
        return " "
    return "?" if kind == "Cs" else character


def printable(text: str, keep: str = "") -> str:
    r"""The text with every control character, invisible mark and lone surrogate, but those to ``keep``, written out as an escape.

    >>> printable("liver\x1b[2J\nright") == "liver\\x1b[2J\\nright"
    True
    """
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() or one in keep else _written_out(one) for one in text)


def _written_out(one: str) -> str:
    # Other kinds of spaces do no harm.
    return " " if one.isspace() and ord(one) > 0x9F and one not in "\u2028\u2029" else one.encode("unicode_escape").decode("ascii")
