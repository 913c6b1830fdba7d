"""Text of foreign origin (names, licences, messages of libraries) as it may be shown: nothing in it moves a cursor or hides a word."""

from __future__ import annotations


def printable(text: str, keep: str = "") -> str:
    r"""The text with every control character, invisible mark and lone surrogate written out as an escape.

    Args:
        text: What is to be shown.
        keep: Control characters that may stay, for example a line feed.

    >>> printable("liver\x1b[2J\nright") == "liver\\x1b[2J\\nright"
    True
    """
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() or one in keep else _written_out(one) for one in text)


def _written_out(one: str) -> str:
    # Other kinds of spaces do no harm.
    return " " if one.isspace() and ord(one) > 0x9F and one not in "\u2028\u2029" else one.encode("unicode_escape").decode("ascii")
