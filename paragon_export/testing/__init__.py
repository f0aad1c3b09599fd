"""Networks, files and faults that ``tests/`` and ``benchmarks/`` share.

``tiny`` and ``glyph`` make small random networks, ``recorded`` gives the weights of recorded ones
(data in ``golden/``), ``hostile``, ``mutate`` and ``mutate_onnx`` make files that must be refused,
``sabotage`` makes ONNX files that the verdict must fail. It may import every package; none imports
it, and no wheel contains it.
"""
