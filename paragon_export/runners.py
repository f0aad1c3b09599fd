"""Runners: anything that executes a network, behind one method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from paragon_export.deps import cuda_advice, require
from paragon_export.errors import OutOfMemoryError, RunError, StageError, is_memory_error
from paragon_export.feeds import checked
from paragon_export.foreign import one_line
from paragon_export.variant import Port

if TYPE_CHECKING:
    import onnxruntime
    from torch import nn

Arrays = dict[str, np.ndarray]

CPU_PROVIDER = "CPUExecutionProvider"

OPENVINO_SETTINGS = {"INFERENCE_PRECISION_HINT": "f32"}
"""Left to itself, OpenVINO computes in bfloat16 on processors that have it."""


class Runner(Protocol):
    """Runs one network."""

    name: str

    def infer(self, feeds: Mapping[str, np.ndarray]) -> Arrays:
        """Run once.

        Args:
            feeds: Input name to array: images (N, C, H, W) in [0, 1] and other ports of the
                graph. Floating arrays are cast to what the network takes. Grids of IDs are of
                any integer type and become int64.

        Returns:
            Output name to array, not clamped; copies that are safe to keep.

        Raises:
            RunError: If the network cannot run on these inputs.
            PlanError: If an ID or a cell is none, before any runtime sees it (see ``feeds``).
        """


class TorchRunner:
    """A PyTorch module in the arithmetic of one dtype, on a device of PyTorch's."""

    def __init__(
        self,
        module: nn.Module,
        inputs: Sequence[str],
        outputs: Sequence[str],
        dtype: str = "float32",
        device: str = "cpu",
        ports: Sequence[Port] = (),
    ) -> None:
        """Copy ``module`` to ``dtype``; ``module`` itself is not changed.

        ``ports`` are the inputs whose arrays are checked.
        """
        import copy

        import torch

        self.name = f"PyTorch {dtype}"
        self.inputs, self.outputs = tuple(inputs), tuple(outputs)
        self.dtype, self.device = getattr(torch, dtype), device
        self.ports = tuple(ports)
        self.module = copy.deepcopy(module).to(device=device, dtype=self.dtype).eval()
        if dtype == "float16" and device == "cpu":
            _spare_wide_kernels(self.module)

    def infer(self, feeds: Mapping[str, np.ndarray]) -> Arrays:
        import torch

        feeds = checked(self.ports, feeds)
        given = [torch.from_numpy(np.asarray(feeds[name])) for name in self.inputs]
        tensors = [t.to(self.device, self.dtype if t.is_floating_point() else None) for t in given]
        try:
            with torch.inference_mode():
                results = self.module(*tensors)
        except (RuntimeError, MemoryError) as error:
            if not is_memory_error(error):
                raise  # a fault of this tool
            shapes = ", ".join(str(list(t.shape)) for t in tensors)
            raise OutOfMemoryError(
                f"{self.name} finds no memory for {shapes}: {_one_line(error)}"
            ) from error
        results = results if isinstance(results, tuple) else (results,)
        # bfloat16 is unknown to NumPy, and float64 must stay whole.
        wide = [r if r.dtype == torch.float64 else r.float() for r in results]
        return {n: r.cpu().numpy() for n, r in zip(self.outputs, wide, strict=True)}


def _spare_wide_kernels(module: nn.Module) -> None:
    """Let wide depthwise convolutions of a float16 network compute in float32 and round.

    oneDNN never returns from some of them (PyTorch 2.13: 1x15 and wider, pictures of 31 pixels
    and more). It sums in float32 too, so the result is the same.
    """
    from torch import nn

    for layer in module.modules():
        if isinstance(layer, nn.Conv2d) and layer.groups > 1 and max(layer.kernel_size) > 13:
            layer.float()  # of weights that were rounded before
            layer.register_forward_pre_hook(lambda _, inputs: tuple(x.float() for x in inputs))
            layer.register_forward_hook(lambda _, inputs, result: result.half())


class OnnxRunner:
    """An ONNX file in ONNX Runtime, in this process: for models that this tool made.

    Files of others belong into an ``IsolatedRunner``.
    """

    def __init__(
        self,
        model: Path | bytes,
        provider: str = CPU_PROVIDER,
        name: str = "ONNX Runtime",
        *,
        title: str = "",
        in_order: bool = False,
    ) -> None:
        """Load a model file, or a serialized model.

        Args:
            model: Self-contained.
            provider: ONNX Runtime's name of what executes it.
            name: What the runner is called in errors.
            title: What the model is called in errors.
            in_order: Whether the nodes are run as they are and in the order of the file.

        Raises:
            RunError: If ONNX Runtime refuses it, or would run it on another provider.
        """
        import onnxruntime as ort

        self.name = name
        options = ort.SessionOptions()
        options.log_severity_level = 4  # its errors are raised, and told in one line
        # Idle threads that spin would slow whatever else runs beside this session.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if in_order:
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
            options.enable_mem_reuse = False  # planning it takes time quadratic in the nodes
            options.execution_order = ort.ExecutionOrder.PRIORITY_BASED
        if provider != CPU_PROVIDER:
            options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        try:
            data = model if isinstance(model, bytes) else model.read_bytes()
            self.session = ort.InferenceSession(
                data, options, providers=[provider], enable_fallback=0
            )
        except Exception as error:  # ONNX Runtime raises a dozen unrelated classes
            title = title or _title(model)
            raise _error(f"ONNX Runtime cannot load {title}", error) from error
        if provider != CPU_PROVIDER:
            _check_provider(self.session, provider)
        self._types = {i.name: _numpy_type(i) for i in self.session.get_inputs()}
        self._outputs = [o.name for o in self.session.get_outputs()]
        self._ports = _guarded(data, [len(o.shape) for o in self.session.get_outputs()])
        self._options = ort.RunOptions()
        self._options.log_severity_level = 4

    def infer(self, feeds: Mapping[str, np.ndarray]) -> Arrays:
        missing = sorted(set(self._types) - set(feeds))
        if missing:
            raise RunError(f"{self.name}: the model also wants {', '.join(missing)}")
        feeds = checked(self._ports, feeds)
        cast = {name: np.asarray(feeds[name], dtype) for name, dtype in self._types.items()}
        try:
            results = self.session.run(None, cast, self._options)
        except Exception as error:  # as above
            raise _error(f"{self.name} fails on {shapes_of(cast)}", error) from error
        return {n: _plain(n, r) for n, r in zip(self._outputs, results, strict=True)}


def _error(what: str, error: Exception) -> StageError:
    """Return a library's error as one of ours."""
    kind = OutOfMemoryError if is_memory_error(error) else RunError
    return kind(f"{what}: {_one_line(error)}")


def _check_provider(session: onnxruntime.InferenceSession, provider: str) -> None:
    """Check that a session runs where it was asked to: ONNX Runtime falls back without an error.

    Arithmetic with shapes may stay on the CPU, where ONNX Runtime puts it on purpose.

    Raises:
        RunError: If another provider comes first, or the CPU gets convolutions or products.
    """
    device, used = provider.removesuffix("ExecutionProvider"), session.get_providers()
    if used[:1] != [provider]:
        raise RunError(
            f"ONNX Runtime has no working {device} here and fell back to {used[0]}; {cuda_advice()}"
        )
    if not hasattr(session, "get_provider_graph_assignment_info"):  # an older ONNX Runtime
        return
    parts = session.get_provider_graph_assignment_info()
    on_cpu = {n.op_type for part in parts if part.ep_name == CPU_PROVIDER for n in part.get_nodes()}
    heavy = sorted(op for op in on_cpu if any(word in op for word in ("Conv", "MatMul", "Gemm")))
    if heavy:
        raise RunError(f"ONNX Runtime would run {', '.join(heavy)} on the CPU, not on {device}")


def _plain(name: str, result: object) -> np.ndarray:
    """Return an output as an array of numbers.

    Raises:
        RunError: If it is text, or no tensor.
    """
    array = np.asarray(result)
    if array.dtype.kind not in "fiub":
        raise RunError(f"output {name} holds {array.dtype}; expected numbers")
    return array


def shapes_of(feeds: Mapping[str, np.ndarray]) -> str:
    """Return names and shapes in words, for errors."""
    return ", ".join(f"{name} {list(np.shape(array))}" for name, array in feeds.items())


class OpenVinoRunner:
    """An ONNX file in OpenVINO, on the CPU, in float32.

    Nothing is cached: compiled bytes on disk cannot be verified.
    """

    def __init__(self, model: Path | bytes, *, title: str = "") -> None:
        """Load a model file, or a serialized model; it is self-contained.

        Raises:
            RunError: If OpenVINO refuses the model.
            MissingDependencyError: If OpenVINO is not installed.
        """
        ov = require("openvino", "openvino")
        self.name = "OpenVINO"
        try:
            data = model if isinstance(model, bytes) else model.read_bytes()
            core = ov.Core()
            compiled = core.compile_model(core.read_model(data), "CPU", OPENVINO_SETTINGS)
        except (RuntimeError, OSError) as error:
            title = title or _title(model)
            raise _error(f"OpenVINO cannot load {title}", error) from error
        self._request = compiled.create_infer_request()
        self._inputs = {port.any_name: port.element_type.to_dtype() for port in compiled.inputs}
        self._outputs = [port.any_name for port in compiled.outputs]
        self._ports = _guarded(data, [len(port.partial_shape) for port in compiled.outputs])

    def infer(self, feeds: Mapping[str, np.ndarray]) -> Arrays:
        missing = sorted(set(self._inputs) - set(feeds))
        if missing:
            raise RunError(f"{self.name}: the model also wants {', '.join(missing)}")
        feeds = checked(self._ports, feeds)
        cast = {n: np.asarray(feeds[n], dtype, order="C") for n, dtype in self._inputs.items()}
        try:
            results = self._request.infer(cast)
        except RuntimeError as error:
            raise _error(f"{self.name} fails on {shapes_of(cast)}", error) from error
        # OpenVINO reuses its output buffers.
        return {name: _plain(name, np.array(results[name])) for name in self._outputs}


class EngineRunner:
    """A TensorRT engine on the GPU at hand. Untested here: needs a GPU."""

    def __init__(self, engine: bytes, title: str, flavour: str, ports: Sequence[Port] = ()) -> None:
        """Load an engine that this tool built; the caller has checked its manifest.

        ``title`` names it in errors; ``ports`` are the inputs whose arrays are checked.

        Raises:
            RunError: If TensorRT refuses it.
        """
        from paragon_export.polygraphy_bridge import polygraphy_trt

        self.name = f"TensorRT ({flavour})"
        self._ports = tuple(ports)
        backend = polygraphy_trt(flavour)  # before anything else of Polygraphy is imported
        from polygraphy.exception import PolygraphyException

        try:
            loaded = backend.EngineFromBytes(engine)
            self._runner = backend.TrtRunner(loaded)
            self._runner.activate()
        except PolygraphyException as error:
            raise RunError(f"TensorRT cannot load {title}: {_one_line(error)}") from error

    def infer(self, feeds: Mapping[str, np.ndarray]) -> Arrays:
        from polygraphy.exception import PolygraphyException

        feeds = checked(self._ports, feeds)
        wanted = self._runner.get_input_metadata()
        cast = {n: np.ascontiguousarray(feeds[n], m.dtype.numpy()) for n, m in wanted.items()}
        try:
            results = self._runner.infer(cast)
        except PolygraphyException as error:
            raise RunError(f"{self.name}: {_one_line(error)}") from error
        # Polygraphy reuses its output buffers.
        return {name: np.array(array) for name, array in results.items()}


def _guarded(data: bytes, ranks: Sequence[int]) -> tuple[Port, ...]:
    """Return the inputs to be checked of a model with outputs of these ranks: a classifier's."""
    if 2 not in ranks:
        return ()
    from paragon_export.onnx_file import guarded_ports

    return guarded_ports(data)


def _numpy_type(port: onnxruntime.NodeArg) -> np.dtype:
    import ml_dtypes

    types = {
        "tensor(float)": np.float32,
        "tensor(float16)": np.float16,
        "tensor(bfloat16)": ml_dtypes.bfloat16,
        "tensor(double)": np.float64,
        "tensor(int64)": np.int64,
    }
    if port.type not in types:
        raise RunError(f"input {port.name} has type {port.type}, which is not served")
    return np.dtype(types[port.type])


def _title(model: Path | bytes) -> str:
    return "the model" if isinstance(model, bytes) else str(model)


def _one_line(error: BaseException) -> str:
    return one_line(str(error))[:400]
