"""A network with its good graph: what every sabotage starts from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx_ir as ir

from paragon_export.checkpoints.load import Checkpoint
from paragon_export.graph.trace import trace
from paragon_export.networks.describe import read_network
from paragon_export.parity.reference import TorchReference, build_reference
from paragon_export.specs.network import NetworkSpec
from paragon_export.specs.plans import NetworkOptions
from paragon_export.specs.types import Size

OPSET = 20

TRACED_AT = Size(32, 32)
"""Where exporters trace and compare; a multiple of the window, as theirs are."""


@dataclass(frozen=True)
class Case:
    """A network, and the good graph that is broken in the tests."""

    checkpoint: Checkpoint
    variant: NetworkSpec
    reference: TorchReference
    model: ir.Model


def case_of(path: Path, *, video: bool = False, opset: int = OPSET, **flags: Any) -> Case:
    network = read_network(path, NetworkOptions(flags=flags))
    reference = build_reference(network, video=video)
    model = trace(reference.module, reference.inputs, reference.outputs, opset)
    return Case(network.checkpoint, network.spec, reference, model)


Break = Callable[[Case], ir.Model]


def copied(model: ir.Model) -> ir.Model:
    return ir.from_proto(ir.to_proto(model))
