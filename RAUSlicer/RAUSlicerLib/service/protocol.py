"""One JSON object a line between client and worker: how a message is written, read and refused."""

from __future__ import annotations

import json
import reprlib
from typing import IO, Any

from ..errors import RAUSlicerError
from ..support import strict_json

VERSION = 1
# These take their time, and are answered one at a time.
RUNS = ("transfer", "correct", "report", "ask")
REQUESTS = ("hello", *RUNS, "forget", "cancel", "shutdown")
REPLIES = ("progress", "result", "error")
# Arrays go through files, so a longer request is not one of ours; a reply names every slice of every structure.
LONGEST_LINE = 1 << 20  # bytes
LONGEST_REPLY = 1 << 26  # bytes
_LONGEST_ID = 200

Message = dict[str, Any]


class ProtocolError(RAUSlicerError):
    """A line that is no message of this protocol."""

    code = "protocol"


class BusyError(RAUSlicerError):
    """A run was asked for while another one is under way."""

    code = "busy"


class CancelledError(RAUSlicerError):
    """The user cancelled before a structure was finished."""

    code = "cancelled"


def encode(kind: str, id_: str | None, **fields: Any) -> bytes:
    """One message as a line; ``id_`` names the request that it is or that it answers. Raises ValueError for a number that is not finite."""
    message = {"version": VERSION, "type": kind, "id": id_, **fields}
    # Escaped to ASCII, so that no encoding of the platform and no line separator of Unicode can split or garble the line.
    return json.dumps(message, ensure_ascii=True, allow_nan=False, separators=(",", ":")).encode("ascii") + b"\n"


def read_line(stream: IO[bytes], longest: int) -> bytes:
    """The next line, empty at the end. Of one that is longer than ``longest`` bytes, no more is kept than that ``decode`` refuses it."""
    line = stream.readline(longest + 1)
    rest = line
    while len(rest) > longest and not rest.endswith(b"\n"):
        rest = stream.readline(longest + 1)
    return line


def decode(line: bytes, kinds: tuple[str, ...], longest: int = LONGEST_LINE) -> Message:
    """The message in a line, its id a text or None; a ProtocolError where it is no JSON object, of another version, or of no known type."""
    if len(line) > longest:
        raise _refused(f"A line of more than {longest} bytes was received.")
    try:
        message = strict_json.loads(line)
    except ValueError as error:
        raise _refused(f"The line {_text(line)} is not JSON: {_why(error)}.") from error
    if not isinstance(message, dict):
        raise _refused(f"The line {_text(line)} is not a JSON object.")
    # True and 1.0 are equal to 1.
    if type(message.get("version")) is not int or message["version"] != VERSION:
        raise _refused(f"The message has version {_shown(message.get('version'))}; version {VERSION} is spoken here.")
    if message.get("type") not in kinds:
        raise _refused(f"The message type {_shown(message.get('type'))} is not known; known are {', '.join(kinds)}.")
    if not isinstance(message.setdefault("id", None), str | None):
        raise _refused(f"The message id {_shown(message['id'])} is not a text.")
    return message


def require_id(message: Message) -> str:
    """The id of a request, which its answer repeats; a ProtocolError where there is none, or a very long one."""
    id_: str | None = message["id"]
    if not id_ or len(id_) > _LONGEST_ID:
        raise _refused(f"The message id {_shown(id_)} is not a text of 1 to {_LONGEST_ID} characters.")
    return id_


def decode_reply(line: bytes) -> Message:
    """The reply in a line, with all that a reply of its kind has; a ProtocolError where it is none."""
    message = decode(line, REPLIES, LONGEST_REPLY)
    kind = message["type"]
    if kind == "progress":
        message.setdefault("structure", None)
        right = isinstance(message.get("stage"), str) and isinstance(message["structure"], str | None)
        right = right and isinstance(message.get("fraction"), int | float)
    elif kind == "error":
        right = all(isinstance(message.get(name), str) for name in ("code", "problem", "explanation", "solution"))
    else:
        right = isinstance(message.get("of"), str)
    if not right:
        raise _refused(f"A part of the {kind} message is missing or of the wrong kind.")
    return message


def error_fields(error: RAUSlicerError) -> Message:
    """What an error message says."""
    return {"code": error.code, "problem": error.problem, "explanation": error.explanation, "solution": error.solution}


def _why(error: ValueError) -> str:
    # Of bytes that are no UTF-8, Python repeats all of them.
    return "it is not UTF-8" if isinstance(error, UnicodeDecodeError) else str(error)


def _text(line: bytes) -> str:
    return _shown(line[:LONGEST_LINE].decode("utf-8", errors="replace"))


def _shown(value: object) -> str:
    """A value as an error repeats it: a part of a long or deep one."""
    return _SHORT.repr(value)


_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxlong = _SHORT.maxother = 80


def _refused(problem: str) -> ProtocolError:
    return ProtocolError(
        problem,
        "Client and worker speak lines of JSON with version, type and id; they may come from different installations of RAUSlicer.",
        "Restart the worker, and install the same version of RAUSlicer on both sides if this happens again.",
    )
