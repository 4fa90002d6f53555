"""Features of subtomograms, what is alike among them, and the subdivision of the unknown."""
