"""Exit codes of the command line beyond those of errors."""

CANCELLED = 130
