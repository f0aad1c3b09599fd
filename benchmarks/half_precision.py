"""What rewriting does to the accuracy of FP16 exports of the published checkpoints.

The rows are those of the verdict: float64 PyTorch is the truth, a node's result is rounded to
half, pictures on which the network itself diverges are left out. ``error / PyTorch's`` is the
geometric mean over the pictures of the worst pixel's error over PyTorch's own in FP16.

Writes ``half_precision.json``.
"""

from __future__ import annotations

import statistics
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import typer
from common import write

from paragon_export.pipeline.export import export
from paragon_export.specs.plans import ExportPlan, NetworkOptions
from paragon_export.specs.types import Precision


def main(
    checkpoints: Annotated[Path, typer.Option(help="Folder of published .safetensors files.")],
) -> None:
    rows: list[dict[str, Any]] = []
    for checkpoint in sorted(checkpoints.glob("*.safetensors")):
        for rewritten in (False, True):
            rows.append(
                {
                    "network": checkpoint.stem,
                    "export": "rewritten" if rewritten else "plain",
                    **accuracy(checkpoint, rewritten),
                }
            )
    write("half_precision", rows, ("network", "export"))


def accuracy(checkpoint: Path, rewritten: bool) -> dict[str, Any]:
    """Export a fidelity checkpoint, which was trained without pre-sharpening, and judge it."""
    with TemporaryDirectory() as folder:
        plan = ExportPlan(
            checkpoint=checkpoint,
            output=Path(folder) / "model.onnx",
            options=NetworkOptions(flags={"upsampler_alpha": 0.0}),
            precision=Precision.FP16,
            rewrite=rewritten,
        )
        report = export(plan).parity
    judged = [row for row in report.rows if row.is_judged]
    ratios = [row.found.max_abs / row.reference_max_abs for row in judged]
    return {
        "passed": report.passed,
        "worst error": f"{max(row.found.max_abs for row in judged):.2e}",
        "error / PyTorch's": statistics.geometric_mean(ratios),
        "mean PSNR dB": statistics.fmean(row.found.psnr_db for row in judged),
    }


if __name__ == "__main__":
    typer.run(main)
