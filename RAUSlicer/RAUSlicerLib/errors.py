"""Errors a user can act on: what is wrong, why, and what to do about it."""

from __future__ import annotations

from pathlib import Path


class RAUSlicerError(Exception):
    """Base of every error that is shown to a user.

    Args:
        problem: What is wrong, in one sentence that repeats the offending value.
        explanation: Why it matters or how it may have come about.
        solution: What the user can do now.

    ``code`` names the kind for the worker protocol, ``exit_code`` is the command line's.
    """

    code = "error"
    exit_code = 1

    def __init__(self, problem: str, explanation: str, solution: str) -> None:
        super().__init__(f"{problem} {explanation} {solution}")
        self.problem = problem
        self.explanation = explanation
        self.solution = solution


class InputError(RAUSlicerError):
    """A volume, segmentation or name that can't be used as given."""

    code = "input"
    exit_code = 3


class OutputError(RAUSlicerError):
    """A result that can't be written where the user wants it."""

    code = "output"
    exit_code = 4


class KeptElsewhereError(OutputError):
    """A result that could not be written where the user wants it, and was left at ``path``."""

    def __init__(self, path: Path, problem: str, explanation: str, solution: str) -> None:
        super().__init__(problem, explanation, solution)
        self.path = path


class ModelError(RAUSlicerError):
    """A checkpoint folder that is missing, damaged or of the wrong kind."""

    code = "model"
    exit_code = 5


class ResourceError(RAUSlicerError):
    """The machine has too little of something, or lacks an optional package."""

    code = "resource"
    exit_code = 6


class OutOfMemory(ResourceError):
    """What is asked for needs more memory than there is, however small it was made."""

    code = "memory"
