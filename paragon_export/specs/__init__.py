"""Frozen, validated data: what the user asks for, and what a network is.

Plans, sizes, profiles, tolerances and network specifications. It may import ``system`` and the
packages before it.
"""
