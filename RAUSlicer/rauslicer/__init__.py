"""RAUSlicer: from one annotated case to every structure of it in a new one. Research use only, not a medical device.

>>> import rauslicer
>>> result = rauslicer.transfer("ref.nii.gz", "ref.seg.nrrd", "target.nii.gz")  # doctest: +SKIP
>>> result.save("target.seg.nrrd")  # doctest: +SKIP
"""

from RAUSlicerLib import NOTICE, __version__
from RAUSlicerLib.api import Result, transfer
from RAUSlicerLib.errors import InputError, ModelError, OutputError, RAUSlicerError, ResourceError

__all__ = ["NOTICE", "InputError", "ModelError", "OutputError", "RAUSlicerError", "ResourceError", "Result", "__version__", "transfer"]
