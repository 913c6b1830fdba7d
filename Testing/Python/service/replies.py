"""Talks with a worker: asks for runs, and waits for what it answers, logs and leaves behind."""

from __future__ import annotations

import os
import time

from RAUSlicerLib.service.requests import RunRequest


def wait_for(client, predicate, seconds=180.0):
    """Poll until a reply satisfies the predicate; returns all replies so far."""
    replies = []
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        new = client.poll()
        replies.extend(new)
        if any(predicate(reply) for reply in new):
            return replies
        time.sleep(0.01)
    raise AssertionError(f"no such reply within {seconds} s; got {replies}; log: {client.log}")


def wait_for_log(client, text, count=1, seconds=180.0):
    """The lines of the log, once the text is in so many; a thread of its own reads them."""
    end = time.monotonic() + seconds
    while sum(text in line for line in client.log.splitlines()) < count:
        assert time.monotonic() < end, f"not in the log within {seconds} s: {text!r}; log: {client.log}"
        time.sleep(0.01)
    return client.log.splitlines()


def group_is_gone(group, seconds=60.0):
    """Wait until no process of a group is left; False if some are."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.02)
    return False


def is_answer(id_):
    return lambda reply: reply["id"] == id_ and reply["type"] != "progress"


def at_stage(stage):
    return lambda reply: reply["type"] == "progress" and reply["stage"] == stage


def liver_is_done(reply):
    return reply["type"] == "progress" and reply["structure"] == "Liver"


def answer(client, id_, seconds=180.0):
    return next(reply for reply in wait_for(client, is_answer(id_), seconds) if is_answer(id_)(reply))


def transfer(client, case, model="copy", **options):
    """Ask for a run of the scripted pipeline, whose model says what it does."""
    return client.transfer(client.new_run_folder(), RunRequest(*case, localizer="copy", model=model, **options))


def write(client, *lines):
    """Write lines to a worker as they are."""
    client.start()
    client._process.stdin.write(b"".join(lines))
    client._process.stdin.flush()
