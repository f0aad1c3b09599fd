"""What ``trt`` shows."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from paragon_export.cli.show.console import Document, cell, line
from paragon_export.cli.show.parity import parity_table
from paragon_export.cli.show.plan import estimates_table
from paragon_export.engines.manifest import Manifest
from paragon_export.engines.profile_entry import profile_entry
from paragon_export.pipeline.results import BuildResult


def built(result: BuildResult) -> Document:
    """Return the document of a build."""
    manifest = result.manifest or Manifest()
    doubt, entries = manifest.planned_memory_doubt, manifest.to_document()
    return {
        "engine": str(result.engine),
        "manifest": str(result.engine) + ".json",
        "target": manifest.target,
        "planned_device_memory_bytes": manifest.planned_device_memory_bytes,
        "planned_memory_doubt": doubt,
        "kernels": entries.get("kernels"),
        "cached": result.cached,
        "reason": result.reason,
        "passed": result.passed,
        "onnx": manifest.onnx,
        "profile": entries.get("profile"),
        "precision": entries.get("precision"),
        "tensorrt": f"{manifest.backend} {manifest.tensorrt}",
        "tensorrt_warnings": list(manifest.tensorrt_warnings),
        "parity": result.parity.to_json() if result.parity else entries.get("parity"),
        "notes": [*result.notes, *([doubt] if doubt else [])],
    }


def build_table(
    console: Console, result: BuildResult, replaced: bool = False, with_parity: bool = True
) -> None:
    if result.parity is not None and with_parity:
        parity_table(console, result.parity)
    if result.passed is False:
        line(console, f"{result.engine} was not written", style="red")
        return
    manifest = result.manifest or Manifest()
    table = Table(show_header=False)
    table.add_column()
    table.add_column(overflow="fold")
    table.add_row("engine", cell(f"{result.engine} (replaced)" if replaced else result.engine))
    table.add_row("reused" if result.cached else "built because", cell(result.reason))
    runtime = f"TensorRT {manifest.backend} {manifest.tensorrt}"
    table.add_row("target", cell(f"{manifest.target}, {runtime}"))
    entry = profile_entry(manifest.profile) if manifest.profile else {}
    for profile in (entry, *entry.get("also", ())):
        extents = (f"{name} {value}" for name, value in profile.items() if name != "also")
        table.add_row("profile", cell(", ".join(extents)))
    planned = manifest.planned_device_memory_bytes
    table.add_row("planned memory", f"{planned / 2**20:.0f} MiB" if planned else "unknown")
    words = "passed" if result.passed else "not judged: give --checkpoint"
    table.add_row("parity of the ONNX file", words)
    for warning in manifest.tensorrt_warnings:
        table.add_row("TensorRT warns", cell(warning))
    console.print(table)
    if manifest.kernels:
        estimates_table(console, manifest.kernels)
