"""Pictures of a result: a contact sheet of slices and a 3D view of the surfaces."""

from .contact_sheet import contact_sheet
from .surfaces import picture_3d

__all__ = ["contact_sheet", "picture_3d"]
