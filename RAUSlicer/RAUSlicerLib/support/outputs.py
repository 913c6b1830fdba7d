"""Files that the user asks for: never over an input or each other, over another file only if allowed, and whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import sys
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InputError, OutputError, RAUSlicerError
from . import strict_json
from .companions import companions, names_files, nifti_twins
from .scratch import ScratchFolder
from .text import is_text

if TYPE_CHECKING:
    import pydicom

# Enough to notice a full disk before the work, and small enough for a nearly full one.
_PROBE = bytes(4096)
_TWINS = (
    "The names differ in .gz alone, and many programs, 3D Slicer among them, then show the compressed file with the voxels of the other."
)


def require_free(path: Path, what: str, *, force: bool, inputs: Sequence[Path] = ()) -> None:
    """Make sure that a name may be written to.

    Args:
        what: What the user calls it, for example ``report``.
        force: Whether an existing file may be replaced.
        inputs: Files and folders that are never written to, whatever ``force`` says; the files that are read with them neither.

    Raises:
        OutputError: a folder of that name, something that is no file, an input, an existing file without ``force``; the name of a NIfTI
            file that lies there compressed, or the other way round; a name that the operating system refuses.
    """
    try:
        is_folder, is_there = path.is_dir(), os.path.lexists(path)
        is_odd = path.exists() and not is_folder and not path.is_file()
        is_input = any(_is_one_of(path, (source, *companions(source))) or _is_within(path, source) for source in inputs)
        names_labels = any(_is_one_of(path, names_files(source)) for source in inputs)
        twin = next((twin for twin in nifti_twins(path) if os.path.lexists(twin) or _is_one_of(twin, inputs)), None)
    except OSError as error:
        # A name that is too long, or a folder that can't be looked into.
        raise unwritable(path, what, error) from error
    if is_folder:
        raise OutputError(f"The {what} {str(path)!r} is a folder.", "It is written to one file.", "Give the name of a file.")
    if is_odd:
        raise OutputError(
            f"The {what} {str(path)!r} is no file, but a device or the like.", "A file would take its place.", "Give the name of a file."
        )
    if is_input:
        raise OutputError(
            f"The {what} {str(path)!r} is one of the files that it is made from.",
            "Writing it would destroy the input.",
            "Choose another name.",
        )
    if names_labels:
        raise OutputError(
            f"The {what} {str(path)!r} is where the names of an input's labels are read from.",
            "Writing it would destroy the input, or change how it is read the next time.",
            "Choose another name.",
        )
    if twin is not None:
        raise OutputError(f"The {what} {str(path)!r} can't lie beside the file {twin.name!r}.", _TWINS, "Choose another name.")
    if is_there and not force:
        raise OutputError(
            f"The {what} {str(path)!r} exists already.",
            "Existing files are not overwritten unless asked for.",
            "Choose another name, or allow overwriting (--force).",
        )


def require_apart(outputs: Sequence[tuple[str, Path]]) -> None:
    """Make sure that no output is another one, by whatever name: through links, ``..``, or in other letters on disks that ignore case.

    Args:
        outputs: What the user calls each, and where it is written.

    Raises:
        OutputError: two are one file, or one NIfTI file, compressed and not.
    """
    for number, (what, path) in enumerate(outputs):
        other = next((earlier for earlier in outputs[:number] if is_same_place(path, earlier[1])), None)
        if other is not None:
            raise OutputError(
                f"The {what} {str(path)!r} has the name of another output, the {other[0]} {str(other[1])!r}.",
                "One would replace the other (on some disks also where names differ in upper and lower case alone).",
                "Choose another name.",
            )
        twins = nifti_twins(path)
        other = next((earlier for earlier in outputs[:number] if _is_one_of(earlier[1], twins)), None)
        if other is not None:
            raise OutputError(
                f"The {what} {str(path)!r} can't lie beside another output, the {other[0]} {str(other[1])!r}.",
                _TWINS,
                "Choose another name.",
            )


def require_outside(outputs: Sequence[tuple[str, Path]], models: Sequence[Path]) -> None:
    """Make sure that no output lies in the folder of a model, which any file that does not belong there makes a damaged one.

    Raises:
        OutputError: one does.
    """
    for what, path in outputs:
        folders = {path.absolute().parent.resolve(), *path.absolute().parent.resolve().parents}
        model = next((model for model in models if model.resolve() in folders), None)
        if model is not None:
            raise OutputError(
                f"The {what} {str(path)!r} lies in the folder of the model {model.name!r}.",
                "A model is what its checksums say; any other file in it makes it a damaged one.",
                "Choose another folder.",
            )


def is_same_place(a: Path, b: Path) -> bool:
    """Whether two paths are, or would be, one file."""
    with contextlib.suppress(OSError):
        if a.samefile(b):
            return True
    return bool(_places(a) & _places(b))


def require_writable(path: Path, what: str) -> None:
    """Make sure that a file can be put there, before hours of work are spent on it.

    Raises:
        OutputError: the folder is missing, full or can't be written to. Folders are not created, so that a slip of the pen does not
            scatter results.
    """
    try:
        # Asking for permissions says nothing on network disks and in containers; trying does.
        with ScratchFolder(path.parent) as folder:
            (folder / "probe").write_bytes(_PROBE)
    except OSError as error:
        raise unwritable(path, what, error) from error


def make_folder(folder: Path) -> None:
    """Create a folder for results, if it is not there yet. Raises OutputError: it can't be created."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"The folder {str(folder)!r} can't be created.", f"The system says: {error.strerror or error}.", "Choose another folder."
        ) from error


@contextmanager
def writing(path: Path, what: str, suffix: str = "", *, may_be_empty: bool = False) -> Iterator[Path]:
    """A path to write to; what is there at the end appears under the asked name, replacing what was there.

    Its own name keeps characters of the user's file name away from libraries that can't take them; ``suffix`` ends it, the asked file's own
    if left out. Whoever writes reads back what was written before this ends, because not every library says that a disk was full.

    Raises:
        OutputError: the operating system refuses, or there is nothing at the end.
        InputError: whoever writes reads a file, and the operating system refuses that.
    """
    try:
        with ScratchFolder(path.parent) as folder, _speakable(folder) as spoken:
            name = f"result{suffix or path.suffix.lower()}"
            try:
                yield spoken / name
            except OSError as error:
                if (source := _other_file(error, (folder, spoken, path))) is not None:
                    raise _unreadable(source, error) from error
                raise
            _settle(folder / name, may_be_empty)
            os.replace(folder / name, path)
    except OSError as error:
        raise unwritable(path, what, error) from error


def write_bytes(path: Path, what: str, content: bytes) -> None:
    """Write a file whole or not at all, replacing what is there.

    Raises:
        OutputError: the operating system refuses, or what it gives back is something else.
    """
    with writing(path, what, may_be_empty=not content) as part:
        put(part, content)


def put(part: Path, content: bytes) -> None:
    """Write bytes to a file and read them back. Raises OSError: the operating system refuses, or gives back something else."""
    part.write_bytes(content)
    if part.read_bytes() != content:
        raise OSError(errno.EIO, "what was written reads back as something else; the disk may be full or damaged")


def put_dicom(part: Path, dataset: pydicom.Dataset) -> None:
    """The same of a DICOM object; pydicom would read one that was cut off without a word."""
    buffer = io.BytesIO()
    dataset.save_as(buffer)
    put(part, buffer.getvalue())


def write_text(path: Path, what: str, text: str) -> None:
    """Write text in UTF-8 as ``write_bytes`` does; characters that UTF-8 lacks, as in names that were not UTF-8, are written as escapes.

    Raises:
        OutputError: see ``write_bytes``.
    """
    write_bytes(path, what, text.encode("utf-8", "backslashreplace"))


def write_json(path: Path, what: str, document: Any, indent: int = 2) -> None:
    """Write plain values as JSON, as ``write_bytes`` does. Raises OutputError: see ``write_bytes``."""
    write_text(path, what, json_text(document, "utf-8", indent) + "\n")


def json_text(document: Any, encoding: str, indent: int = 2) -> str:
    """Plain values as JSON; characters that the encoding lacks, or that would steer a terminal, are written as JSON's own escapes."""
    text = strict_json.dumps(document, indent=indent, ensure_ascii=False)
    if text.isascii() and "\x7f" not in text:
        return text
    return "".join(one if one == "\n" or (one.isprintable() and is_text(one, encoding)) else _json_escape(one) for one in text)


def _json_escape(one: str) -> str:
    units = one.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{int.from_bytes(units[place : place + 2]):04x}" for place in range(0, len(units), 2))


def take_all(steps: Sequence[Callable[[], object]]) -> None:
    """Take every step, also after one has failed: what can be written is, whatever becomes of the rest.

    Raises:
        Exception: the first that a step raised; of several that speak to the user, one that names the problem of each.
    """
    failed: list[Exception] = []
    for step in steps:
        try:
            step()
        except Exception as error:
            failed.append(error)
    if not failed:
        return
    first = next((error for error in failed if not isinstance(error, RAUSlicerError)), failed[0])
    if isinstance(first, RAUSlicerError) and len(failed) > 1:
        problems = dict.fromkeys(error.problem for error in failed if isinstance(error, RAUSlicerError))
        raise type(first)(" ".join(problems), first.explanation, first.solution) from first
    raise first


def _is_one_of(path: Path, files: Iterable[Path]) -> bool:
    return any(is_same_place(path, file) for file in files)


def _is_within(path: Path, folder: Path) -> bool:
    """Whether a file is one of those in a folder that is read; a new one beside them is not."""
    return path.exists() and folder.is_dir() and folder.resolve() in path.resolve().parents


def _places(path: Path) -> set[tuple[object, str]]:
    """What tells a place from others, also where nothing is yet: the folder itself and the name in it; of a link, its target's too."""
    places = {_place(path)}
    # A ring of links leads nowhere.
    with contextlib.suppress(OSError, RuntimeError):
        places.add(_place(path.resolve()))
    return places


def _place(path: Path) -> tuple[object, str]:
    # `..` is left to the operating system: after a link it means something else than in the text.
    path = path.absolute()
    try:
        status = path.parent.stat()
        folder: object = (status.st_dev, status.st_ino)
    except OSError:
        folder = _folded(str(path.parent.resolve()))
    return folder, _folded(path.name)


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


@contextmanager
def _speakable(folder: Path) -> Iterator[Path]:
    """The folder by a path that libraries in C++ can take: they want UTF-8, which the user's folders need not be."""
    if is_text(str(folder)):
        yield folder
        return
    if sys.platform != "linux":
        raise OSError(errno.EILSEQ, "its path is not UTF-8")
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        yield Path(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)


def _settle(part: Path, may_be_empty: bool) -> None:
    """Make sure that a file is there, holds something, and has reached the disk: network disks say only then that they are full."""
    if part.stat().st_size == 0 and not may_be_empty:
        raise OSError(errno.EIO, "the file is empty; the disk may be full")
    with part.open("rb+") as file:
        os.fsync(file.fileno())


def _other_file(error: OSError, ours: Sequence[Path]) -> str | None:
    """The file that an error names, if it is none of ``ours`` nor in one of them; None also where it names none."""
    # Copying names both files, whichever of them it was.
    named = [os.fsdecode(name) for name in (error.filename, error.filename2) if isinstance(name, str | bytes | os.PathLike)]
    if not named or any(Path(name) == own or own in Path(name).parents for name in named for own in ours):
        return None
    return named[0]


def _unreadable(source: str, error: OSError) -> InputError:
    return InputError(
        f"The file {source!r} can't be read.",
        f"The operating system says: {error.strerror or error}.",
        "Make sure that it is still there and may be read, and try again.",
    )


def foreign(path: Path, writer: str, where: str) -> OutputError:
    """The error for a file of somebody else's where a command keeps its own.

    Args:
        writer: What writes such files, for example ``benchmark``.
        where: How another folder is chosen.
    """
    return OutputError(
        f"The file {str(path)!r} is there already, and no {writer} has written it.",
        "Only files that were written in that way are gone on with, or replaced.",
        f"Choose another folder {where}.",
    )


def unwritable(path: Path, what: str, error: OSError) -> OutputError:
    """The error for a file that the operating system won't have."""
    return OutputError(
        f"The {what} {str(path)!r} can't be written.",
        f"The operating system says: {error.strerror or error}.",
        "Choose an existing folder you may write to, with enough free space.",
    )
