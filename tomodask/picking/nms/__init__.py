"""From dense values to points: mean pooling and non-maximum suppression, thresholds, distances."""
