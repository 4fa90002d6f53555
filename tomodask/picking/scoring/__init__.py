"""Picks held against a truth: which is of which particle, and the figures of it."""
