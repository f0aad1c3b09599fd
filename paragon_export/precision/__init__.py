"""Precision: a float32 graph in, a graph in FP16, BF16 or INT8 out, and the range of every tensor.

It may import ``engines`` and the packages before it.
"""
