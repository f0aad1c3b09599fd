"""Build: an ONNX file and a profile in, a serialized TensorRT engine out.

TensorRT-RTX compiles ahead of time and needs no GPU. Full TensorRT times kernels on a GPU.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from paragon_export.engines.planned_memory import largest_bytes
from paragon_export.errors import EngineBuildError, PlanError
from paragon_export.graph.inspection import fed_inputs
from paragon_export.graph.onnx_io import OnnxFile
from paragon_export.runtimes.polygraphy import polygraphy_trt, python_logging, tensorrt
from paragon_export.specs.profiles import AnyProfile, BatchProfile
from paragon_export.specs.types import Backend
from paragon_export.system.environment import cuda_gpu
from paragon_export.system.progress import step

if TYPE_CHECKING:
    import onnx_ir as ir


MEMORY_LINE = re.compile(r"Total (Activation|Weights) Memory: (\d+) bytes")
"""Line of TensorRT's log: planned device memory for the largest shape of the profile."""


MIN_UNPLANNED_BYTES = 8000 * 2**20
"""TensorRT-RTX 1.7 leaves tensors of this size and larger out of its plan, without a warning. It was
measured on networks of one and of many layers, in float32 and float16, for every target: a tensor
with one row of pixels less is in the plan. The engine is built in both cases."""


@dataclass(frozen=True, kw_only=True)
class BuiltEngine:
    """A serialized engine, and what TensorRT reported during the build."""

    data: bytes
    activation_bytes: int | None
    """Planned device memory for activations at the largest shape; None if unknown."""
    weights_bytes: int | None
    """Planned device memory for weights; None if unknown."""
    warnings: tuple[str, ...]
    """Warnings of TensorRT, one line each."""
    memory_doubt: str = ""
    """Why TensorRT's figure for ``activation_bytes`` is not used; empty if it is."""

    @property
    def planned_bytes(self) -> int | None:
        """Device memory in bytes for activations and weights; None if either is unknown."""
        if self.activation_bytes is None or self.weights_bytes is None:
            return None
        return self.activation_bytes + self.weights_bytes


class _Log(logging.Handler):
    """Collects the planned memory, warnings and errors from TensorRT's log."""

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


def compile_engine(
    file: OnnxFile, backend: Backend, targets: tuple[str, ...], profile: AnyProfile
) -> BuiltEngine:
    """Compile an ONNX file.

    Args:
        file: The ONNX file.
        backend: TensorRT-RTX or full TensorRT.
        targets: Compute capabilities such as ``sm86``, all in one engine; TensorRT-RTX only.
        profile: Sizes that the engine must accept, or batches of a glyph classifier.

    Returns:
        The serialized engine. Nothing is written.

    Raises:
        EngineBuildError: If TensorRT cannot build it, with its first error.
        MissingDependencyError: If the backend is not installed.
        PlanError: If full TensorRT finds no GPU.
    """
    _check_gpu(backend)
    trt = polygraphy_trt(backend.value)
    from polygraphy.exception import PolygraphyException

    log = _Log()
    try:
        name = f"building for {', '.join(targets) or 'the default GPUs'}"
        with python_logging(backend.value, log), step(name):
            config = _config(trt, backend, targets, _shapes(trt, file.model, profile))
            data = bytes(trt.engine_bytes_from_network(_network(trt, file, backend), config=config))
    except PolygraphyException as error:
        reason = log.errors[0] if log.errors else " ".join(str(error).split())
        raise EngineBuildError(f"TensorRT cannot build {file.path}: {reason}") from error
    doubt = _memory_doubt(file.model, profile)
    return BuiltEngine(
        data=data,
        activation_bytes=None if doubt else log.memory.get("Activation"),
        weights_bytes=log.memory.get("Weights"),
        warnings=tuple(log.warnings),
        memory_doubt=doubt,
    )


def _check_gpu(backend: Backend) -> None:
    if backend is Backend.TENSORRT and cuda_gpu() is None:
        raise PlanError(
            "--backend tensorrt times kernels on a GPU and found none; "
            "use --backend rtx, which compiles ahead of time"
        )


def _memory_doubt(model: ir.Model, profile: AnyProfile) -> str:
    """Return why TensorRT's planned memory for a profile may be wrong; empty if it is right."""
    sizes = [
        largest_bytes(model, {str(v.name): _extents(v, one)[-1] for v in fed_inputs(model)})
        for one in _each(profile)
    ]
    known = [size for size in sizes if size is not None]
    largest = max(known, default=0)
    if len(known) < len(sizes):
        return (
            "planned memory is not known: sizes inside the network follow from more than the "
            "profile, and TensorRT's figure may leave tensors out"
        )
    if largest < MIN_UNPLANNED_BYTES:
        return ""
    return (
        f"planned memory is not known: at the largest shape a tensor has {largest / 1e9:.1f} GB, and "
        f"TensorRT's figure leaves out those of {MIN_UNPLANNED_BYTES / 1e9:.1f} GB and more; lower --max"
    )


def _network(trt: Any, file: OnnxFile, backend: Backend) -> Any:
    # RTX has strongly typed networks only; full TensorRT 10 needs the flag.
    flags = {} if backend is Backend.RTX else {"strongly_typed": True}
    # From bytes: the file name may not be UTF-8.
    return trt.network_from_onnx_bytes(_with_distinct_axes(file.data), **flags)


def _with_distinct_axes(data: bytes) -> bytes:
    """Return a serialized model in which no input has two dynamic axes of one name.

    TensorRT takes axes of one name as equal; other runtimes accept any size. The name is removed.
    """
    import onnx

    proto = onnx.ModelProto.FromString(data)
    repeated = []
    for port in proto.graph.input:
        axes = [axis for axis in port.type.tensor_type.shape.dim if axis.dim_param]
        names = [axis.dim_param for axis in axes]
        repeated += [axis for axis in axes if names.count(axis.dim_param) > 1]
    for axis in repeated:
        axis.ClearField("dim_param")
    return proto.SerializeToString() if repeated else data


def _config(trt: Any, backend: Backend, targets: tuple[str, ...], profiles: list[Any]) -> Any:
    if backend is Backend.RTX:
        from polygraphy.backend.tensorrt_rtx import CreateConfigRTX

        capabilities = [(int(t[2:]) // 10, int(t[2:]) % 10) for t in targets] or None
        config = CreateConfigRTX(profiles=profiles, compute_capabilities=capabilities)
    else:
        config = trt.CreateConfig(profiles=profiles)

    def without_tf32(builder: Any, network: Any, config: Any) -> None:
        # TensorFloat-32 keeps 10 bits of the mantissa; float32 in the graph must stay float32.
        config.clear_flag(tensorrt(backend.value).BuilderFlag.TF32)

    return trt.PostprocessConfig(config, without_tf32)


def _shapes(trt: Any, model: ir.Model, profile: AnyProfile) -> list[Any]:
    """Return TensorRT profiles with the shapes of every dynamic input; none for a static model."""
    profiles = []
    for one in _each(profile):
        shapes = trt.Profile()
        for value in fed_inputs(model):
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
        return [_as_ints(dims)] * 3
    if isinstance(profile, BatchProfile):
        batches = (profile.smallest, profile.optimal, profile.largest)
        return [(batch, *_as_ints(dims[1:])) for batch in batches]
    wanted = [
        (batch, 0, size.height, size.width)
        for batch, size in zip((1, 1, profile.batch), profile.sizes, strict=True)
    ]
    return [
        tuple(d if isinstance(d, int) else extent for d, extent in zip(dims, shape, strict=True))
        for shape in wanted
    ]


def _as_ints(dims: Sequence[Any]) -> tuple[int, ...]:
    return tuple(int(dim) for dim in dims)
