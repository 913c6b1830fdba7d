"""RAUSlicer: from one annotated case to every structure of it in a new one. Research use only, not a medical device."""

__version__ = "0.1.0"

NOTICE = "Research use only. Not a medical device."
"""What every output says about itself."""
