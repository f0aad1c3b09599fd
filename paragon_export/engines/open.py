"""Open: load an engine that matches its manifest onto a GPU."""

from __future__ import annotations

from pathlib import Path

from paragon_export.engines.manifest import EngineFile, Manifest, read_engine
from paragon_export.errors import PlanError
from paragon_export.networks.glyph.layout import CELL, GRID
from paragon_export.runtimes.base import Runner
from paragon_export.runtimes.named import with_standard_names
from paragon_export.runtimes.trt_runner import EngineRunner
from paragon_export.specs.network import Port
from paragon_export.specs.profiles import AnyProfile
from paragon_export.specs.types import Precision
from paragon_export.system.environment import cuda_gpu


def classifier_ports(manifest: Manifest | None) -> tuple[Port, ...]:
    """Return the inputs of an engine of a glyph classifier, with their span; else nothing."""
    if manifest is None or manifest.onnx_metadata.classes is None:
        return ()
    vocabulary = manifest.onnx_metadata.vocabulary
    if vocabulary is None:
        return (Port("input", ("batch", 1, CELL, CELL), span=(0, 1)),)
    return (Port("input", ("batch", GRID, GRID), "int64", span=(0, vocabulary - 1)),)


def open_engine(engine: Path | EngineFile) -> tuple[Runner, Precision, AnyProfile]:
    """Load an engine onto a GPU.

    A TensorRT engine is code, so it is loaded only if its bytes match its manifest. The bytes that
    are checked are the bytes that are loaded.

    Returns:
        A runner that takes ``input`` and gives ``output``, the precision of the engine, and the
        profile that it accepts.

    Raises:
        PlanError: If there is no GPU, or no manifest that matches the bytes.
        RunError: If TensorRT refuses the engine.
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
            f"the manifest of {path} is damaged: it lacks backend, precision or profile; "
            "build it again with trt"
        )
    if cuda_gpu() is None:
        raise PlanError(f"{path} needs a GPU and none was found; judge {manifest.onnx}")
    runner = EngineRunner(file.data, path.name, backend.value, classifier_ports(manifest))
    return with_standard_names(runner, runner.port_names), precision, profile
