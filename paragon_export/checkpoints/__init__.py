"""Read checkpoint files as named tensors. No code in a checkpoint is ever run.

It may import ``specs`` and the packages before it.
"""
