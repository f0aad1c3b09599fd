"""Console: what each command shows, as JSON for machines and as tables for people."""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from paragon_export.bench.report import BenchReport
from paragon_export.networks.describe import LoadedNetwork
from paragon_export.parity.report import ParityReport
from paragon_export.pipeline.results import QuantizeResult
from paragon_export.specs.network import NetworkSpec
from paragon_export.system.text import all_printable, finite, one_line, printable

if TYPE_CHECKING:
    import numpy as np

    from paragon_export.pipeline.fit_options import Fit
    from paragon_export.pipeline.glyph_chain import Named
    from paragon_export.pipeline.results import BuildResult, ExportResult
    from paragon_export.precision.range_report import RangeAudit

Document = dict[str, Any]


def show(as_json: bool, document: Document, table: Callable[[Console, Document], None]) -> None:
    """Print a document: JSON alone on stdout, or a table; notes always go to stderr.

    Whatever comes from a file is made printable first: a terminal obeys control characters.
    """
    notes = Console(stderr=True, soft_wrap=True, highlight=False)
    for note in document.get("notes", ()):
        notes.print(f"note: {one_line(note)}", markup=False, style="yellow")
    if as_json:
        _write_json(document)
    else:
        table(Console(highlight=False), all_printable(finite(document)))


def error_document(message: str) -> Document:
    """Return what ``--json`` prints where a command is refused: its one line, as on stderr."""
    return {"error": one_line(message)}


def show_error(message: str) -> None:
    """Print the document of a refusal on stdout."""
    _write_json(error_document(message))


def _write_json(document: Document) -> None:
    """Print one object of numbers, text and null: JSON has no NaN and no infinity."""
    sys.stdout.write(json.dumps(finite(document), indent=2, allow_nan=False) + "\n")


def _figure(value: float | None, form: str, null: str = "-") -> str:
    """Return a figure of a document for a table; ``null`` stands for one that is null."""
    return null if value is None else format(value, form)


# --- inspect ------------------------------------------------------------------------------


def inspection(network: LoadedNetwork, fits: Sequence[Fit] | None = None) -> Document:
    spec = network.spec
    document: Document = {
        "family": spec.architecture,
        "generation": spec.generation,
        "variant": spec.variant,
        "scale": spec.scale,
        "in_channels": spec.in_channels,
        "out_channels": spec.out_channels,
        "parameters": spec.parameters,
        **({"classes": spec.out_channels} if spec.task.is_classifier else {}),
        "sha256": network.checkpoint.sha256,
        "switches": _switches(spec),
        "needs": list(spec.needs),
        "notes": list(spec.notes),
    }
    if fits is not None:
        best = fits[0].over_bicubic_db
        document["probe"] = [
            {
                **fit.options,
                "psnr_y_db": fit.psnr_y_db,
                "over_bicubic_db": fit.over_bicubic_db,
                "below_best_db": best - fit.over_bicubic_db,
            }
            for fit in fits
        ]
    return document


def _switches(spec: NetworkSpec) -> Document:
    return {name: asdict(setting) for name, setting in spec.options.items()}


def inspection_table(console: Console, document: Document) -> None:
    if "classes" in document:
        kind = f"{document['classes']} classes"
        size = ""
    else:
        kind = f"{document['in_channels']} to {document['out_channels']} channels"
        size = f" {document['scale'] or '?'}x"
    console.print(
        f"[bold]{document['family']} {document['variant']}{size}[/bold], "
        f"generation {document['generation']}, {document['parameters']:,} parameters, {kind}"
    )
    console.print(f"sha256 {document['sha256']}")
    for need in document["needs"]:
        console.print(f"still needed: {need}", markup=False, style="red")
    table = Table("switch", "value", "from")
    for name, setting in document["switches"].items():
        style = "yellow" if setting["source"] == "default" else ""
        table.add_row(name, escape(f"{setting['value']}"), setting["source"], style=style)
    console.print(table)
    if "probe" in document:
        _probe_table(console, document["probe"])


def _probe_table(console: Console, fits: Sequence[Mapping[str, Any]]) -> None:
    names = [name for name in fits[0] if not name.endswith("_db")]
    headings = ("PSNR-Y dB", "over bicubic dB", "below best dB")
    table = Table(*names, *headings, title="fit on a photograph, best first")
    for fit in fits:
        values = [str(fit[name]) for name in names]
        figures = (fit[k] for k in ("psnr_y_db", "over_bicubic_db", "below_best_db"))
        table.add_row(*values, *(_figure(figure, ".3f", "inf") for figure in figures))
    console.print(table)
    console.print("A hint, not a proof: it holds for networks trained for fidelity.")


# --- onnx and parity ----------------------------------------------------------------------


def exported(result: ExportResult) -> Document:
    document = judged(result.parity, [result.output])
    document["notes"] = [*result.notes, *result.parity.notes]
    document["written"] = document["passed"] = result.passed
    if result.ranges is not None:
        document["audit"] = result.ranges.summary()
    document["rewrites"] = dict(result.fired)
    if result.drop_cost is not None:
        cost = {"max_abs": result.drop_cost.max_abs, "psnr_db": result.drop_cost.psnr_db}
        document["dropped"] = {"tensors": list(result.spec.dropped), "cost": cost}
    if isinstance(result, QuantizeResult):
        document["int8"] = dict(result.figures)
    return document


def judged(report: ParityReport, artifacts: Sequence[Path]) -> Document:
    document = {"artifacts": [str(path) for path in artifacts], **report.to_json()}
    assert report.spec is not None  # of a network, not of an ONNX file
    document["switches"] = _switches(report.spec)
    document["notes"] = [*report.spec.notes, *report.notes]
    return document


def parity_table(console: Console, document: Document) -> None:
    """One table for each candidate and output, narrow enough for 80 columns."""
    groups = itertools.groupby(
        document["rows"], lambda row: f"{row['candidate']} ({row['precision']}): {row['output']}"
    )
    for title, rows in groups:
        table = Table(
            title=escape(title), title_justify="left", title_style="bold", box=box.SIMPLE_HEAD
        )
        table.add_column("picture", overflow="fold")
        for heading in ("max err", "border", "PyTorch", "limit", "PSNR dB"):
            table.add_column(heading, justify="right")
        table.add_column("verdict")
        for row in rows:
            table.add_row(*_parity_cells(row))
        console.print(table)
    colour, word = ("green", "PASSED") if document["passed"] else ("red", "FAILED")
    console.print(f"[{colour} bold]{word}[/]: {_what_decides(document['rows'])}")
    for finding in document["looks_like"]:
        seen = f"{finding['symptom']} ({finding['detail']})".removesuffix(" ()")
        told = f"{finding['candidate']}: {finding['output']} looks like {seen}"
        console.print(told, markup=False, style="red")


def _what_decides(rows: Sequence[Mapping[str, Any]]) -> str:
    is_logits = any("wrong_top1" in row for row in rows)
    if any(row["precision"] == "int8" for row in rows):
        what = "the best class" if is_logits else "the worst picture"
        return f"{what} on inputs held back from calibration decides"
    counts = "logit and best class" if is_logits else "pixel"
    return f"every {counts} counts, the worst case decides"


def _parity_cells(row: Mapping[str, Any]) -> list[str]:
    figures = (row[k] for k in ("max_abs", "border_max_abs", "reference_max_abs", "limit"))
    verdict = "[green]passed[/]" if row["passed"] else f"[red]{escape(row['failure'])}[/]"
    several = f" x{row['batch']}" if row["batch"] > 1 else ""
    return [
        f"{escape(row['picture'])} {row['size']}{several}",
        *(_figure(figure, ".1e") for figure in figures),
        _figure(row["psnr_db"], ".1f", "inf" if row["max_abs"] == 0 else "-"),
        verdict if row["judged"] else "[yellow]diverges[/]",
    ]


def export_table(console: Console, document: Document) -> None:
    parity_table(console, document)
    if document["rewrites"]:
        told = ", ".join(f"{name} {count}" for name, count in document["rewrites"].items())
        console.print(f"rewritten before export: {told}", markup=False)
    if "audit" in document:
        for line in _audit_lines(document["audit"]):
            console.print(line, markup=False)
    target = document["artifacts"][0]
    if document["written"]:
        console.print(f"wrote {target}", markup=False)
    else:
        console.print(f"{target} was not written", markup=False, style="red")


# --- audit --------------------------------------------------------------------------------

SHOWN = 20
"""Tensors that the table of an audit shows; the JSON has them all."""


def audited(ranges: RangeAudit) -> Document:
    return {**ranges.to_json(), "notes": list(ranges.notes)}


def audit_table(console: Console, document: Document) -> None:
    """Show the most critical tensors, least headroom first, and all whose error was measured."""
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("tensor", overflow="fold", min_width=24)
    for heading in ("peak", "headroom", "underflow", "error"):
        table.add_column(heading, justify="right")
    table.add_column("on", overflow="fold", min_width=12)
    cells = dict.fromkeys(_audit_cells(row) for row in _distinct(document["rows"]))
    shown = [row for index, row in enumerate(cells) if index < SHOWN or row[4]]
    for row in shown:
        table.add_row(*row)
    console.print(table)
    left = len(document["rows"]) - len(shown)
    if left > 0:
        console.print(f"and {left} with as much headroom or more, or in float32")
    for line in _audit_lines(document):
        console.print(line, markup=False)
    if document["islands"]:
        islands = Table("float32 island", "because", "largest", box=box.SIMPLE_HEAD)
        for island in document["islands"]:
            names = escape(island["node"]), escape(island["because"])
            islands.add_row(*names, _figure(island["peak"], ".3g", "inf"))
        console.print(islands)
    colour, word = ("green", "PASSED") if document["passed"] else ("red", "FAILED")
    how = "with the islands above" if document["islands"] else "no float32 island needed"
    console.print(f"[{colour} bold]{word}[/]: {escape(document['fault']) or how}")


def _distinct(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Leave out what only moves the values of another tensor, but keep measured errors."""
    first: dict[Any, Mapping[str, Any]] = {}
    for row in rows:
        figures = row["peak"], row["underflow"], row["picture"], row["half"], row["error_share"]
        first.setdefault(figures, row)
    return list(first.values())


def _audit_cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    share = row["error_share"]
    headroom = _figure(row["headroom"], ".3g", "inf") + "x" if row["half"] else "float32"
    headroom = "mask" if row["half"] and row["peak"] is None else headroom
    return (
        escape(row["name"]),
        _figure(row["peak"], ".3g", "inf"),
        headroom,
        f"{row['underflow']:.2%}",
        "" if share is None else f"{share:.1%}",
        escape(row["picture"] or row["op_type"]),
    )


def _audit_lines(audit: Mapping[str, Any]) -> list[str]:
    """Say in a line or two what decides."""
    tightest, thinnest, coarsest = (audit[k] for k in ("tightest", "thinnest", "coarsest"))
    lines = []
    if tightest and thinnest:
        where = f" on {tightest['picture']}" if tightest["picture"] else ""
        lines.append(
            f"{audit['precision']} ranges of {audit['tensors']} tensors: least headroom "
            f"{_figure(tightest['headroom'], '.3g', 'inf')}x at {tightest['name']}, which reaches "
            f"{_figure(tightest['peak'], '.3g', 'inf')}{where}; most underflow "
            f"{thinnest['underflow']:.2%} of {thinnest['name']}"
        )
    if coarsest:
        lines.append(
            f"largest share of the error: {coarsest['error_share']:.1%} from rounding "
            f"{coarsest['name']}"
        )
    if audit["diverged"]:
        beyond = len(audit["beyond_where_diverged"])
        lines.append(
            f"the network itself diverges on {', '.join(audit['diverged'])}, which do not count; "
            f"{beyond} tensors leave the range of {audit['precision']} there"
        )
    return lines


# --- trt ----------------------------------------------------------------------------------


def built(result: BuildResult) -> Document:
    manifest = result.manifest.to_document() if result.manifest else {}
    doubt = manifest.get("planned_memory_doubt") or ""
    return {
        "engine": str(result.engine),
        "manifest": str(result.engine) + ".json",
        "target": manifest.get("target"),
        "planned_device_memory_bytes": manifest.get("planned_device_memory_bytes"),
        "planned_memory_doubt": doubt,
        "cached": result.cached,
        "reason": result.reason,
        "passed": result.passed,
        "onnx": manifest.get("onnx"),
        "profile": manifest.get("profile"),
        "precision": manifest.get("precision"),
        "tensorrt": f"{manifest.get('backend')} {manifest.get('tensorrt')}",
        "tensorrt_warnings": manifest.get("tensorrt_warnings", []),
        "parity": result.parity.to_json() if result.parity else manifest.get("parity"),
        "notes": [*result.notes, *([doubt] if doubt else [])],
    }


def build_table(console: Console, document: Document) -> None:
    parity = document["parity"] or {}
    if "rows" in parity:
        parity_table(console, parity)
    if document["passed"] is False:
        console.print(f"{document['engine']} was not written", markup=False, style="red")
        return
    table = Table(show_header=False)
    table.add_row("engine", escape(document["engine"]))
    why = "reused" if document["cached"] else "built because"
    table.add_row(why, escape(document["reason"]))
    table.add_row("target", escape(f"{document['target']}, TensorRT {document['tensorrt']}"))
    profile = ", ".join(f"{k} {v}" for k, v in document["profile"].items())
    table.add_row("profile", escape(profile))
    planned = document["planned_device_memory_bytes"]
    table.add_row("planned memory", f"{planned / 2**20:.0f} MiB" if planned else "unknown")
    judged_words = {True: "passed", None: "not judged: give --checkpoint"}[document["passed"]]
    table.add_row("parity of the ONNX file", judged_words)
    for warning in document["tensorrt_warnings"]:
        table.add_row("TensorRT warns", escape(str(warning)))
    console.print(table)


# --- glyphs -------------------------------------------------------------------------------


def glyphs(
    rasters: Sequence[Path],
    grids: np.ndarray,
    named: Sequence[Sequence[Named]],
    backend: str,
    notes: Sequence[str],
) -> Document:
    return {
        "glyphs": [
            {"raster": str(raster), "top": [asdict(name) for name in names], "grid": grid.tolist()}
            for raster, names, grid in zip(rasters, named, grids, strict=True)
        ],
        "backend": backend,
        "notes": list(notes),
    }


def glyphs_table(console: Console, document: Document) -> None:
    table = Table("raster", "rank", "class", "label")
    table.add_column("probability", justify="right")
    for glyph in document["glyphs"]:
        table.add_section()
        for name in glyph["top"]:
            first = escape(glyph["raster"]) if name["rank"] == 1 else ""
            figures = str(name["rank"]), str(name["index"]), escape(name["label"])
            table.add_row(first, *figures, f"{name['probability']:.4f}")
    console.print(table)


# --- bench --------------------------------------------------------------------------------


def bench_table(console: Console, document: Document) -> None:
    table = Table("backend", "size")
    for heading in ("fps", "median ms", "p95 ms", "peak MiB"):
        table.add_column(heading, justify="right")
    for artifact, rows in itertools.groupby(document["rows"], lambda row: row["artifact"]):
        table.add_section()
        table.add_row(f"[bold]{escape(artifact)}[/]")
        for row in rows:
            if "reason" not in row:
                table.add_row(row["backend"], _extent(row), *_bench_cells(row))
    console.print(table)
    for row in document["rows"]:
        if "reason" in row:
            console.print(
                f"not run: {row['backend']} on {row['artifact']} at {_extent(row)}: {row['reason']}",
                markup=False,
            )
    gpu = document["environment"]["gpu"] or "no GPU: nothing here ran on one"
    console.print(f"{document['environment']['processor']}, {gpu}")


def _extent(row: Mapping[str, Any]) -> str:
    """Say how much is computed at a time: a picture of a size, or a batch of glyphs."""
    return f"{row['size']} x{row['batch']}" if "batch" in row else str(row["size"])


def _bench_cells(row: Mapping[str, Any]) -> list[str]:
    if "reason" in row:
        return ["-", "-", "-", row["reason"]]
    memory = row["peak_memory_mib"]
    return [
        f"{row['fps']:.2f}",
        f"{row['median_ms']:.1f}",
        f"{row['p95_ms']:.1f}",
        "unknown" if memory is None else f"{memory:.0f}",
    ]


def bench_markdown(report: BenchReport) -> str:
    """Return the report as a Markdown document."""
    document = report.to_json()
    lines = [
        "| artifact | backend | size | fps | median ms | p95 ms | peak MiB |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in document["rows"]:
        cells = [row["artifact"], row["backend"], _extent(row), *_bench_cells(row)]
        lines.append("| " + " | ".join(printable(c.replace("|", "/")) for c in cells) + " |")
    facts = document["environment"]
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    lines += [
        "",
        f"Measured {facts['time']} on {facts['processor']}, {facts['cores']} cores, "
        f"{facts['platform']}; GPU: {facts['gpu'] or 'none'}.",
        f"{versions}.",
        "Samples of all backends alternate in one run, each warmed up at its size. Peak MiB is "
        "the growth of the process's resident memory while the backend was opened and warmed up.",
        "",
    ]
    return "\n".join(lines)
