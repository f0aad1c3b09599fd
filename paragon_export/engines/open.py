"""BuildResult: an ONNX file and a profile in, a TensorRT engine and its manifest out.

TensorRT-RTX compiles ahead of time and needs no GPU. Full TensorRT times kernels on the GPU
it finds; that path shares all it can with the other and is untested here.
"""

from __future__ import annotations

from pathlib import Path

from paragon_export.engines.manifest import EngineFile, Manifest, read_engine
from paragon_export.errors import PlanError
from paragon_export.networks.glyph.layout import CELL, GRID
from paragon_export.runtimes.trt_runner import EngineRunner
from paragon_export.specs.network import Port
from paragon_export.specs.profiles import AnyProfile
from paragon_export.specs.types import Precision
from paragon_export.system.environment import cuda_gpu


def classifier_ports(manifest: Manifest | None) -> tuple[Port, ...]:
    """Return what may be fed to an engine of a glyph classifier; empty for any other engine."""
    if manifest is None or manifest.model.classes is None:
        return ()
    vocabulary = manifest.model.vocabulary
    if vocabulary is None:
        return (Port("input", ("batch", 1, CELL, CELL), span=(0, 1)),)
    return (Port("input", ("batch", GRID, GRID), "int64", span=(0, vocabulary - 1)),)


def open_engine(engine: Path | EngineFile) -> tuple[EngineRunner, Precision, AnyProfile]:
    """Load an engine onto the GPU. Untested here: needs a GPU.

    A TensorRT engine is code: only one whose bytes match its manifest is loaded. The bytes that
    were checked are those that are loaded.

    Raises:
        PlanError: If there is no GPU, no manifest, or the bytes are not those of the manifest.
    """
    file = engine if isinstance(engine, EngineFile) else read_engine(engine)
    path, manifest = file.path, file.manifest
    if manifest is None or file.mismatch:
        raise PlanError(
            f"{path} has no manifest that matches its bytes; build it again with trt "
            f"({file.mismatch})"
        )
    backend, precision, profile = manifest.backend, manifest.precision, manifest.profile
    if backend is None or precision is None or profile is None:
        raise PlanError(
            f"the manifest of {path} is damaged: it lacks backend, precision or profile; build it again with trt"
        )
    if cuda_gpu() is None:
        found = manifest.document.get("onnx")
        raise PlanError(f"{path} needs a GPU and none was found; judge {found}")
    runner = EngineRunner(file.data, path.name, backend.value, classifier_ports(manifest))
    return runner, precision, profile
