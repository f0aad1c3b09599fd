"""Documents of measurements: what ``bench``, ``plan`` and ``audit`` say."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from paragon_export.bench.report import BenchReport, BenchRow
from paragon_export.engines.kernels.cards import seconds
from paragon_export.engines.kernels.estimate import BASIS, Estimate, rounded
from paragon_export.precision.range_report import RangeAudit, TensorRange
from paragon_export.reports import provenance
from paragon_export.reports.document import Code, Document, Plot, Table, Text
from paragon_export.reports.plots.kernels import kernel_plot
from paragon_export.reports.plots.results import latency_plot, range_plot
from paragon_export.system.text import figure

if TYPE_CHECKING:
    from paragon_export.pipeline.kernel_plan import KernelPlan

MAX_TENSORS, MAX_KERNELS = 40, 20
"""Rows of the tables of tensors and kernels."""


# --- bench -----------------------------------------------------------------------------------


def of_bench(
    report: BenchReport, files: Iterable[Path] = (), notes: Sequence[str] = ()
) -> Document:
    """Return the document of a benchmark. ``notes`` say what makes its figures doubtful."""
    ran = [row for row in report.rows if row.samples_ms]
    plots = [
        Plot(
            caption="Latencies", svg=latency_plot(ran),
            about=("Samples of all backends alternate in one run. Compare within this report only.",),
        )
    ] if ran else []  # fmt: skip
    estimates = (f"Estimated ms: {BASIS}.",) if report.has_estimates else ()
    return Document(
        command="bench",
        passed=None,
        verdict=_fastest(ran),
        notes=(*notes, *estimates),
        plots=tuple(plots),
        tables=(_bench_rows(report),),
        provenance=(*provenance.of_files(files), *provenance.of_machine(report.environment)),
    )


def _fastest(ran: Sequence[BenchRow]) -> Text:
    if not ran:
        return ("nothing could be measured.",)
    best = max(ran, key=lambda row: row.fps)
    unit = "images a second" if best.batch is None else "items a second"
    where = f" at {extent_of(best)}: {best.fps:.3g} {unit}, median {best.median_ms:.3g} ms."
    return ("most throughput: ", Code(best.artifact), " in ", Code(best.backend), where)


def _bench_rows(report: BenchReport) -> Table:
    heads = bench_heads(report)
    rows = []
    for row in report.rows:
        names = (Code(row.artifact), Code(row.backend), extent_of(row))
        rows.append((*names, *bench_figures(row, report), Code(row.reason) if row.reason else ""))
    return Table(
        caption="Every backend",
        heads=("file", "backend", "size", *heads, "not run"),
        rows=tuple(rows),
        figures=frozenset(range(3, 3 + len(heads))),
        short=40,
    )


def extent_of(row: BenchRow) -> str:
    """Say how much is computed at a time: an image of a size, or a batch."""
    return str(row.size) if row.batch is None else f"{row.size} x{row.batch}"


def bench_heads(report: BenchReport) -> tuple[str, ...]:
    """Return the heads of the figures of a benchmark."""
    estimated = ("estimated ms",) if report.has_estimates else ()
    return ("fps", "median ms", "p95 ms", *estimated, "peak MiB")


def bench_figures(row: BenchRow, report: BenchReport) -> tuple[str, ...]:
    """Return the figures of a row, one for each head; dashes if it was not measured."""
    if row.reason:
        return ("-",) * len(bench_heads(report))
    memory = row.peak_memory_mib
    return (
        f"{row.fps:.2f}",
        f"{row.median_ms:.1f}",
        f"{row.p95_ms:.1f}",
        *((figure(row.estimated_ms, ".3g"),) if report.has_estimates else ()),
        "unknown" if memory is None else f"{memory:.0f}",
    )


# --- plan ------------------------------------------------------------------------------------


def of_plan(plans: Sequence[KernelPlan], files: Sequence[Path] = ()) -> Document:
    """Return the document of the kernels of one file. ``plans`` has at least one element."""
    name = _first_name(files)
    estimates = [one.estimate for one in plans]
    first = estimates[0]
    sentence = (
        f": an estimated {rounded(first.estimated_ms)} ms at {first.size} on {first.card}, "
        f"by {first.launches} kernels; nothing was run."
    )
    longest = [_longest(plans[0])] if plans[0].kernels else []
    plot = Plot(caption="Kernels", svg=kernel_plot(estimates, name), about=(f"{BASIS}.",))
    return Document(
        command="plan",
        passed=None,
        outcome="estimated",
        verdict=(Code(name), sentence),
        plots=(plot,),
        tables=(_estimates(estimates), *longest),
        provenance=(*provenance.of_files(files), *provenance.of_machine()),
    )


def _first_name(files: Sequence[Path]) -> str:
    """Return the name of what was measured."""
    return files[0].name if files else "the network"


def _estimates(estimates: Sequence[Estimate]) -> Table:
    sums = ("kernels", "streams", "GB read", "GB written", "TFLOP", "estimated ms")
    rows = tuple(
        (str(one.size), Code(one.card), str(one.launches), str(one.streams), *map(rounded, (
            one.bytes_read / 1e9, one.bytes_written / 1e9, one.flops / 1e12, one.estimated_ms,
        )))
        for one in estimates
    )  # fmt: skip
    return Table(
        caption="Sizes and cards", heads=("size", "card", *sums), rows=rows,
        figures=frozenset(range(2, 2 + len(sums))), short=20,
    )  # fmt: skip


def _longest(plan: KernelPlan) -> Table:
    figures = ("MB read", "MB written", "GFLOP", "estimated ms")
    ranked = sorted(plan.kernels, key=lambda one: -seconds(plan.card, one[1]))[:MAX_KERNELS]
    rows = tuple(
        (
            Code(kernel.name), work.group, f"{work.read / 1e6:.3g}", f"{work.written / 1e6:.3g}",
            "unknown" if work.flops is None else f"{work.flops / 1e9:.3g}",
            f"{seconds(plan.card, work) * 1e3:.3g}", Code(", ".join(kernel.nodes)),
        )
        for kernel, work in ranked
    )  # fmt: skip
    return Table(
        caption=f"Longest kernels at {plan.size} on {plan.card.name}",
        heads=("kernel", "group", *figures, "ONNX nodes"),
        rows=rows,
        figures=frozenset(range(2, 2 + len(figures))),
        short=5,
    )


# --- audit -----------------------------------------------------------------------------------


def of_audit(ranges: RangeAudit, files: Sequence[Path] = ()) -> Document:
    """Return the document of a range audit."""
    return Document(
        command="audit",
        passed=ranges.passed,
        verdict=_fits(ranges, _first_name(files)),
        notes=(*audit_lines(ranges), *ranges.notes),
        plots=(ranges_plotted(ranges),),
        tables=tuple(range_tables(ranges)),
        provenance=(*provenance.of_files(files), *provenance.of_machine()),
    )


def _fits(ranges: RangeAudit, name: str) -> Text:
    tightest = ranges.tightest
    if not ranges.passed:
        return (Code(name), f" does not fit into {ranges.precision}: ", Code(ranges.fault), ".")
    islands = f" with {len(ranges.islands)} nodes in float32" if ranges.islands else ""
    if tightest is None:
        return (Code(name), f" fits into {ranges.precision}{islands}.")
    headroom = f", with a headroom of {figure(tightest.headroom, '.3g', 'inf')} at "
    return (
        Code(name),
        f" fits into {ranges.precision}{islands}{headroom}",
        Code(tightest.name),
        ".",
    )


def ranges_plotted(ranges: RangeAudit) -> Plot:
    """Return the plot of all ranges."""
    return Plot(
        caption=f"Ranges against {ranges.precision}",
        svg=range_plot(ranges),
        about=(f"The largest magnitude of {len(ranges.tensors)} tensors on all images.",),
    )


def range_tables(ranges: RangeAudit) -> list[Table]:
    """Return the most critical tensors, and the float32 islands if there are any."""
    tensors = Table(
        caption="Tensors with the least headroom",
        heads=("tensor", "peak", "headroom", "underflow", "error", "on"),
        rows=tuple(tuple(map(_marked, range_cells(row))) for row in ranges.ranked[:MAX_TENSORS]),
        figures=frozenset({1, 2, 3, 4}),
    )
    if not ranges.islands:
        return [tensors]
    islands = tuple(
        (Code(each.node), Code(each.because), figure(each.peak, ".3g", "inf"))
        for each in ranges.islands
    )
    heads = ("float32 island", "because", "largest")
    return [
        tensors,
        Table(caption="Nodes in float32", heads=heads, rows=islands, figures=frozenset({2})),
    ]


def _marked(cell: str) -> str:
    return Code(cell) if cell else ""


def range_cells(row: TensorRange) -> tuple[str, ...]:
    """Return a tensor's name, peak, headroom, underflow, error share and image as text."""
    headroom = figure(row.headroom, ".3g", "inf") + "x" if row.is_half else "float32"
    return (
        row.name,
        figure(row.peak, ".3g", "inf"),
        "mask" if row.is_half and not row.is_finite else headroom,
        f"{row.underflow:.2%}",
        "" if row.error_share is None else f"{row.error_share:.1%}",
        row.picture or row.op_type,
    )


def audit_lines(ranges: RangeAudit) -> list[str]:
    """Say in a line or two what decides."""
    tightest, thinnest, coarsest = ranges.tightest, ranges.thinnest, ranges.coarsest
    lines = []
    if tightest and thinnest:
        where = f" on {tightest.picture}" if tightest.picture else ""
        lines.append(
            f"{ranges.precision} ranges of {len(ranges.tensors)} tensors: least headroom "
            f"{figure(tightest.headroom, '.3g', 'inf')}x at {tightest.name}, which reaches "
            f"{figure(tightest.peak, '.3g', 'inf')}{where}; most underflow "
            f"{thinnest.underflow:.2%} of {thinnest.name}"
        )
    if coarsest and coarsest.error_share is not None:
        lines.append(
            f"largest share of the error: {coarsest.error_share:.1%} from rounding {coarsest.name}"
        )
    if ranges.diverged:
        beyond = len(ranges.beyond_where_diverged)
        lines.append(
            f"the network itself diverges on {', '.join(ranges.diverged)}, which do not count; "
            f"{beyond} tensors leave the range of {ranges.precision} there"
        )
    return lines
