"""Which voxels: SAM2 with the reference in its memory, resolution, confidence."""
