"""The host: files, text, limits, signals and optional libraries.

Nothing here knows a network or an ONNX file. It may import ``errors`` and ``assets``.
"""
