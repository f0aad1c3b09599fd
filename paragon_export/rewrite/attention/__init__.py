"""Rules on attention and on means over the picture.

It may import the modules of ``rewrite`` but ``rules``.
"""
