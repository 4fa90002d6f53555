"""Picking without a model, by a difference of Gaussians."""
