"""RAUSlicer: from one annotated case to every structure of it in a new one. Research use only, not a medical device."""

import os

__version__ = "0.1.0"

NOTICE = "Research use only. Not a medical device."
"""What every output says about itself."""

if "OMP_WAIT_POLICY" not in os.environ:
    # Torch's threads wait for each other in a loop, by default so long that beside another busy program a heart took 34 to 79 s instead of
    # 13; alone it takes as long so. The library reads it when torch is loaded, so it has to be said before.
    os.environ.setdefault("GOMP_SPINCOUNT", "3000")
