"""Features of boxes, training with and without labels, and the subdivision of the unknown."""
