"""Boxes that nobody labelled, divided by features, in a folder that can be killed and goes on."""
