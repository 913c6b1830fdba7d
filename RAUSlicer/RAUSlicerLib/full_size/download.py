"""Fetches a public model from the Hugging Face hub: only when somebody asks for it, with progress, and going on where it broke off.

Nothing else in this library tries the network.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from ..errors import InputError, ModelError, OutputError, RAUSlicerError, ResourceError
from ..models.folders import staging_folder, user_folder

# Weights, configuration, tokenizer and card: what can run code is never fetched.
from ..models.manifest import ALLOWED_SUFFIXES
from ..models.store import ModelFolder, check_name
from ..support.shortage import no_room
from .adding import add, require_space
from .backbone_config import first_line

_PART = ".part"
_BLOCK = 2**20
_FORBIDDEN = (errno.EROFS, errno.EACCES, errno.EPERM)
# Public models that the recipe is meant for; others of the same kinds can be fetched too.
SUGGESTED = {
    "Qwen/Qwen2.5-VL-3B-Instruct": "Qwen Research License (non-commercial)",
    "Qwen/Qwen2.5-VL-7B-Instruct": "Apache-2.0",
    "Qwen/Qwen3-VL-2B-Instruct": "Apache-2.0",
    "Qwen/Qwen3-VL-4B-Instruct": "Apache-2.0",
    "Qwen/Qwen3-VL-8B-Instruct": "Apache-2.0",
    "facebook/sam2.1-hiera-tiny": "Apache-2.0",
    "facebook/sam2.1-hiera-small": "Apache-2.0",
    "facebook/sam2.1-hiera-base-plus": "Apache-2.0",
    "facebook/sam2.1-hiera-large": "Apache-2.0",
}
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
OFFLINE_VARIABLES = ("RAUSLICER_OFFLINE", "HF_HUB_OFFLINE")

# Done and all bytes.
Report = Callable[[int, int], None]


def download(repository: str, name: str | None = None, revision: str = "main", report: Report | None = None) -> ModelFolder:
    """Fetch a model and add it. What was fetched before a break is kept and used by the next try.

    Args:
        repository: On the hub, ``owner/name``.
        name: What it is called here; without, the repository's name.
        revision: A branch, tag or commit.
        report: Told how far it is.

    Raises:
        InputError: the repository is no ``owner/name``.
        ModelError: what was fetched is no model that can be used, or the name is taken.
        OutputError: there is too little space, or the folder can't be written.
        ResourceError: it is set to offline, or the hub can't be reached or refuses.
    """
    if not _REPOSITORY.fullmatch(repository):
        raise InputError(
            f"{repository!r} is no repository.", "The hub's are named owner/name.", f"For example {', '.join(list(SUGGESTED)[:2])}."
        )
    name = check_name(name or repository.split("/")[1].lower())
    offline = next((variable for variable in OFFLINE_VARIABLES if os.environ.get(variable, "0").lower() not in ("", "0", "false")), None)
    if offline:
        raise ResourceError(
            "Nothing is downloaded offline.",
            f"The environment variable {offline} is set.",
            "Unset it, or copy the model's folder here and add it with `rauslicer models add`.",
        )
    home = user_folder()
    staging = staging_folder(repository)
    try:
        files, commit = _files(repository, revision)
        home.mkdir(parents=True, exist_ok=True)
        there = sum(path.stat().st_size for path in staging.rglob("*") if path.is_file())
        require_space(home, sum(file.size for file in files), there)
        staging.mkdir(exist_ok=True)
        _fetch(repository, commit, staging, files, report)
    except Exception as error:
        raise _explained(repository, revision, error) from error
    try:
        model = add(staging, name)
    except ModelError:
        # All of it is here, and it is no model: there is nothing to go on with.
        shutil.rmtree(staging)
        raise
    shutil.rmtree(staging)
    return model


@dataclass(frozen=True)
class _File:
    """A file on the hub; ``checksum`` is the SHA-256 of a large file, and of a small one what git calls it by (SHA-1)."""

    name: str
    size: int
    checksum: str

    def is_that(self, path: Path) -> bool:
        """Whether a file here has its content."""
        if path.stat().st_size != self.size:
            return False
        digest = hashlib.sha256() if len(self.checksum) == 64 else hashlib.sha1(f"blob {self.size}\0".encode(), usedforsecurity=False)
        with path.open("rb") as opened:
            while block := opened.read(_BLOCK):
                digest.update(block)
        return digest.hexdigest() == self.checksum


def _files(repository: str, revision: str) -> tuple[list[_File], str]:
    """Wanted files, small ones first, and the commit that the revision is now."""
    from huggingface_hub import HfApi

    info: Any = HfApi().model_info(repository, revision=revision, files_metadata=True)
    files = [
        _File(entry.rfilename, int(entry.size or 0), str(entry.lfs.sha256 if entry.lfs else entry.blob_id))
        for entry in info.siblings
        if "/" not in entry.rfilename and Path(entry.rfilename).suffix in ALLOWED_SUFFIXES
    ]
    return sorted(files, key=lambda file: file.size), str(info.sha)


def _fetch(repository: str, commit: str, staging: Path, files: list[_File], report: Report | None) -> None:
    """Bring files into a folder; what is there of them already is not fetched again.

    The hub's own `hf_hub_download` deletes an unfinished file when it is interrupted, and compares sizes alone.
    """
    from huggingface_hub import hf_hub_url
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers

    parts = {file: staging / f"{file.name}.{file.checksum[:16]}{_PART}" for file in files}
    for path in staging.iterdir():
        # Of another revision, or fetched otherwise.
        if path.is_file() and path not in parts.values() and path.name not in {file.name for file in files}:
            path.unlink()
    # Compressed bytes can't be gone on with, and have another size.
    headers = {**build_hf_headers(library_name="rauslicer"), "Accept-Encoding": "identity"}
    total, done = sum(file.size for file in files), 0
    for file in files:
        whole, part = staging / file.name, parts[file]
        if not (whole.is_file() and file.is_that(whole)):
            whole.unlink(missing_ok=True)
            if part.is_file() and part.stat().st_size > file.size:
                part.unlink()
            with part.open("ab") as opened:
                counted = _Counted(opened, done, total, report)
                url = hf_hub_url(repository, file.name, revision=commit)
                here = opened.tell()
                named = {"displayed_filename": file.name, "tqdm_class": _silent()}
                http_get(url, counted, resume_size=here, headers=headers, expected_size=file.size, **named)
            if not file.is_that(part):
                part.unlink()
                raise ModelError(
                    f"The file {file.name!r} of {repository!r} did not arrive as the hub has it.",
                    "Its checksum is another one, so it was changed on the way or is damaged there. It was deleted.",
                    "Try again; if it happens twice, don't use this source.",
                )
            part.replace(whole)
        done += file.size
        if report is not None:
            report(done, total)


class _Counted:
    """A file that reports whenever something is written, and can do all that `http_get` asks of one."""

    def __init__(self, file: BinaryIO, before: int, total: int, report: Report | None) -> None:
        self._file, self._before, self._total, self._report = file, before, total, report

    def write(self, block: bytes) -> int:
        written = self._file.write(block)
        self._file.flush()
        if self._report is not None:
            self._report(self._before + self._file.tell(), self._total)
        return written

    def tell(self) -> int:
        return self._file.tell()

    def seek(self, place: int) -> int:
        return self._file.seek(place)

    def truncate(self) -> int:
        return self._file.truncate()


def _silent() -> Any:
    from huggingface_hub.utils import tqdm

    class Silent(tqdm):  # type: ignore[misc,unused-ignore]
        """No bar beside ours."""

        def __init__(self, *arguments: Any, **named: Any) -> None:
            super().__init__(*arguments, **{**named, "disable": True})

    return Silent


def _explained(repository: str, revision: str, error: Exception) -> Exception:
    """The error in words; one that is no matter of the network or the disk comes back as it is."""
    from huggingface_hub import errors

    problem, again = f"{repository!r} can't be downloaded.", "try again: it goes on where it stopped."
    if isinstance(error, RAUSlicerError):
        return error
    if isinstance(error, errors.GatedRepoError):
        return ResourceError(
            problem,
            "Its makers want its licence to be accepted first.",
            f"Accept it at https://huggingface.co/{repository}, log in with `hf auth login`, and try again.",
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        return ResourceError(
            problem,
            "The hub knows no such model, or hides it.",
            "Check the name; for a private one, log in: `hf auth login`.",
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return ResourceError(problem, f"It has no revision {revision!r}.", "Choose a branch, tag or commit that the hub shows.")
    if isinstance(error, errors.HTTPError):
        return ResourceError(problem, f"The hub can't be reached, or refuses ({first_line(error)}).", f"Check the network, then {again}")
    if isinstance(error, OSError) and (no_room(error) or error.errno in _FORBIDDEN):
        return OutputError(
            f"{repository!r} can't be kept in {str(user_folder())!r}.",
            f"The system says: {error.strerror}.",
            f"Free space, then {again}",
        )
    if isinstance(error, (OSError, ValueError)):
        return ResourceError(problem, f"The hub's answer can't be used ({first_line(error)}).", f"Check the network, then {again}")
    return error
