"""BuildResult: an ONNX file and a profile in, a TensorRT engine and its manifest out.

TensorRT-RTX compiles ahead of time and needs no GPU. Full TensorRT times kernels on the GPU
it finds; that path shares all it can with the other and is untested here.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from paragon_export.engines.planned_memory import largest_bytes
from paragon_export.errors import EngineBuildError, PlanError
from paragon_export.graph.onnx_io import OnnxFile
from paragon_export.runtimes.polygraphy import polygraphy_trt, tensorrt
from paragon_export.specs.profiles import AnyProfile, BatchProfile
from paragon_export.specs.types import Backend
from paragon_export.system.environment import cuda_gpu
from paragon_export.system.progress import step

if TYPE_CHECKING:
    import onnx_ir as ir


MEMORY_LINE = re.compile(r"Total (Activation|Weights) Memory: (\d+) bytes")
"""TensorRT's own plan of device memory for the largest shape of the profile."""


UNPLANNED_BYTES = 8000 * 2**20
"""TensorRT-RTX 1.7 leaves a tensor of so many bytes out of its plan, without a warning. Measured on
networks of one and of many layers, in float32 and float16, for every target: one row of pixels less
and the tensor counts. The engine is built all the same."""


@dataclass(frozen=True, kw_only=True)
class BuiltEngine:
    """A serialized engine and what TensorRT said while it built it."""

    data: bytes
    activation_bytes: int | None
    weights_bytes: int | None
    warnings: tuple[str, ...]
    memory_doubt: str = ""
    """Why ``activation_bytes`` is not given although TensorRT named a figure; empty where it is."""

    @property
    def planned_bytes(self) -> int | None:
        """Device memory for activations and weights; None if TensorRT gave no right figure."""
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
            known = self.memory.get(found[1], 0)
            self.memory[found[1]] = max(known, int(found[2]))  # one line for each profile
        elif record.levelno >= logging.ERROR:
            self.errors.append(" ".join(message.split()))
        elif record.levelno >= logging.WARNING:
            self.warnings.append(" ".join(message.split()))


def build_engine(
    file: OnnxFile, backend: Backend, targets: tuple[str, ...], profile: AnyProfile
) -> BuiltEngine:
    """Compile an ONNX file.

    Args:
        file: What is compiled.
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
        config = _config(trt, backend, targets, _shapes(trt, file.model, profile))
        with step(f"building for {', '.join(targets) or 'the default GPUs'}"):
            data = bytes(trt.engine_bytes_from_network(_network(trt, file, backend), config=config))
    except PolygraphyException as error:
        reason = log.errors[0] if log.errors else " ".join(str(error).split())
        raise EngineBuildError(f"TensorRT cannot build {file.path}: {reason}") from error
    finally:
        logger.removeHandler(log)
    doubt = _memory_doubt(file.model, profile)
    return BuiltEngine(
        data=data,
        activation_bytes=None if doubt else log.memory.get("Activation"),
        weights_bytes=log.memory.get("Weights"),
        warnings=tuple(log.warnings),
        memory_doubt=doubt,
    )


def _memory_doubt(model: ir.Model, profile: AnyProfile) -> str:
    """Say why TensorRT's plan of memory for a profile cannot be right; empty where it can."""
    sizes = [
        largest_bytes(model, {str(v.name): _extents(v, one)[-1] for v in model.graph.inputs})
        for one in _each(profile)
    ]
    known = [size for size in sizes if size is not None]
    largest = max(known, default=0)
    if len(known) < len(sizes):
        return (
            "planned memory is not known: sizes inside the network follow from more than the "
            "profile, and TensorRT's figure may leave tensors out"
        )
    if largest < UNPLANNED_BYTES:
        return ""
    return (
        f"planned memory is not known: at the largest shape a tensor has {largest / 1e9:.1f} GB, and "
        f"TensorRT's figure leaves out those of {UNPLANNED_BYTES / 1e9:.1f} GB and more; lower --max"
    )


def _network(trt: Any, file: OnnxFile, backend: Backend) -> Any:
    # RTX knows strongly typed networks only; full TensorRT 10 has to be told.
    typed = {} if backend is Backend.RTX else {"strongly_typed": True}
    # Not by its name, which may be no UTF-8.
    return trt.network_from_onnx_bytes(file.data, **typed)


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
    """Spell each profile out for every dynamic input; a static model needs none."""
    profiles = []
    for one in _each(profile):
        shapes = trt.Profile()
        for value in model.graph.inputs:
            if not all(isinstance(dim, int) for dim in value.shape or ()):
                shapes.add(str(value.name), *_extents(value, one))
        profiles.append(shapes)
    return [shapes for shapes in profiles if shapes]


def _each(profile: AnyProfile) -> tuple[AnyProfile, ...]:
    return (profile,) if isinstance(profile, BatchProfile) else profile.all


def _extents(value: ir.Value, profile: AnyProfile) -> list[tuple[int, ...]]:
    """Return the smallest, the optimal and the largest shape of an input."""
    dims = tuple(value.shape or ())
    if all(isinstance(dim, int) for dim in dims):
        return [_whole(dims)] * 3
    if isinstance(profile, BatchProfile):
        batches = (profile.smallest, profile.optimal, profile.largest)
        return [(batch, *_whole(dims[1:])) for batch in batches]
    return [
        (batch, *_whole(dims[1:2]), size.height, size.width)
        for batch, size in zip((1, 1, profile.batch), profile.sizes, strict=True)
    ]


def _whole(dims: Sequence[Any]) -> tuple[int, ...]:
    return tuple(int(dim) for dim in dims)
