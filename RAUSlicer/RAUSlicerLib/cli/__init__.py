"""The command line ``rauslicer``."""
