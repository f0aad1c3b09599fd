"""Quantise: a float32 ONNX model in, one with 8-bit convolutions and products out.

By ONNX Runtime after training: weights per channel, activations unsigned, ranges from real inputs.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx_ir as ir

from paragon_export.errors import RunError

QUANTISED = ("Conv", "Gemm", "MatMul")
"""The rest stays float: tables, norms, means and activations hold little and lose much."""


class _Reader:
    """Feeds inputs to ONNX Runtime's calibration, one set at a time."""

    def __init__(self, feeds: Sequence[Mapping[str, np.ndarray]]) -> None:
        self._feeds = iter(feeds)

    def get_next(self) -> dict[str, np.ndarray] | None:
        feeds = next(self._feeds, None)
        return None if feeds is None else dict(feeds)


def quantise(model: ir.Model, feeds: Sequence[Mapping[str, np.ndarray]]) -> ir.Model:
    """Return an INT8 copy of a float32 model, with the ranges that real inputs give.

    Args:
        model: Float32 inputs, outputs and arithmetic.
        feeds: Arrays by input name, one set for each run of the model.

    Raises:
        RunError: If ONNX Runtime cannot quantise it.
    """
    import onnx
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    with TemporaryDirectory() as folder, _without_advice():
        made = Path(folder) / "int8.onnx"
        try:
            quantize_static(
                ir.to_proto(model),
                made,
                _Reader(feeds),
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=list(QUANTISED),
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
            )
        except Exception as error:  # ONNX Runtime raises a dozen unrelated classes
            reason = " ".join(str(error).split())[:400]
            raise RunError(f"ONNX Runtime cannot quantise the model: {reason}") from error
        return ir.from_proto(onnx.load(made))


@contextmanager
def _without_advice() -> Iterator[None]:
    """Keep ONNX Runtime from telling to fold batch norms first: they are folded."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(level)
