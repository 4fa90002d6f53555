"""From tilt series to tomograms: alignment, correction, weighted back-projection, SIRT."""
