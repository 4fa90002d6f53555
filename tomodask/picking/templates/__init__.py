"""Picking by a template: scores of all its orientations, their store, and particles from them."""
