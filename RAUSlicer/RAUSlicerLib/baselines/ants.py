"""The peer ANTs SyN, by the optional package antspyx: affine, then symmetric diffeomorphic normalization, with its default settings.

Source: Avants et al., Symmetric diffeomorphic image registration with cross-correlation, Medical Image Analysis 2008.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import SimpleITK as sitk

from ..errors import ResourceError
from ..imaging.segmentation import Reference
from ..matching.registration import SEED, between_worlds, overlaid
from ..progress import CancelToken, ProgressCallback
from ..support.scratch import ScratchFolder
from .warping_peer import WarpingPeer


class AntsPeer(WarpingPeer):
    """Carries the reference's masks through ANTs' affine and SyN registration."""

    name = "ants"

    @staticmethod
    def require() -> Any:
        """The module ``ants``.

        Raises:
            ResourceError: it is not installed.
        """
        try:
            import ants
        except ImportError as error:
            raise ResourceError(
                "The peer 'ants' can't be run.",
                f"The package antspyx is not installed ({error}). It needs an older numpy than RAUSlicer is tested with.",
                "Install antspyx into an environment of its own (docs/how-to/benchmark.md says how), or leave the peer out.",
            ) from error
        return ants

    def find_transform(self, reference: Reference, target: sitk.Image, progress: ProgressCallback, cancel: CancelToken) -> sitk.Transform:
        ants = self.require()
        fixed, moving, start = overlaid(target, reference.volume)
        with ScratchFolder(Path(tempfile.gettempdir()), "rauslicer-ants-") as folder:
            found = ants.registration(_to_ants(ants, fixed), _to_ants(ants, moving), "SyN", outprefix=str(folder / "syn"), random_seed=SEED)
            # In the order in which images are resampled: field, then affine. Both are ITK's own formats, in the frame of the volumes.
            field, affine = found["fwdtransforms"]
            warp = sitk.DisplacementFieldTransform(sitk.ReadImage(field, sitk.sitkVectorFloat64))
            moved = sitk.CompositeTransform([start, sitk.ReadTransform(affine), warp])
        return between_worlds(moved, target, reference.volume)


def _to_ants(ants: Any, image: sitk.Image) -> Any:
    # ANTs counts axes x, y, z.
    values = sitk.GetArrayFromImage(image).transpose(2, 1, 0).astype("float32")
    return ants.from_numpy(values, origin=list(image.GetOrigin()), spacing=list(image.GetSpacing()))
