"""Inputs: the probes (images, clips and glyphs) that a network is compared on.

It may import ``runtimes`` and the packages before it.
"""
