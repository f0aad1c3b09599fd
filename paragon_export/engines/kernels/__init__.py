"""Kernels: what TensorRT-RTX compiled, read from its log, counted, and estimated for a card.

No GPU is needed, and nothing is run.
"""
