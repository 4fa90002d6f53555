"""Training of a network that picks: its data, crops and labels, its epochs, and how it is seen."""
