"""Plan an engine without a GPU: its compiled kernels, counted, and estimated for cards."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paragon_export.engines.kernels.cards import CARDS, Card, find_card, seconds, total_seconds
from paragon_export.engines.kernels.compile import compile_kernels
from paragon_export.engines.kernels.count import Work, work_of
from paragon_export.engines.kernels.listing import Kernel
from paragon_export.errors import PlanError
from paragon_export.graph.onnx_io import OnnxFile, is_onnx, read_onnx_file
from paragon_export.specs.plans import ExportPlan, NetworkOptions
from paragon_export.specs.types import ENGINE_SUFFIXES, Precision, Runtime, Size

BASIS = "estimated from the compiled kernels, not run"


@dataclass(frozen=True, kw_only=True)
class KernelPlan:
    """The kernels of one file for one size and one card."""

    size: Size
    card: Card
    kernels: tuple[tuple[Kernel, Work], ...]
    """Those that are launched, in the order of the engine."""

    @property
    def works(self) -> list[Work]:
        return [work for _, work in self.kernels]

    @property
    def milliseconds(self) -> float:
        """Estimated time of one run."""
        return total_seconds(self.card, self.works) * 1e3

    @property
    def streams(self) -> int:
        return len({kernel.stream for kernel, _ in self.kernels})

    @property
    def unknown(self) -> int:
        """Number of kernels with a product whose FLOPs are not known."""
        return sum(work.flops is None for work in self.works)

    def groups(self) -> dict[str, float]:
        """Return the estimated milliseconds by kind of kernel, the longest first."""
        found: dict[str, float] = {}
        for work in self.works:
            found[work.group] = found.get(work.group, 0.0) + seconds(self.card, work) * 1e3
        return dict(sorted(found.items(), key=lambda item: -item[1]))

    def to_json(self) -> dict[str, Any]:
        """Return the plan as a JSON document: bytes, operations and milliseconds."""
        return {
            "size": str(self.size), "card": self.card.name, "target": self.card.target,
            "source_of_card": self.card.source, "launches": len(self.kernels),
            "streams": self.streams, "bytes_read": sum(w.read for w in self.works),
            "bytes_written": sum(w.written for w in self.works),
            "flops": sum(w.flops or 0 for w in self.works),
            "kernels_of_unknown_flops": self.unknown,
            "estimated_ms": self.milliseconds, "estimated_ms_by_group": self.groups(),
            "kernels": [
                {
                    "name": kernel.name, "type": kernel.type, "group": work.group,
                    "nodes": kernel.nodes, "stream": kernel.stream, "bytes_read": work.read,
                    "bytes_written": work.written, "flops": work.flops,
                    "estimated_ms": seconds(self.card, work) * 1e3,
                }
                for kernel, work in self.kernels
            ],
        }  # fmt: skip


def plan_kernels(
    source: Path,
    *,
    sizes: Iterable[Size] = (),
    cards: Iterable[str] = (),
    precision: Precision = Precision.FP32,
    rewrite: bool = True,
    options: NetworkOptions | None = None,
) -> list[KernelPlan]:
    """Compile a checkpoint or an ONNX file for each size and card, and count the kernels.

    Nothing is judged, written or run. Cards of one generation share an engine.

    Args:
        source: A checkpoint or an ONNX file.
        sizes: Input sizes; none for the size of a static file, or else 1080x1920.
        cards: Names such as ``3060``; none for all of ``CARDS``.
        precision: Of a checkpoint's export. An ONNX file is compiled as it is.
        rewrite: Export a checkpoint in the form that is made for TensorRT.
        options: Of the checkpoint's network.

    Returns:
        A plan for each size and card, sizes first.

    Raises:
        ParagonExportError: If the arguments do not fit, or TensorRT cannot compile the file.
    """
    chosen = list(dict.fromkeys(find_card(name).name for name in cards)) or list(CARDS)
    file = _file(source, precision, rewrite, options or NetworkOptions())
    if file.task.is_classifier:
        raise PlanError(f"{file.path} is a glyph classifier; plan is for networks of pictures")
    wanted = list(dict.fromkeys(sizes)) or [file.static or Size(1080, 1920)]
    return [plan for size in wanted for plan in _plans(file, size, [CARDS[n] for n in chosen])]


def _plans(file: OnnxFile, size: Size, cards: Iterable[Card]) -> Iterator[KernelPlan]:
    """Yield a plan for each card. The file is compiled once for each generation of cards."""
    compiled: dict[str, tuple[Kernel, ...]] = {}
    for card in cards:
        if card.target not in compiled:
            compiled[card.target] = compile_kernels(file, card.target, size)
        launched = ((k, work_of(k)) for k in compiled[card.target] if k.is_launch)
        yield KernelPlan(size=size, card=card, kernels=tuple(launched))


def _file(source: Path, precision: Precision, rewrite: bool, options: NetworkOptions) -> OnnxFile:
    if source.suffix in ENGINE_SUFFIXES:
        raise PlanError(f"{source} is an engine, which lists no kernels; give its ONNX file")
    if is_onnx(source):
        if precision is not Precision.FP32 or not rewrite or options.flags or options.config:
            raise PlanError(
                f"{source} is compiled as it is; precision, --no-rewrite and the options of a "
                "network need a checkpoint"
            )
        return read_onnx_file(source)
    from paragon_export.networks.describe import read_network
    from paragon_export.pipeline.float32_graph import finish, float32_graph
    from paragon_export.precision.half import to_precision

    plan = ExportPlan(
        checkpoint=source, output=Path("plan.onnx"), options=options, precision=precision,
        rewrite=rewrite, runtime=Runtime.TENSORRT if rewrite else Runtime.ANY,
    )  # fmt: skip
    graph = float32_graph(read_network(source, options), plan)
    return finish(graph, to_precision(graph.model, precision, plan.io), plan)
