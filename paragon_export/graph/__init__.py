"""A PyTorch module in, an ONNX graph and an ONNX file out; reading and checking ONNX files.

It may import ``rewrite`` and the packages before it.
"""
