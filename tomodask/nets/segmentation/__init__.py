"""The network that segments tomograms: what it is, its file, its training, its engines."""
