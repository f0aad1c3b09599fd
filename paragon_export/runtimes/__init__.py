"""Runtimes: run a module or a file in PyTorch, ONNX Runtime, OpenVINO or TensorRT.

All have one interface. Files that this process did not create run in a child process. It may import ``graph`` and the packages before it.
"""
