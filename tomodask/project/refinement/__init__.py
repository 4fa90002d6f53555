"""Rounds of alignment and averaging, in a folder that can be killed and goes on."""
