"""An engine with its manifest, written without TensorRT: for tests of what only reads them."""

from __future__ import annotations

from pathlib import Path

from paragon_export.engines.manifest import manifest_bytes, manifest_path, sealed
from paragon_export.engines.profile_entry import profile_entry
from paragon_export.graph.onnx_io import read_onnx_file
from paragon_export.specs.profiles import AnyProfile
from paragon_export.specs.types import Backend, Precision


def write_engine(
    onnx: Path, engine: Path, profile: AnyProfile, backend: Backend = Backend.RTX
) -> Path:
    """Write what ``trt`` writes for an ONNX file, which is copied beside; the engine runs nowhere."""
    source = engine.with_name(engine.name + ".onnx")
    source.write_bytes(onnx.read_bytes())
    engine.write_bytes(b"engine")
    document = {
        "precision": Precision.FP32.value,
        "video": False,
        "profile": profile_entry(profile),
        "backend": backend.value,
        "onnx": source.name,
        "onnx_metadata": read_onnx_file(onnx).metadata.to_document(),
    }
    manifest_path(engine).write_bytes(manifest_bytes(sealed(document, b"engine")))
    return engine
