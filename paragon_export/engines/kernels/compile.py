"""Compile an ONNX file for one size, and return TensorRT's list of the kernels."""

from __future__ import annotations

from typing import Any

from paragon_export.engines.kernels.listing import HEAD, Kernel, read_listing
from paragon_export.errors import EngineBuildError, PlanError
from paragon_export.graph.onnx_io import OnnxFile
from paragon_export.runtimes.polygraphy import tensorrt
from paragon_export.specs.types import Size


def compile_kernels(file: OnnxFile, target: str, size: Size | None) -> tuple[Kernel, ...]:
    """Compile a file with TensorRT-RTX at batch 1. Nothing is written, and the engine is dropped.

    Args:
        file: The ONNX file.
        target: Compute capability such as ``sm86``.
        size: Size of the input; None for a file that is fixed to one.

    Raises:
        EngineBuildError: If TensorRT cannot build it or its list is not understood.
        MissingDependencyError: If TensorRT-RTX is not installed.
        PlanError: If the file is fixed to another size, or is not fixed and none is given.
    """
    if file.static and size not in (None, file.static):
        raise PlanError(f"{file.path} is fixed to {file.static}, not {size}; leave --size out")
    trt = tensorrt("rtx")
    log = _log(trt)
    builder = trt.Builder(log)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, log)
    if not parser.parse(file.data):
        raise EngineBuildError(f"TensorRT cannot read {file.path}: {_first(log)}")
    config = _config(trt, builder, target)
    _fix_sizes(builder, network, config, file, size)
    if builder.build_serialized_network(network, config) is None:
        at = f"{file.path} at {size or file.static} for {target}"
        raise EngineBuildError(f"TensorRT cannot build {at}: {_first(log)}")
    if len(log.listings) != 1:
        raise EngineBuildError(f"TensorRT listed {len(log.listings)} engines, not 1; update it")
    return read_listing(log.listings[0])


def _log(trt: Any) -> Any:
    """Return a logger of TensorRT. Polygraphy's own does not receive the list."""

    class Log(trt.ILogger):  # type: ignore[misc]  # TensorRT has no types
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.listings: list[str] = []
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if message.startswith(HEAD):
                self.listings.append(message)
            elif severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
                self.errors.append(" ".join(message.split()))

    return Log()


def _first(log: Any) -> str:
    return log.errors[0] if log.errors else "it gives no reason"


def _config(trt: Any, builder: Any, target: str) -> Any:
    config = builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    config.clear_flag(trt.BuilderFlag.TF32)  # as engines are built
    config.num_compute_capabilities = 1
    config.set_compute_capability(getattr(trt.ComputeCapability, target.upper()), 0)
    return config


def _fix_sizes(builder: Any, network: Any, config: Any, file: OnnxFile, size: Size | None) -> None:
    """Make the smallest, optimal and largest shape one, so that the list has numbers alone."""
    profile, is_dynamic = builder.create_optimization_profile(), False
    for index in range(network.num_inputs):
        port = network.get_input(index)
        if -1 not in tuple(port.shape):
            continue
        if len(port.shape) != 4:
            raise PlanError(f"input {port.name} of {file.path} is no map of a picture")
        if size is None:
            raise PlanError(f"{file.path} takes any size; give --size, as in --size 1080x1920")
        shape = (1, port.shape[1], size.height, size.width)
        profile.set_shape(port.name, shape, shape, shape)
        is_dynamic = True
    if is_dynamic:
        config.add_optimization_profile(profile)
