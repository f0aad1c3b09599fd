"""Export a checkpoint to ncnn: the portable graph, pnnx, and a verdict in ncnn itself."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from paragon_export.errors import InexactTilesError, PlanError
from paragon_export.graph.onnx_io import OnnxFile, serialized
from paragon_export.graph.portable import check_portable
from paragon_export.inputs.probes import choose_probes
from paragon_export.ncnn.convert import NcnnFiles, convert
from paragon_export.ncnn.realesrgan import fitted, make_dense
from paragon_export.ncnn.runner import NcnnRunner
from paragon_export.networks.describe import LoadedNetwork
from paragon_export.parity.acceptance import AtMost, Finite
from paragon_export.parity.candidates import Candidate
from paragon_export.parity.check import judge_runner
from paragon_export.parity.compare import verify
from paragon_export.parity.metrics import Difference
from paragon_export.parity.report import ParityReport
from paragon_export.parity.truth import Truths
from paragon_export.pipeline.export import with_tracer
from paragon_export.pipeline.float32_graph import Float32Graph, finish, float32_graph
from paragon_export.precision.half import to_precision
from paragon_export.precision.rounding import rounding_model
from paragon_export.runtimes import isolated
from paragon_export.specs.network import NetworkSpec, Task
from paragon_export.specs.plans import ExportPlan, ParityPlan
from paragon_export.specs.types import NcnnProgram, OnnxBackend, Precision, Runtime, Size
from paragon_export.system.atomic_write import check_writable, encoded, write_files
from paragon_export.system.progress import step
from paragon_export.tiling.open import field_of_file

WINOGRAD_LIMIT = 1e-4
"""Largest error, as a share of full range, with Winograd's convolutions, which are ncnn's default. The
verdict without them is that of all float32 files."""

WINOGRAD = "ncnn with Winograd"

GELU_OPSET = 20
"""The first operator set with ``Gelu``, of which pnnx makes one layer. Programs lack ``Erf`` more often."""

SUFFIXES = (".param", ".bin")


@dataclass(frozen=True, kw_only=True)
class NcnnResult:
    """Result of an export to ncnn. The files are written only if ``passed``."""

    paths: tuple[Path, Path]
    """Of the graph and of the weights."""
    spec: NetworkSpec
    parity: ParityReport
    """Verdicts in ncnn, without and with Winograd's convolutions."""
    half_storage: Difference
    """Error of the worst image where every result is stored in float16, as ncnn does on GPUs. It is
    simulated, because ncnn ignores this option on many processors."""
    reach_px: int | None
    """How far around it a pixel depends on others: least overlap of tiles. None if it sees the whole
    picture, which then cannot be cut into tiles."""

    @property
    def passed(self) -> bool:
        return self.parity.passed


def paths_of(name: Path) -> tuple[Path, Path]:
    """Return the paths of both files; ``name`` may have one of their suffixes, or none."""
    stem = name.name.removesuffix(SUFFIXES[0]).removesuffix(SUFFIXES[1])
    if not stem:
        raise PlanError(f"output {name} has no name; give one, as in -o model")
    param, weights = (name.with_name(stem + suffix) for suffix in SUFFIXES)
    return param, weights


def export_ncnn(
    network: LoadedNetwork,
    output: Path,
    *,
    is_named: bool = True,
    at: tuple[Size, ...] | None = None,
    program: NcnnProgram = NcnnProgram.NCNN,
) -> NcnnResult:
    """Export a network to ncnn, judge it in ncnn, and write the files if the verdict passes.

    Args:
        network: A network that maps pictures to pictures.
        output: Path of both files, without a suffix. Existing files are replaced.
        is_named: Whether the user chose the name. If not, no file is replaced.
        at: Large sizes to judge at; None for the default.
        program: What runs the files.

    Raises:
        PlanError: If the network needs operators that ncnn does not compute right, or layers that the
            program does not have.
        MissingDependencyError: If ncnn or pnnx is not installed.
        RunError: If pnnx or ncnn fails.
    """
    paths = paths_of(output)
    _check_writable(paths, network, is_named=is_named)
    graph, file = _portable(network, output, program)
    files = convert(file.data, network.spec.in_channels)
    if program is NcnnProgram.REALESRGAN:
        files = replace(files, param=fitted(files.param, network.spec.variant))
    truths = Truths(graph.reference)
    result = NcnnResult(
        paths=paths,
        spec=network.spec,
        parity=_judged(graph, truths, file, files, ParityPlan(at=at)),
        half_storage=_half_storage(graph, truths, file),
        reach_px=_reach(file),
    )
    if result.passed:
        write_files({paths[0]: encoded(files.param), paths[1]: files.weights})
    return result


def _check_writable(paths: tuple[Path, Path], network: LoadedNetwork, *, is_named: bool) -> None:
    """Check before any work that both files can be written."""
    for path in paths:
        if not is_named and path.exists():
            raise PlanError(f"{path} exists; name the output with -o to replace it")
        check_writable(path, network.checkpoint.path)


def _portable(
    network: LoadedNetwork, output: Path, program: NcnnProgram
) -> tuple[Float32Graph, OnnxFile]:
    """Return the float32 graph of plain operators, and as a file in memory."""
    if network.spec.task is not Task.IMAGE:
        raise PlanError(f"{network.checkpoint.path} gives no picture; export it with onnx")
    plan = ExportPlan(
        checkpoint=network.checkpoint.path,
        output=output.with_name("model.onnx"),
        options=network.options,
        runtime=Runtime.PORTABLE,
        opset=GELU_OPSET,
    )
    plan = with_tracer(network, plan)
    graph = float32_graph(network, plan)
    if program is NcnnProgram.REALESRGAN:
        make_dense(graph.model)
    file = finish(graph, graph.model, plan)
    check_portable(file.model, network.spec.variant)
    return graph, file


def _judged(
    graph: Float32Graph,
    truths: Truths,
    file: OnnxFile,
    files: NcnnFiles,
    plan: ParityPlan,
) -> ParityReport:
    """Judge the files without Winograd's convolutions, and with them by their own limit."""
    own = Candidate(name="ncnn", runner=NcnnRunner(files), precision=Precision.FP32)
    report = judge_runner(graph.reference, truths, file, own, plan)
    winograd = replace(own, name=WINOGRAD, runner=NcnnRunner(files, winograd=True))
    criteria = Finite(), AtMost(WINOGRAD_LIMIT)
    second = judge_runner(graph.reference, truths, file, winograd, plan, criteria)
    return replace(
        report,
        rows=(*report.rows, *second.rows),
        findings=(*report.findings, *second.findings),
        notes=tuple(dict.fromkeys((*report.notes, *second.notes))),
    )


@step("simulating storage in float16")
def _half_storage(graph: Float32Graph, truths: Truths, file: OnnxFile) -> Difference:
    """Return the error of the worst default image with every result rounded to float16."""
    half = to_precision(graph.model, Precision.FP16, Precision.FP32)
    simulated = serialized(rounding_model(half), file.path)
    candidate = Candidate(
        name="float16 storage",
        runner=isolated.open_runner(
            simulated.data, OnnxBackend.ONNXRUNTIME, is_own=True, title="it"
        ),
        precision=Precision.FP16,
    )
    probes = choose_probes(graph.reference.input_spec, data=file.data)
    report = verify(graph.reference, [candidate], probes, {Precision.FP16: (Finite(),)}, truths)
    return max((row.found for row in report.rows), key=lambda found: found.max_abs)


def _reach(file: OnnxFile) -> int | None:
    try:
        return field_of_file(file).margin
    except InexactTilesError:
        return None
