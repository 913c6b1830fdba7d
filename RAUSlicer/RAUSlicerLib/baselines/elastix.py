"""The peer elastix, by the optional package itk-elastix: affine, then B-splines, with elastix's own default settings.

Source: Klein et al., elastix: a toolbox for intensity-based medical image registration, IEEE TMI 2010.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from ..errors import ResourceError
from ..imaging.segmentation import Reference
from ..matching.registration import between_worlds, overlaid
from ..progress import CancelToken, ProgressCallback
from ..support.scratch import ScratchFolder
from .warping_peer import WarpingPeer

_STAGES = ("affine", "bspline")


class ElastixPeer(WarpingPeer):
    """Carries the reference's masks through elastix's affine and B-spline registration."""

    name = "elastix"

    @staticmethod
    def require() -> Any:
        """The module ``itk`` with elastix in it.

        Raises:
            ResourceError: it is not installed.
        """
        try:
            import itk

            itk.elastix_registration_method  # noqa: B018 (itk loads its parts when they are first named)
        except (ImportError, AttributeError) as error:
            raise ResourceError(
                "The peer 'elastix' can't be run.",
                f"The package itk-elastix is not installed ({error}).",
                'Install it with `pip install "rauslicer[benchmark]"` (or `pip install itk-elastix`), or leave the peer out.',
            ) from error
        return itk

    def find_transform(self, reference: Reference, target: sitk.Image, progress: ProgressCallback, cancel: CancelToken) -> sitk.Transform:
        itk = self.require()
        fixed, moving, start = overlaid(target, reference.volume)
        parameters = itk.ParameterObject.New()
        for stage in _STAGES:
            parameters.AddParameterMap(parameters.GetDefaultParameterMap(stage))
        given = [_to_itk(itk, image) for image in (fixed, moving)]
        _, found = itk.elastix_registration_method(*given, parameter_object=parameters, log_to_console=False)
        # Left to itself, transformix writes the field into the current folder.
        with ScratchFolder(Path(tempfile.gettempdir()), "rauslicer-elastix-") as folder:
            shifts = itk.array_from_image(itk.transformix_deformation_field(given[1], found, output_directory=str(folder))).copy()
        field = sitk.GetImageFromArray(np.ascontiguousarray(shifts, dtype=np.float64), isVector=True)
        field.CopyInformation(fixed)
        # The last transform of a composite is applied first.
        return between_worlds(sitk.CompositeTransform([start, sitk.DisplacementFieldTransform(field)]), target, reference.volume)


def _to_itk(itk: Any, image: sitk.Image) -> Any:
    copy = itk.image_from_array(sitk.GetArrayFromImage(image).astype(np.float32))
    copy.SetSpacing(image.GetSpacing())
    copy.SetOrigin(image.GetOrigin())
    return copy
