"""Graph: a PyTorch module in, an ONNX graph and an ONNX file out; reading and checking them.

It may import ``rewrite`` and the packages before it.
"""
