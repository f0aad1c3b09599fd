"""Access to the operating system: files, text, limits, signals and optional dependencies.

Nothing in this package depends on networks or ONNX files. It may import ``errors`` and ``assets``.
"""
