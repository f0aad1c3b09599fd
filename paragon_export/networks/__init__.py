"""Determine which network a checkpoint holds, and build it as a PyTorch module.

There is one folder for each architecture; the registry lists them. The other modules hold what
architectures share: layers, options and checks of state dicts. It may import ``checkpoints`` and
the packages before it.
"""
