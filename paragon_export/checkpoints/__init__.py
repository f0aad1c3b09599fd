"""A checkpoint file in, named tensors out. No code in a checkpoint is ever run.

It may import ``specs`` and the packages before it.
"""
