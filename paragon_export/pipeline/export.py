"""Export a checkpoint to one verified ONNX file.

The steps: load, build the reference, rewrite, trace, simplify, convert, judge, write. Each step
takes the value that the previous step returned.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from paragon_export.errors import RunError, TraceError
from paragon_export.graph.onnx_io import is_our_onnx
from paragon_export.networks.describe import LoadedNetwork, load_network, read_network
from paragon_export.parity.reference import measure_drop
from paragon_export.pipeline.float32_graph import finish, float32_graph
from paragon_export.pipeline.results import ExportResult
from paragon_export.specs.plans import ExportPlan
from paragon_export.specs.types import Precision, Runtime, Size, sizes_of
from paragon_export.system.atomic_write import check_writable, write_files


def export_onnx(
    network: LoadedNetwork | str | Path,
    output: str | Path,
    *,
    precision: str = "fp32",
    io: str = "fp32",
    static: str | Size | None = None,
    video: bool = False,
    rewrite: bool = True,
    runtime: str = "any",
    opset: int | None = None,
    at: Iterable[str | Size] | None = None,
) -> ExportResult:
    """Export a network to one ONNX file, judge it, and write it if the verdict passes.

    Args:
        network: A network, or the path of a checkpoint.
        output: The ``.onnx`` file to write. An existing file is replaced.
        precision: ``"fp32"``, ``"fp16"`` or ``"bf16"``; the type of the tensors in the file.
        io: Type of the image inputs and outputs: ``"fp32"``, or that of ``precision``.
        static: The only input size, as ``"720x1280"`` (height x width); None for any size and batch.
        video: Add ``prev_feat`` and ``alpha`` to the inputs and ``feature_map`` to the outputs.
        rewrite: Export an algebraically equal network that runs faster.
        runtime: What the rewrites are for: a value of ``Runtime``, as ``"portable"``.
        opset: ONNX operator set, 18 to 23; None takes the oldest that has every operator.
        at: Large sizes at which the file is judged as well, as for :func:`check_parity`.

    Returns:
        The result. ``passed`` is the verdict; the file was written only if it is True.

    Raises:
        ParagonExportError: If arguments do not fit, or a step could not run. Nothing is written.
    """
    loaded = network if isinstance(network, LoadedNetwork) else load_network(network)
    plan = ExportPlan(
        checkpoint=loaded.checkpoint.path, output=Path(output), options=loaded.options, opset=opset,
        precision=Precision(precision), io=Precision(io), video=video, rewrite=rewrite, at=sizes_of(at),
        static=Size.parse(static) if isinstance(static, str) else static, runtime=Runtime(runtime),
    )  # fmt: skip
    return export(plan, loaded)


def export(plan: ExportPlan, network: LoadedNetwork | None = None) -> ExportResult:
    """Carry out an export plan.

    Args:
        plan: What to export.
        network: The network of the plan's checkpoint; None reads the checkpoint.

    Raises:
        ParagonExportError: If a step could not run. Nothing is written then.
    """
    check_writable(plan.output, plan.checkpoint, named=plan.is_named, is_ours=is_our_onnx)
    result = make_onnx(network or read_network(plan.checkpoint, plan.options), plan)
    if result.passed:
        write_files({plan.output: result.file.data})
    return result


def make_onnx(network: LoadedNetwork, plan: ExportPlan) -> ExportResult:
    """Export to memory and judge the ONNX file.

    The ways of the network to make a graph are tried in order. The first whose file passes is taken,
    and ``remarks`` say why the others were not.

    Raises:
        ParagonExportError: If a step could not run, or no way gives a graph.
    """
    result: ExportResult | None = None
    failures: list[str] = []
    for tracer in (plan.tracer,) if plan.tracer else network.spec.tracers:
        try:
            made = _export_with_fallback(network, replace(plan, tracer=tracer))
            result = replace(made, tracer=tracer)
        except (TraceError, RunError) as error:  # a wrong graph may fail in the range audit
            if len(network.spec.tracers) == 1:
                raise
            failures.append(str(error).split("; ")[0])  # without the advice to the network's author
            continue
        if result.passed:
            break
        failures.append(f"the graph of {tracer.value} is not right at every size")
    if result is None:
        raise TraceError(f"{network.checkpoint.path}: {'; '.join(failures)}")
    if len(network.spec.tracers) > 1 and result.passed:
        failures.insert(0, f"the graph was made by {tracer.described}")
    return replace(result, remarks=(*result.remarks, *failures))


def with_tracer(network: LoadedNetwork, plan: ExportPlan) -> ExportPlan:
    """Return a plan that names the tracer whose float32 file passes its verdict.

    For flows that take a graph and do not judge it. Networks with one tracer need no trial.

    Raises:
        TraceError: If no tracer's file passes.
    """
    if plan.tracer or len(network.spec.tracers) == 1:
        return plan
    tried = make_onnx(
        network, replace(plan, precision=Precision.FP32, io=Precision.FP32, static=None, at=())
    )
    if not tried.passed:
        raise TraceError(f"{network.checkpoint.path}: {'; '.join(tried.remarks)}")
    return replace(plan, tracer=tried.tracer)


def _export_with_fallback(network: LoadedNetwork, plan: ExportPlan) -> ExportResult:
    """Export and judge in one way.

    A rewrite changes where half precision rounds. If the rewritten network fails in half precision
    and the network as trained passes, the latter is returned, and ``remarks`` say so.

    Raises:
        ParagonExportError: If a step could not run.
    """
    result = _export_once(network, plan)
    if result.passed or not result.fired or not plan.precision.is_half:
        return result
    as_trained = _export_once(network, replace(plan, rewrite=False, runtime=Runtime.ANY))
    if not as_trained.passed:
        return result
    worst = result.parity.worst
    error = f"error {worst.found.max_abs:.2g} on {worst.picture} {worst.size}" if worst else ""
    remark = f"exported as trained: rewritten it fails in {plan.precision.value} ({error})"
    return replace(as_trained, remarks=(remark,))


def _export_once(network: LoadedNetwork, plan: ExportPlan) -> ExportResult:
    """Export and judge once, rewritten or as trained."""
    from paragon_export.graph.portable import check_portable
    from paragon_export.parity.check import judge
    from paragon_export.precision.audit import audit
    from paragon_export.precision.half import to_precision

    graph = float32_graph(network, plan)
    model, ranges = graph.model, None
    if plan.precision.is_half:
        model, ranges = audit(
            model, plan.precision, plan.io, graph.subject(), shares=plan.error_shares
        )
    file = finish(graph, to_precision(model, plan.precision, plan.io), plan, ranges=ranges)
    if plan.runtime is Runtime.PORTABLE:
        check_portable(file.model, network.spec.variant)
    return ExportResult(
        file=file,
        reference=graph.reference,
        fired=graph.fired,
        parity=judge(graph.reference, [file], plan.to_judge),
        drop_cost=measure_drop(network) if network.spec.dropped else None,
        ranges=ranges,
    )
