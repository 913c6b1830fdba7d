import json

import pytest

from RAUSlicerLib.service.protocol import LONGEST_LINE, REQUESTS, VERSION, ProtocolError, decode, decode_reply, encode


def test_a_message_survives_the_line():
    line = encode("hello", "4", text="Übergröße\u2028\n", number=0.1, nothing=None)

    assert line.count(b"\n") == 1
    assert line.isascii()
    assert decode(line, REQUESTS) == {
        "version": VERSION,
        "type": "hello",
        "id": "4",
        "text": "Übergröße\u2028\n",
        "number": 0.1,
        "nothing": None,
    }


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (b"garbage\n", "'garbage\\\\n' is not JSON"),
        (b"\xff\xfe\x00\n", "is not JSON"),
        (b"[" * 100000 + b"\n", "is not JSON"),
        (b"[1, 2]\n", "is not a JSON object"),
        (b"{}\n", "version None"),
        (b'{"version": 99, "type": "hello"}\n', "version 99"),
        (b'{"version": 1, "type": "fly"}\n', "type 'fly' is not known; known are hello"),
        (b'{"version": 1, "type": ["hello"]}\n', "type \\['hello'\\] is not known"),
        (b'{"version": 1, "type": "hello", "id": 7}\n', "id 7 is not a text"),
        (b"x" * (LONGEST_LINE + 1), "more than"),
    ],
)
def test_other_lines_are_refused_with_a_reason(line, problem):
    with pytest.raises(ProtocolError, match=problem):
        decode(line, REQUESTS)


def test_an_id_is_not_required_to_be_there():
    assert decode(json.dumps({"version": 1, "type": "cancel"}).encode(), REQUESTS)["type"] == "cancel"


@pytest.mark.parametrize("version", [True, float(VERSION), str(VERSION), None, [VERSION]])
def test_a_version_is_a_whole_number(version):
    with pytest.raises(ProtocolError, match="version"):
        decode(json.dumps({"version": version, "type": "hello", "id": "a"}).encode(), REQUESTS)


@pytest.mark.parametrize(
    "reply",
    [
        {"type": "progress", "id": "1"},
        {"type": "progress", "id": "1", "stage": "x", "fraction": "half"},
        {"type": "progress", "id": "1", "stage": "x", "fraction": 0.5, "structure": 3},
        {"type": "error", "id": "1"},
        {"type": "error", "id": "1", "code": "x", "problem": ["x"], "explanation": "x", "solution": "x"},
        {"type": "result", "id": "1"},
        {"type": "result"},
        {"type": "result", "id": 1, "of": "hello"},
    ],
)
def test_a_reply_without_all_that_belongs_to_it_is_refused(reply):
    with pytest.raises(ProtocolError):
        decode_reply(json.dumps({"version": 1, **reply}).encode())
