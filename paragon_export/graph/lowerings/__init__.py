"""Lowerings: how each PyTorch call is written in ONNX.

Each lowering takes an :class:`~paragon_export.graph.emitter.Emitter` and the arguments of the
PyTorch call, emits ONNX nodes and returns the result. Tensors are ``ir.Value``, sizes read from a
tensor are ``Size``, weights are ``Weight``, and everything else is a plain Python value. The
tables that map calls to lowerings are in ``tables``.
"""
