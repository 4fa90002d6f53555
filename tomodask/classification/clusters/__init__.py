"""Clusters of features: found, told in tables, averaged, held against what is known."""
