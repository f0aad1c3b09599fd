"""Build: an ONNX file and a profile in, a TensorRT engine and its manifest out.

TensorRT-RTX compiles ahead of time and needs no GPU. Full TensorRT times kernels on the GPU
it finds; that path shares all it can with the other and is untested here.
"""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paragon_export.environment import cuda_gpu
from paragon_export.errors import EngineBuildError, PlanError
from paragon_export.families.glyph.layout import CELL, GRID
from paragon_export.manifest import checked_manifest, why_not_believed
from paragon_export.plan import Backend, BatchProfile, Precision, Profile
from paragon_export.polygraphy_bridge import polygraphy_trt, tensorrt
from paragon_export.runners import EngineRunner
from paragon_export.variant import Port

if TYPE_CHECKING:
    import onnx_ir as ir

AnyProfile = Profile | BatchProfile

MEMORY_LINE = re.compile(r"Total (Activation|Weights) Memory: (\d+) bytes")
"""TensorRT's own plan of device memory for the largest shape of the profile."""


@dataclass(frozen=True, kw_only=True)
class BuiltEngine:
    """A serialized engine and what TensorRT said while it built it."""

    data: bytes
    activation_bytes: int | None
    weights_bytes: int | None
    warnings: tuple[str, ...]

    @property
    def planned_bytes(self) -> int | None:
        """Device memory for activations and weights; None if TensorRT did not say."""
        if self.activation_bytes is None or self.weights_bytes is None:
            return None
        return self.activation_bytes + self.weights_bytes


class _Log(logging.Handler):
    """Listens to TensorRT through Polygraphy."""

    def __init__(self) -> None:
        super().__init__()
        self.memory: dict[str, int] = {}
        self.warnings: list[str] = []
        self.errors: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        message = re.sub(r"^\[\S+\] ", "", record.getMessage())
        if found := MEMORY_LINE.search(message):
            self.memory[found[1]] = int(found[2])
        elif record.levelno >= logging.ERROR:
            self.errors.append(" ".join(message.split()))
        elif record.levelno >= logging.WARNING:
            self.warnings.append(" ".join(message.split()))


def build_engine(
    onnx: Path, model: ir.Model, backend: Backend, targets: tuple[str, ...], profile: AnyProfile
) -> BuiltEngine:
    """Compile an ONNX file.

    Args:
        onnx: The file that is compiled.
        model: The same, loaded, for its ports.
        backend: Which TensorRT.
        targets: Compute capabilities such as ``sm86``, in one engine; RTX only.
        profile: Sizes that the engine must accept, or batches of a glyph classifier.

    Raises:
        EngineBuildError: With TensorRT's own first error.
        MissingDependencyError: If the flavour is not installed.
        PlanError: If the profile cannot hold for the model, or full TensorRT finds no GPU.
    """
    if backend is Backend.TENSORRT and cuda_gpu() is None:
        raise PlanError(
            "--backend tensorrt times kernels on a GPU and found none; "
            "use --backend rtx, which compiles ahead of time"
        )
    trt = polygraphy_trt(backend.value)
    from polygraphy.exception import PolygraphyException

    log = _Log()
    logger = logging.getLogger("Polygraphy")
    logger.addHandler(log)
    try:
        config = _config(trt, backend, targets, _shapes(trt, model, profile))
        data = bytes(trt.engine_bytes_from_network(_network(trt, onnx, backend), config=config))
    except PolygraphyException as error:
        reason = log.errors[0] if log.errors else " ".join(str(error).split())
        raise EngineBuildError(f"TensorRT cannot build {onnx}: {reason}") from error
    finally:
        logger.removeHandler(log)
    return BuiltEngine(
        data=data,
        activation_bytes=log.memory.get("Activation"),
        weights_bytes=log.memory.get("Weights"),
        warnings=tuple(log.warnings),
    )


def _network(trt: Any, onnx: Path, backend: Backend) -> Any:
    # RTX knows strongly typed networks only; full TensorRT 10 has to be told.
    typed = {} if backend is Backend.RTX else {"strongly_typed": True}
    # Not by its name, which may be no UTF-8.
    return trt.network_from_onnx_bytes(onnx.read_bytes(), **typed)


def _config(trt: Any, backend: Backend, targets: tuple[str, ...], profiles: list[Any]) -> Any:
    if backend is Backend.RTX:
        from polygraphy.backend.tensorrt_rtx import CreateConfigRTX

        capabilities = [(int(t[2:]) // 10, int(t[2:]) % 10) for t in targets] or None
        config = CreateConfigRTX(profiles=profiles, compute_capabilities=capabilities)
    else:
        config = trt.CreateConfig(profiles=profiles)

    def without_tf32(builder: Any, network: Any, config: Any) -> None:
        # TensorFloat-32 keeps 10 bits of the mantissa; float32 in the graph means float32.
        config.clear_flag(tensorrt(backend.value).BuilderFlag.TF32)

    return trt.PostprocessConfig(config, without_tf32)


def _shapes(trt: Any, model: ir.Model, profile: AnyProfile) -> list[Any]:
    """Spell the profile out for every dynamic input; a static model needs none."""
    shapes = trt.Profile()
    for value in model.graph.inputs:
        dims = list(value.shape or ())
        if isinstance(profile, BatchProfile):
            if not isinstance(dims[0], int):
                batches = (profile.smallest, profile.optimal, profile.largest)
                shapes.add(str(value.name), *((batch, *dims[1:]) for batch in batches))
        elif len(dims) == 4 and not all(isinstance(dim, int) for dim in dims):
            extents = [
                (batch, dims[1], size.height, size.width)
                for batch, size in zip((1, 1, profile.batch), profile.sizes, strict=True)
            ]
            shapes.add(str(value.name), *extents)
    return [shapes] if shapes else []


def classifier_ports(path: Path) -> tuple[Port, ...]:
    """Return what may be fed to an engine of a glyph classifier, by its manifest; none of others.

    Raises:
        PlanError: If the manifest cannot be read.
    """
    manifest = checked_manifest(path)
    if manifest is None or manifest.model.classes is None:
        return ()
    vocabulary = manifest.model.vocabulary
    if vocabulary is None:
        return (Port("input", ("batch", 1, CELL, CELL), span=(0, 1)),)
    return (Port("input", ("batch", GRID, GRID), "int64", span=(0, vocabulary - 1)),)


def open_engine(path: Path) -> tuple[EngineRunner, Precision, AnyProfile]:
    """Load an engine onto the GPU. Untested here: needs a GPU.

    A TensorRT engine is code: only one whose bytes match its manifest is loaded.

    Raises:
        PlanError: If there is no GPU, no manifest, or the bytes are not those of the manifest.
    """
    manifest = checked_manifest(path)
    reason = why_not_believed(path, manifest.document) if manifest else "there is none"
    if manifest is None or reason:
        raise PlanError(
            f"{path} has no manifest that matches its bytes; build it again with trt ({reason})"
        )
    backend, precision, profile = manifest.backend, manifest.precision, manifest.profile
    if backend is None or precision is None or profile is None:
        raise PlanError(
            f"the manifest of {path} is damaged: it lacks backend, precision or profile; build it again with trt"
        )
    if cuda_gpu() is None:
        found = manifest.document.get("onnx")
        raise PlanError(f"{path} needs a GPU and none was found; judge {found}")
    return EngineRunner(path, backend.value, classifier_ports(path)), precision, profile
