"""2D alignment, averages and classes of images."""
