"""How much of half's range networks use: the range audit of FP16 exports.

``python benchmarks/audit.py CHECKPOINT...`` audits the shipped checkpoint, the published variants
at full size with random weights, and any checkpoints given (fidelity networks: no pre-sharpening).
One row for each: least headroom to 65504 and where, the tensor of which most values underflow, the
one whose rounding makes most of the error, and the float32 islands needed.

Writes ``audit.json``.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import typer
from common import SIZES, network, write
from safetensors.torch import save_file

from paragon_export.assets import CHECKPOINT
from paragon_export.pipeline.audit_ranges import audit_source
from paragon_export.specs.plans import ExportPlan, NetworkOptions
from paragon_export.specs.types import Precision


def main(
    checkpoints: Annotated[list[Path] | None, typer.Argument()] = None,
    variants: Annotated[
        list[str] | None, typer.Option("--variant", help="With random weights; default all.")
    ] = None,
) -> None:
    for path in [CHECKPOINT, *(checkpoints or [])]:
        write("audit", [figures(path.stem, path)], ("network",))
    with TemporaryDirectory() as folder:
        for variant in variants or list(SIZES):
            path = Path(folder) / f"{variant}.safetensors"
            state = network(variant).state_dict()
            save_file({name: tensor.contiguous() for name, tensor in state.items()}, path)
            write("audit", [figures(f"{variant}, random weights", path)], ("network",))


def figures(name: str, checkpoint: Path) -> dict[str, Any]:
    """Audit a checkpoint and return what decides."""
    plan = ExportPlan(
        checkpoint=checkpoint,
        output=Path("unwritten.onnx"),
        options=NetworkOptions(flags={"upsampler_alpha": 0.0}),
        precision=Precision.FP16,
    )
    audit = audit_source(plan)
    tightest, thinnest, coarsest = audit.tightest, audit.thinnest, audit.coarsest
    assert tightest
    assert thinnest
    return {
        "network": name,
        "tensors": len(audit.tensors),
        "least headroom": tightest.headroom,
        "at": f"{tightest.name} on {tightest.picture}",
        "most underflow": thinnest.underflow,
        "of": thinnest.name,
        "largest error share": coarsest.error_share if coarsest else None,
        "from": coarsest.name if coarsest else None,
        "islands": len(audit.islands),
        "diverges on": ", ".join(audit.diverged),
        "beyond half there": len(audit.beyond_where_diverged),
    }


if __name__ == "__main__":
    typer.run(main)
