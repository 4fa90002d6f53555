"""Picking by a trained network: probabilities, their store, and particles from them."""
