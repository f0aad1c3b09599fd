"""Upscale on a Ray cluster: many machines do the work that one process does.

Part of ``upscaling``, and may import what that may. Only ``session``, ``pool`` and ``nodes`` know Ray,
which is imported when a cluster is asked for.
"""
