"""The flows from a checkpoint to a verified file, one in each module.

It may import ``bench`` and the packages before it.
"""
