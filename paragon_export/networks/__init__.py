"""Named tensors in, a description of the network and its PyTorch module out.

One folder for each architecture, and the layers that they share. The registry lists them. It may
import ``checkpoints`` and the packages before it.
"""
