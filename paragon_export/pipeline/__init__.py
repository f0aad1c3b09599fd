"""The flows from a checkpoint to a verified file.

It may import ``bench`` and the packages before it.
"""
