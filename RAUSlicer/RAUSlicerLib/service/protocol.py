"""One JSON object a line between client and worker: how a message is written, read and refused."""

from __future__ import annotations

import json
from typing import Any

from ..errors import RAUSlicerError

VERSION = 1
# These take their time, and are answered one at a time.
RUNS = ("transfer", "correct", "report", "ask")
REQUESTS = ("hello", *RUNS, "forget", "cancel", "shutdown")
REPLIES = ("progress", "result", "error")
# Arrays go through files, so a longer line is not one of ours.
LONGEST_LINE = 1 << 20  # bytes

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
    """One message as a line. ``id_`` names the request that it is or that it answers."""
    message = {"version": VERSION, "type": kind, "id": id_, **fields}
    # Escaped to ASCII, so that no encoding of the platform and no line separator of Unicode can split or garble the line.
    return json.dumps(message, ensure_ascii=True, separators=(",", ":")).encode("ascii") + b"\n"


def decode(line: bytes, kinds: tuple[str, ...]) -> Message:
    """The message in a line.

    Raises:
        ProtocolError: the line is no JSON object, of another version, or of no known type.
    """
    if len(line) > LONGEST_LINE:
        raise _refused(f"A line of more than {LONGEST_LINE} bytes was received.")
    try:
        message = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise _refused(f"The line {_shown(line)} is not JSON.") from error
    if not isinstance(message, dict):
        raise _refused(f"The line {_shown(line)} is not a JSON object.")
    if message.get("version") != VERSION:
        raise _refused(f"The message has version {message.get('version')!r}; version {VERSION} is spoken here.")
    if message.get("type") not in kinds:
        raise _refused(f"The message type {message.get('type')!r} is not known; known are {', '.join(kinds)}.")
    if not isinstance(message.get("id"), str | None):
        raise _refused(f"The message id {message['id']!r} is not a text.")
    return message


def error_fields(error: RAUSlicerError) -> Message:
    """What an error message says."""
    return {"code": error.code, "problem": error.problem, "explanation": error.explanation, "solution": error.solution}


def _shown(line: bytes) -> str:
    return repr(line[:80].decode("utf-8", errors="replace"))


def _refused(problem: str) -> ProtocolError:
    return ProtocolError(
        problem,
        "Client and worker speak lines of JSON with version, type and id; they may come from different installations of RAUSlicer.",
        "Restart the worker, and install the same version of RAUSlicer on both sides if this happens again.",
    )
