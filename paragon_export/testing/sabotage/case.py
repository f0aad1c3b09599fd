"""A network with its good graph: what every sabotage starts from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import onnx_ir as ir

from paragon_export.checkpoints.load import Checkpoint
from paragon_export.graph.trace import trace
from paragon_export.networks.describe import read_network
from paragon_export.parity.diagnosis.alternatives import Alternative, alternatives
from paragon_export.parity.reference import build_reference
from paragon_export.specs.network import NetworkSpec
from paragon_export.specs.plans import NetworkOptions
from paragon_export.specs.types import Size
from paragon_export.testing.remembering import RememberingReference

OPSET = 20

TRACED_AT = Size(32, 32)
"""Where exporters trace and compare; a multiple of the window, as theirs are."""


@dataclass(frozen=True)
class Case:
    """A network, and the good graph that is broken in the tests."""

    checkpoint: Checkpoint
    variant: NetworkSpec
    reference: RememberingReference
    model: ir.Model

    @cached_property
    def alternatives(self) -> tuple[Alternative, ...]:
        """What a wrong file may hold instead, as the ``parity`` command tries it."""
        return tuple(alternatives(self.reference))


def case_of(path: Path, *, video: bool = False, opset: int = OPSET, **flags: Any) -> Case:
    network = read_network(path, NetworkOptions(flags=flags))
    built = build_reference(network, video=video)
    reference = RememberingReference(
        network=network, module=built.module, inputs=built.inputs, outputs=built.outputs
    )
    model = trace(reference.module, reference.inputs, reference.outputs, opset)
    return Case(network.checkpoint, network.spec, reference, model)


Break = Callable[[Case], ir.Model]


def copied(model: ir.Model) -> ir.Model:
    return ir.from_proto(ir.to_proto(model))
