"""Where every target voxel lies in the reference, and what that says of each structure."""
