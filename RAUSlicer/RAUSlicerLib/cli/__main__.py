"""``python -m RAUSlicerLib.cli`` is the command ``rauslicer``."""

import sys

from .app import main

if __name__ == "__main__":
    sys.exit(main())
