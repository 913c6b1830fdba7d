"""The one door for what the command line prints: nothing in it steers a terminal, and no stream that fails changes what a run does."""

from __future__ import annotations

import contextlib
import errno
import io
import logging
import os
import sys
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import IO, Any, NamedTuple, TextIO, cast

from rich import box
from rich.console import Console, RenderableType
from rich.table import Table as RichTable
from rich.text import Text

from .notices import is_collected
from .text import printable

# Figures that are cut off are no use, and a log has no width of its own.
_LOG_WIDTH = 160


def say(text: str = "", *, error: bool = False) -> None:
    """Print a line, to standard output or, of an error or of what goes on, to standard error."""
    print(printable(text), file=sys.stderr if error else sys.stdout, flush=True)


def warn(sentences: Iterable[str]) -> None:
    """Print warnings, to standard error."""
    for sentence in sentences:
        say(f"Warning: {sentence}", error=True)


def show(what: RenderableType) -> None:
    """Print a table."""
    output_console().print(what)


def output_console() -> Console:
    """What tables are drawn on: standard output."""
    console = _console(sys.stdout)
    if not console.is_terminal:
        console.width = max(console.width, _LOG_WIDTH)
    return console


class Table(RichTable):
    """A table whose cells are shown as they are: what is in them neither styles it nor steers the terminal."""

    def __init__(self, *headings: str, title: str | None = None) -> None:
        super().__init__(*headings, title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)

    def add_row(self, *cells: RenderableType | None, **named: Any) -> None:
        super().add_row(*(Text(printable(cell)) if isinstance(cell, str) else cell for cell in cells), **named)


def progress_console() -> Console:
    """What a progress bar draws on: standard error."""
    return _console(sys.stderr)


def _console(stream: object) -> Console:
    # rich writes codes that steer the terminal, and means to.
    file = cast(IO[str], stream.styled if isinstance(stream, _Stream) else stream)
    return Console(file=file, highlight=False, markup=False, emoji=False)


@contextmanager
def safe_streams() -> Iterator[_Streams]:
    """Within it, all that is printed passes this door, also by libraries, with warnings and logs."""
    _open_missing()
    before: tuple[TextIO | None, TextIO | None] = (sys.stdout, sys.stderr)
    shown = warnings.showwarning
    streams = _Streams(_Stream(before[0]), _Stream(before[1]))
    sys.stdout, sys.stderr = cast(TextIO, streams.out), cast(TextIO, streams.error)
    # Warnings of libraries quote what they found, such as the name of a patient, and nobody who runs a command can act on them.
    warnings.showwarning = lambda *_arguments, **_named: None
    log, silent = logging.getLogger(__name__.partition(".")[0]), logging.NullHandler()
    handler = _Log(logging.WARNING)
    log.addHandler(handler)
    logging.getLogger().addHandler(silent)
    try:
        yield streams
    finally:
        log.removeHandler(handler)
        logging.getLogger().removeHandler(silent)
        warnings.showwarning = shown
        streams.out.flush()
        streams.error.flush()
        sys.stdout, sys.stderr = before
        for stream in before:
            _let_go(stream)


class _Log(logging.Handler):
    """Shows the library's own warnings; those of others may name patients and go nowhere."""

    def emit(self, record: logging.LogRecord) -> None:
        # What a run has collected it tells itself, with its other warnings.
        if not is_collected(record):
            warn([record.getMessage()])


class _Stream(io.TextIOBase):
    """A stream that shows what would steer the terminal, writes what its encoding lacks as escapes, and never fails.

    ``styled`` is the same stream for rich, whose codes for colours pass.
    """

    def __init__(self, stream: TextIO | None, of: _Stream | None = None) -> None:
        self._stream = stream
        self._of = of or self
        self.failure: OSError | None = None
        self.styled = self if of is not None else _Stream(None, of=self)

    def write(self, text: str) -> int:
        with self._of._surviving() as stream:
            shown = printable(text, keep="\n\t") if self._of is self else text
            stream.write(shown.encode(self.encoding, "backslashreplace").decode(self.encoding))
        return len(text)

    def flush(self) -> None:
        with self._of._surviving() as stream:
            stream.flush()

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return getattr(self._of._stream, "encoding", None) or "utf-8"

    @property
    def errors(self) -> str:  # type: ignore[override]
        return "backslashreplace"

    @property
    def buffer(self) -> Any:
        return getattr(self._of._stream, "buffer", None)

    def writable(self) -> bool:
        return True

    def isatty(self) -> bool:
        with contextlib.suppress(ValueError, OSError):
            return self._of._stream is not None and self._of._stream.isatty()
        return False

    def fileno(self) -> int:
        if self._of._stream is None:
            raise io.UnsupportedOperation("fileno")
        return self._of._stream.fileno()

    @contextmanager
    def _surviving(self) -> Iterator[TextIO]:
        """The stream beneath; its failure is kept from everybody who prints, and nothing more is printed after it."""
        try:
            yield self._stream or io.StringIO()
        except OSError as error:
            # Windows has no error of its own for a reader that has gone.
            gone = error.errno in (errno.EPIPE, errno.ESHUTDOWN) or (sys.platform == "win32" and error.errno == errno.EINVAL)
            self._stream, self.failure = None, self.failure or (None if gone else error)
        except ValueError:
            # Somebody has closed it.
            self._stream = None
        except RuntimeError as error:
            # A signal came while something was printed, and what handles it prints too.
            if "reentrant" not in str(error):
                raise


class _Streams(NamedTuple):
    """Standard output and standard error behind the door."""

    out: _Stream
    error: _Stream

    @property
    def lost(self) -> OSError | None:
        """Why what was printed did not all arrive; None if it did, or if the reader went away of its own will."""
        return self.out.failure


def _open_missing() -> None:
    """Open what is closed of the first three descriptors; else a file that is written would get one, and all that is printed with it."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            with contextlib.suppress(OSError):
                os.open(os.devnull, os.O_RDWR)


def _let_go(stream: TextIO | None) -> None:
    """Empty a stream that can't be written to, so that the interpreter does not fail with it at the very end."""
    if stream is None:
        return
    try:
        stream.flush()
    except (OSError, ValueError):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            nothing = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nothing, stream.fileno())
            os.close(nothing)
            stream.flush()
