"""Measure how fast checkpoints, ONNX files and engines run.

It may import ``parity`` and the packages before it.
"""
