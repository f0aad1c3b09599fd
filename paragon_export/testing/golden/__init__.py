"""Recorded outputs of the original networks, and the generator of their weights."""
