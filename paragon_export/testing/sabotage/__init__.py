"""ONNX files that are wrong in one known way each; ``suite`` lists them.

``case`` is the network with its good graph, ``edits`` change that graph, ``networks`` trace another
network, ``pieces`` put operators before or behind it. It may import every package of the tool.
"""
