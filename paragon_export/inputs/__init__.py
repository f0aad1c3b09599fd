"""What networks are fed when they are judged: pictures, clips and glyphs.

It may import ``runtimes`` and the packages before it.
"""
