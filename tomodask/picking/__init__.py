"""Picking of particles: by a network, by a template, without a model; and how good picks are."""
