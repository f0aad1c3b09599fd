"""Engines: an ONNX file and a profile in, a TensorRT engine and its manifest out; opening engines.

It may import ``inputs`` and the packages before it.
"""
