"""A fixed text encoder: hashed words and word parts, in which a phrase and its negation are far apart.

No language model and nothing learned: it knows which words two phrases share, not what words mean. What it stands for is learned by the
region network's projection of it, from the knowledge base's phrases only, so a phrase of other words says little.
"""

from __future__ import annotations

import itertools
import re
import zlib
from collections.abc import Iterator, Sequence
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

# Changing anything here makes other vectors, and trained weights worthless; checkpoints name the version.
VERSION = 1
WIDTH = 512

_CLAUSE_ENDS = re.compile(r"[.;:]|\bbut\b|\bhowever\b")
_BEFORE = re.compile(r"\b(?:no evidence of|no sign of|absence of|free of|clear of|without|no|not|never|neither|nor)\b")
_AFTER = re.compile(r"\b(?:(?:is|are) not (?:seen|visible|present|identified)|(?:is|are) absent|(?:not seen|absent))\b")
# A place is the same place in a negated phrase.
_PLACE = re.compile(r"\b(?:in|at|within|on|over|near|of)\b")
_IDLE = frozenset("the a an is are of in at within on over there and with this that to".split())
# Without these, left and right differ by one word of many.
_WEIGHTY = frozenset("left right upper mid lower".split())


def negated_parts(phrase: str) -> Iterator[tuple[str, bool]]:
    """The parts of a phrase and whether each is negated.

    >>> list(negated_parts("no opacity in the left lung"))
    [(' opacity ', True), ('in the left lung', False)]
    """
    for clause in _CLAUSE_ENDS.split(phrase.lower().replace("-", " ")):
        after = _AFTER.search(clause)
        before = None if after else _BEFORE.search(clause)
        if after is None and before is None:
            yield clause, False
            continue
        if after is not None:
            start, stop, rest = 0, after.start(), clause[after.end() :]
        else:
            assert before is not None
            start, stop, rest = before.end(), len(clause), ""
            if before.start():
                yield clause[: before.start()], False
        place = _PLACE.search(clause, start, stop)
        yield clause[start : place.start() if place else stop], True
        if place:
            yield clause[place.start() : stop], False
        if rest.strip():
            yield rest, False


def is_negated(phrase: str) -> bool:
    """Whether a phrase denies something."""
    return any(negated for part, negated in negated_parts(phrase) if part.strip())


def negation(phrase: str) -> str:
    """What the phrase denies, or a denial of what it says: the other side that a score weighs it against.

    >>> negation("opacity in the left lung"), negation("no opacity in the left lung")
    ('no opacity in the left lung', 'opacity in the left lung')
    """
    if not is_negated(phrase):
        return f"no {phrase}"
    return " ".join(" ".join(part.split()) for part, _ in negated_parts(phrase) if part.strip())


def _features(phrase: str) -> Iterator[tuple[str, float]]:
    for part, negated in negated_parts(phrase):
        mark = "-" if negated else "+"
        words = [word for word in re.findall(r"[a-z0-9]+", part) if word not in _IDLE]
        for word in words:
            yield f"{mark}w:{word}", 1.5 if word in _WEIGHTY else 1.0
            padded = f"<{word}>"
            for first in range(len(padded) - 3):
                yield f"{mark}c:{padded[first : first + 4]}", 0.35
        for first, second in itertools.pairwise(words):
            yield f"{mark}b:{first} {second}", 0.7


@lru_cache(maxsize=4096)
def _vector(phrase: str) -> np.ndarray:
    out = np.zeros(WIDTH, np.float32)
    for feature, weight in _features(phrase):
        # Python's own hash differs between processes.
        code = zlib.crc32(feature.encode())
        # Two places with signs each, so that a collision of two features is seldom a full one.
        for part in (code & 0xFFFF, code >> 16):
            out[(part >> 1) % WIDTH] += weight if part & 1 else -weight
    length = float(np.linalg.norm(out))
    return out / length if length else out


def encode(phrases: Sequence[str]) -> Tensor:
    """Vectors (K, `WIDTH`) of length 1; zeros for a phrase without words."""
    return torch.from_numpy(np.stack([_vector(" ".join(phrase.split())) for phrase in phrases])) if phrases else torch.zeros(0, WIDTH)
