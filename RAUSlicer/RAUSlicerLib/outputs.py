"""Files that the user asks for: never over an input, over another file only if allowed, and whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from .errors import OutputError

_SCRATCH = ".rauslicer-"


def require_free(path: Path, what: str, *, force: bool, inputs: Sequence[Path] = ()) -> None:
    """Make sure that a name may be written to.

    Args:
        what: What the user calls it, for example ``report``.
        force: Whether an existing file may be replaced.
        inputs: Files and folders that are never written to, whatever ``force`` says.

    Raises:
        OutputError: a folder of that name, an input, an existing file without ``force``; a name that the operating system refuses.
    """
    try:
        is_folder, is_there = path.is_dir(), path.exists()
        is_input = is_there and any(_is_part_of(path, source) for source in inputs)
    except OSError as error:
        # A name that is too long, or a folder that can't be looked into.
        raise _unwritable(path, what, error) from error
    if is_folder:
        raise OutputError(f"The {what} {str(path)!r} is a folder.", "It is written to one file.", "Give the name of a file.")
    if not is_there:
        return
    if is_input:
        raise OutputError(
            f"The {what} {str(path)!r} is one of the files that it is made from.",
            "Writing it would destroy the input.",
            "Choose another name.",
        )
    if not force:
        raise OutputError(
            f"The {what} {str(path)!r} exists already.",
            "Existing files are not overwritten unless asked for.",
            "Choose another name, or allow overwriting (--force).",
        )


def require_writable(path: Path, what: str) -> None:
    """Make sure that a file can be put there, before hours of work are spent on it.

    Raises:
        OutputError: the folder is missing or can't be written to. Folders are not created, so that a slip of the pen does not scatter
            results.
    """
    try:
        # Asking for permissions says nothing on network disks and in containers; trying does.
        with tempfile.TemporaryDirectory(prefix=_SCRATCH, dir=path.parent):
            pass
    except OSError as error:
        raise _unwritable(path, what, error) from error


@contextmanager
def writing(path: Path, what: str, suffix: str = "") -> Iterator[Path]:
    """A path to write to; what is there at the end appears under the asked name, replacing what was there.

    Its own name keeps characters of the user's file name away from libraries that can't take them; ``suffix`` ends it, the asked file's own
    if left out.

    Raises:
        OutputError: the operating system refuses.
    """
    try:
        with tempfile.TemporaryDirectory(prefix=_SCRATCH, dir=path.parent) as folder:
            part = Path(folder) / f"result{suffix or path.suffix.lower()}"
            yield part
            os.replace(part, path)
    except OSError as error:
        raise _unwritable(path, what, error) from error


def _is_part_of(path: Path, source: Path) -> bool:
    return source.exists() and (path.samefile(source) or (source.is_dir() and source.resolve() in path.resolve().parents))


def _unwritable(path: Path, what: str, error: OSError) -> OutputError:
    return OutputError(
        f"The {what} {str(path)!r} can't be written.",
        f"The operating system says: {error.strerror or error}.",
        "Choose an existing folder you may write to, with enough free space.",
    )
