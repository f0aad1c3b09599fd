"""Run a network or a file: PyTorch, ONNX Runtime, OpenVINO and TensorRT behind one interface.

Files of others are run in a child process. It may import ``graph`` and the packages before it.
"""
