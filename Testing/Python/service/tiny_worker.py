"""The real worker with the real pipeline, on a working grid of few voxels, so that tiny networks answer in seconds."""

from RAUSlicerLib.imaging import frame
from RAUSlicerLib.service import worker

if __name__ == "__main__":
    frame.WORKING_EXTENT = 36
    worker.main()
