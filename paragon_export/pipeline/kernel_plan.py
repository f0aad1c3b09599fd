"""Plan an engine without a GPU: its compiled kernels, counted, and estimated for cards."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paragon_export.engines.kernels.cards import CARDS, Card, cards_of, find_card, seconds
from paragon_export.engines.kernels.compile import compile_kernels
from paragon_export.engines.kernels.count import Work, work_of
from paragon_export.engines.kernels.estimate import Estimate
from paragon_export.engines.kernels.listing import Kernel
from paragon_export.errors import PlanError, RunError
from paragon_export.graph.onnx_io import OnnxFile, is_onnx, read_onnx_file
from paragon_export.specs.plans import ExportPlan, NetworkOptions
from paragon_export.specs.profiles import Profile
from paragon_export.specs.types import (
    ENGINE_SUFFIXES,
    TARGETS,
    Backend,
    Precision,
    Runtime,
    Size,
)
from paragon_export.system.progress import step

if TYPE_CHECKING:
    from paragon_export.engines.manifest import Manifest


@dataclass(frozen=True, kw_only=True)
class KernelPlan:
    """The kernels of one file for one size and one card."""

    card: Card
    estimate: Estimate
    kernels: tuple[tuple[Kernel, Work], ...] = ()
    """Those that are launched, in the order of the engine; empty if only the sums are known."""
    remark: str = ""
    """Why the engine that was asked about does not run so: its profile or target; empty if it does."""

    @property
    def size(self) -> Size:
        return self.estimate.size

    @property
    def works(self) -> list[Work]:
        """What each kernel moves and computes."""
        return [work for _, work in self.kernels]

    @property
    def milliseconds(self) -> float:
        """Estimated time of one run."""
        return self.estimate.estimated_ms

    def to_json(self) -> dict[str, Any]:
        """Return the plan as a JSON document: bytes, operations and milliseconds."""
        return {
            **self.estimate.to_document(),
            "source_of_card": self.card.source,
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
    """Compile a file for each size and card, and count the kernels. Nothing is written or run.

    Of an engine, the ONNX file that its manifest names is compiled; if it is gone or changed, the
    manifest's estimates are returned, without kernels. Sizes and cards that the engine is not for are
    planned too, with a ``remark``.

    Args:
        source: A checkpoint, an ONNX file or an engine.
        sizes: Input sizes; none for that of a static file, an engine's optimal one, or 1080x1920.
        cards: Names such as ``3060``; none for all of ``CARDS``, or those an engine runs on.
        precision: Of a checkpoint's export. Other sources are compiled as they are.
        rewrite: Export a checkpoint in the form that is made for TensorRT.
        options: Of the checkpoint's network.

    Returns:
        A plan for each size and card, sizes first.

    Raises:
        ParagonExportError: If the arguments do not fit, or TensorRT cannot compile the file.
    """
    options = options or NetworkOptions()
    wanted, chosen = list(dict.fromkeys(sizes)), list(dict.fromkeys(map(find_card, cards)))
    is_plain = precision is Precision.FP32 and rewrite and not (options.flags or options.config)
    is_engine = source.suffix in ENGINE_SUFFIXES
    if not is_plain and (is_engine or is_onnx(source)):
        raise PlanError(f"{source} is compiled as it is; options of an export need a checkpoint")
    if is_engine:
        return _of_engine(source, wanted, chosen)
    file = replace(_file(source, precision, rewrite, options), path=source)  # as messages name it
    return _of_file(file, wanted, chosen or list(CARDS.values()))


def estimate_engine(file: OnnxFile, targets: Iterable[str], size: Size) -> tuple[Estimate, ...]:
    """Return an engine's estimates for its manifest: at one size, for each card it runs on.

    An engine of many sizes lists no sizes of its kernels, so its ONNX file is compiled again, once
    for each generation of cards.

    Args:
        file: The ONNX file that the engine was compiled from.
        targets: The engine's targets; none for Ampere and later.
        size: The size that the engine is tuned for.

    Raises:
        ParagonExportError: If TensorRT cannot compile the file, or its list is not understood.
    """
    return tuple(plan.estimate for plan in _of_file(file, [size], cards_of(targets)))


def _of_file(file: OnnxFile, sizes: list[Size], cards: list[Card]) -> list[KernelPlan]:
    if file.task.is_classifier:
        raise PlanError(f"{file.path} is a glyph classifier; plan is for networks of pictures")
    wanted = sizes or [file.static or Size(1080, 1920)]
    return [plan for size in wanted for plan in _plans(file, size, cards)]


def _plans(file: OnnxFile, size: Size, cards: Iterable[Card]) -> Iterator[KernelPlan]:
    """Yield a plan for each card. The file is compiled once for each generation of cards."""
    compiled: dict[str, tuple[tuple[Kernel, Work], ...]] = {}
    for card in cards:
        if card.target not in compiled:
            with step(f"counting kernels for {card.target} at {size}"):
                kernels = compile_kernels(file, card.target, size)
            compiled[card.target] = tuple((k, work_of(k)) for k in kernels if k.is_launch)
        launched = compiled[card.target]
        yield KernelPlan(card=card, estimate=Estimate.of(size, card, launched), kernels=launched)


def _of_engine(source: Path, sizes: list[Size], cards: list[Card]) -> list[KernelPlan]:
    """Plan an engine by its manifest. The engine itself is not loaded."""
    from paragon_export.engines.manifest import read_engine

    engine = read_engine(source)
    manifest = engine.manifest
    if manifest is None or engine.mismatch:
        raise PlanError(
            f"{source} has no manifest that matches its bytes ({engine.mismatch}); give its ONNX "
            "file, or build it again with trt"
        )
    if manifest.backend is not Backend.RTX:
        raise PlanError(
            f"{source} is of full TensorRT, which chooses kernels on the card; give its ONNX file to "
            "plan what TensorRT-RTX compiles"
        )
    if file := _compiled_file(source, manifest):
        optimal = getattr(manifest.profile, "optimal", None)
        tuned_for = [optimal] if isinstance(optimal, Size) else []
        targets = [target for target in str(manifest.target).split(",") if target in TARGETS]
        chosen = cards or cards_of(targets)
        if not chosen:
            raise PlanError(
                f"{source} is for {manifest.target}, and no card of it is known; give --card"
            )
        planned = _of_file(file, sizes or tuned_for, chosen)
        return [replace(one, remark=_remark(source, manifest, targets, one)) for one in planned]
    known = {(one.size, one.card): one for one in manifest.kernels if one.card in CARDS}
    wanted_sizes = sizes or list(dict.fromkeys(size for size, _ in known))
    wanted_cards = [card.name for card in cards] or list(dict.fromkeys(card for _, card in known))
    wanted = [(size, card) for size in wanted_sizes for card in wanted_cards]
    if not wanted or not set(wanted) <= set(known):
        raise PlanError(
            f"{source} lists no kernels, its ONNX file ({manifest.onnx}) is gone or changed, and its "
            f"manifest {_what(known)}; give the ONNX file or the checkpoint"
        )
    return [KernelPlan(card=CARDS[card], estimate=known[size, card]) for size, card in wanted]


def _remark(source: Path, manifest: Manifest, targets: list[str], plan: KernelPlan) -> str:
    """Return why an engine does not run at the size or on the card of a plan; empty if it does."""
    profile, reasons = manifest.profile, []
    if isinstance(profile, Profile) and not profile.accepts(plan.size):
        ranges = " or ".join(f"{one.smallest} to {one.largest}" for one in profile.all)
        reasons.append(f"accepts {ranges}, not {plan.size}")
    if plan.card not in cards_of(targets):
        reasons.append(
            f"is for {manifest.target}, not the {plan.card.target} of the {plan.card.name}"
        )
    text = f"{source} {'; it '.join(reasons)}: the plan is of another engine of its ONNX file"
    return text if reasons else ""


def _what(known: Collection[tuple[Size, str]]) -> str:
    cards = ", ".join(dict.fromkeys(card for _, card in known))
    sizes = ", ".join(dict.fromkeys(str(size) for size, _ in known))
    return f"has estimates at {sizes} for {cards} only" if cards else "has no estimates"


def _compiled_file(source: Path, manifest: Manifest) -> OnnxFile | None:
    """Return the ONNX file that an engine was compiled from; None if it is gone or changed."""
    with suppress(PlanError, RunError, OSError, ValueError):  # the name may be invalid
        file = read_onnx_file(source.parent / str(manifest.onnx))
        return file if file.sha256 == manifest.onnx_sha256 else None
    return None


def _file(source: Path, precision: Precision, rewrite: bool, options: NetworkOptions) -> OnnxFile:
    """Read an ONNX file, or export a checkpoint without judging it."""
    if is_onnx(source):
        return read_onnx_file(source)
    from paragon_export.networks.describe import read_network
    from paragon_export.pipeline.export import with_tracer
    from paragon_export.pipeline.float32_graph import finish, float32_graph
    from paragon_export.precision.half import to_precision

    plan = ExportPlan(
        checkpoint=source, output=Path("plan.onnx"), options=options, precision=precision,
        rewrite=rewrite, runtime=Runtime.TENSORRT if rewrite else Runtime.ANY,
    )  # fmt: skip
    network = read_network(source, options)
    plan = with_tracer(network, plan)
    graph = float32_graph(network, plan)
    return finish(graph, to_precision(graph.model, precision, plan.io), plan)
