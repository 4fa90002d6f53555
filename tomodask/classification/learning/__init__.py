"""Learning from boxes, with labels and without, and what a trained classifier says of them."""
