"""NaN graph: an ONNX graph through which NaN passes wherever values are read."""

from __future__ import annotations

import onnx_ir as ir

from paragon_export.graph.inspection import copied

HIDING = {
    "MaxPool": "AveragePool",
    "GlobalMaxPool": "GlobalAveragePool",
    "ReduceMax": "ReduceMean",
    "ReduceMin": "ReduceMean",
}
"""Operators whose result need not be NaN where a value that they read is, and operators that read the
same values and are. ONNX Runtime compares values; a comparison with NaN is false."""

UNSUITABLE = {"storage_order"}
"""Attributes of ``MaxPool`` that ``AveragePool`` lacks."""


def nan_graph(model: ir.Model) -> ir.Model:
    """Return a copy that reads the same values and hides no NaN; other results differ."""
    copy = copied(model)
    for node in copy.graph:
        if not node.domain and node.op_type in HIDING:
            node.op_type = HIDING[node.op_type]
            for name in UNSUITABLE:
                node.attributes.pop(name, None)
    return copy
