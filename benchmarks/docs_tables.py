"""Write the tables of README, SECURITY and docs from the result files: no figure is typed by hand.

A document holds blocks between ``<!-- results: NAME -->`` and ``<!-- end -->``. NAME is a row of
``TABLES``, whose result file is ``results/NAME.json``, or ``headline``. A block starts with one
sentence that gives the conclusion; its figures are computed from the same rows. A block of the name
``conclusion_NAME`` holds this sentence alone.
"""

from __future__ import annotations

import json
import math
import re
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent

RESULTS = ROOT / "benchmarks" / "results"

BLOCK = re.compile(r"(<!-- results: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)

Row = Mapping[str, Any]

Rows = Sequence[Row]

CONCLUSION = "conclusion_"
"""Start of the name of a block that holds the conclusion of a table alone."""

NETWORK = {"variant": "variant", "scale": "scale", "size": "input HxW (px)"}
"""Heads that several tables share."""

V5_SIZES = ("nano", "micro", "tiny", "xs", "s", "m", "l", "xl")

NAMES = {
    "ONNX Runtime, made for it": "ONNX Runtime, `--for onnxruntime`",
    "ONNX Runtime, plain": "ONNX Runtime, plain export",
    "TensorRT-RTX FP16, planned": "TensorRT-RTX FP16 (planned, not measured)",
    "TensorRT-RTX FP16, planned, plain": "TensorRT-RTX FP16, plain export (planned)",
    "TensorRT-RTX FP16, planned, made for it": "TensorRT-RTX FP16, `--for tensorrt` (planned)",
    "torch dynamo": "PyTorch, dynamo",
    "EngineBuildError: TensorRT did not say how much memory it plans": "not known",
}
"""Values of result files that a table shows in other words."""

FIGURE = re.compile(r"-?\d(\.\d+)?e[+-]\d\d|inf")
"""A number that a result file holds as text."""


@dataclass(frozen=True)
class Table:
    """How the rows of a result file are shown."""

    heads: Mapping[str, str]
    """Key of a result row to the head of its column, in the order of the columns."""
    conclusion: Callable[[Rows], str]
    """Returns the sentence above the table."""
    measured: tuple[str, ...] = ()
    """Keys whose whole numbers are measurements: rounded to three digits as well."""
    is_compiled: bool = False
    """Whether the rows come from compiled engines and nothing was run."""


def documents() -> list[Path]:
    """Return the documents that may hold blocks."""
    return [ROOT / "README.md", ROOT / "SECURITY.md", *sorted((ROOT / "docs").rglob("*.md"))]


def render(text: str) -> str:
    """Return a document with every block between its markers written anew."""
    return BLOCK.sub(lambda found: f"{found[1]}{block(found[2])}{found[3]}", text)


def block(name: str) -> str:
    """Return the content of one block."""
    if name.startswith(CONCLUSION):
        name = name.removeprefix(CONCLUSION)
        return f"\n{TABLES[name].conclusion(read(name)['rows'])}\n\n"
    return headline() if name == "headline" else table(name)


def table(name: str) -> str:
    """Return the conclusion, the table and the conditions of a result file as Markdown."""
    spec, document = TABLES[name], read(name)
    rows = document["rows"]
    lines = ["", spec.conclusion(rows), ""]
    lines += ["| " + " | ".join(spec.heads.values()) + " |", "|" + " --- |" * len(spec.heads)]
    for row in rows:
        cells = (cell(row[key], rounded=key in spec.measured) for key in spec.heads)
        lines.append("| " + " | ".join(cells) + " |")
    made = compiled_with(document) if spec.is_compiled else conditions(document)
    return "\n".join([*lines, "", made, ""]) + "\n"


def read(name: str) -> Any:
    """Return a result file: ``rows`` and ``environment``."""
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def conditions(document: Any) -> str:
    """Return where and with what the rows were measured, in one sentence."""
    if "parts" in document:
        return conditions_of_parts([part["environment"] for part in document["parts"]])
    facts, versions = document["environment"], document["environment"]["versions"]
    runtime = versions.get("onnxruntime-gpu") or versions["onnxruntime"]
    return (
        f"Measured {facts['time'][:10]} on {facts['processor']}, {facts['cores']} cores, "
        f"PyTorch {versions['torch']}, ONNX Runtime {runtime}."
    )


def conditions_of_parts(parts: Sequence[Mapping[str, Any]]) -> str:
    """Return where and with what rows were measured in parts, whose environments these are."""
    days = sorted(facts["time"][:10] for facts in parts)
    commits = dict.fromkeys(facts["commit"] for facts in parts)
    processors = dict.fromkeys(facts["processor"] for facts in parts)
    return (
        f"Measured {' to '.join(dict.fromkeys((days[0], days[-1])))} in parts: {len(parts)}; "
        f"commits: {len(commits)} ({', '.join(commits)}); "
        f"processors: {len(processors)} ({', '.join(processors)})."
    )


def compiled_with(document: Any) -> str:
    """Return what the engines of the rows were compiled with, in one sentence."""
    facts = document["environment"]
    return (
        f"Compiled {facts['time'][:10]} with TensorRT-RTX {facts['versions']['tensorrt-rtx-cu13']}, "
        f"PyTorch {facts['versions']['torch']}; nothing was run."
    )


def cell(value: Any, *, rounded: bool = False) -> str:
    """Return a value for a table: counts as they are, measurements with three digits."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, str) and FIGURE.fullmatch(value):
        return short(value)
    if isinstance(value, float) or (rounded and isinstance(value, int)):
        return figure(value)
    return "-" if value in (None, "", "-") else NAMES.get(value, str(value))


def short(text: str) -> str:
    """Return a number that is held as text, without an exponent where it is short without one."""
    value = float(text)
    if math.isinf(value):
        return "infinite"
    digits = len(text.partition("e")[0].replace(".", "").lstrip("-"))
    return f"{value:.{digits}g}" if 1e-3 <= abs(value) < 1e3 or not value else plain(f"{value:.1e}")


def figure(value: float) -> str:
    """Return a number with three significant digits."""
    if not math.isfinite(value):
        return "infinite"
    if len(repr(value).replace(".", "").strip("0")) < 3:
        return f"{value:g}"
    if not 1e-3 <= abs(value) < 1e6:
        return plain(f"{value:.2e}")
    decimals = 2 - math.floor(math.log10(abs(value)))
    return f"{round(value, decimals):.{max(decimals, 0)}f}"


def plain(text: str) -> str:
    """Return a number in scientific notation without leading zeros in its exponent."""
    return re.sub(r"e([+-])0(\d)$", r"e\g<1>\2", text)


def span(rows: Iterable[Row], key: str) -> str:
    """Return the least and the largest value of a column, as ``1.2 to 3.4``."""
    values = [row[key] for row in rows if isinstance(row[key], int | float)]
    return f"{cell(min(values))} to {cell(max(values))}"


def where(rows: Rows, **wanted: Any) -> list[Row]:
    """Return the rows that hold these values."""
    return [row for row in rows if all(row[key] == value for key, value in wanted.items())]


def total(rows: Rows, key: str, value: Any = "yes") -> int:
    return sum(row[key] == value for row in rows)


def _audit(rows: Rows) -> str:
    least = min(row["least headroom"] for row in rows)
    islands = sum(row["islands"] for row in rows)
    return (
        f"On the images that count, every value stays at least {figure(least)} times below 65504, "
        f"the largest float16; {islands} float32 islands had to be added."
    )


def _sabotage(rows: Rows) -> str:
    return (
        f"The verdict caught {total(rows, 'caught')} of {len(rows)} wrong exports and named "
        f"{total(rows, 'named rightly')} of them correctly; `allclose` caught "
        f"{total(rows, 'allclose')}, the 50 dB check {total(rows, '50 dB')}."
    )


def _sabotage_rare(rows: Rows) -> str:
    return (
        f"The verdict caught {total(rows, 'caught')} of {len(rows)} such files, and "
        f"{total(rows, 'in FP16')} of the {sum(row['in FP16'] != 'refused' for row in rows)} that are "
        f"not refused in FP16; `allclose` caught {total(rows, 'allclose')}, the 50 dB check "
        f"{total(rows, '50 dB')}."
    )


def _passed(rows: Rows, key: str) -> tuple[int, int]:
    counts = [re.match(r"(\d+) of (\d+)", row[key]) for row in rows]
    found = [(int(c[1]), int(c[2])) for c in counts if c]
    return sum(passed for passed, _ in found), sum(of for _, of in found)


def _false_alarms(rows: Rows) -> str:
    full, half = _passed(rows, "passed FP32"), _passed(rows, "passed FP16")
    coarse = sum("too coarse" in row["passed FP16"] for row in rows)
    return (
        f"No correct export failed in FP32 ({full[0]} of {full[1]} passed); in FP16 {half[0]} of "
        f"{half[1]} passed, and the other {coarse} are networks that PyTorch itself computes below "
        "50 dB."
    )


def _thresholds(rows: Rows) -> str:
    parts = []
    for precision in ("FP32", "FP16", "BF16"):
        pairs = [(row[f"{precision} before"], row[precision]) for row in rows]
        ratios = [float(now) / float(before) for before, now in pairs if _is_error(before)]
        parts.append(f"{precision} {statistics.median(ratios):.2f}")
    return (
        "What the verdict just sees, in what the former rule just saw, in the median over these "
        f"mistakes: {', '.join(parts)}."
    )


def _is_error(text: str) -> bool:
    return text != "-" and float(text) > 0


def _random_networks(rows: Rows) -> str:
    judged = sum(row["judged"] for row in rows)
    alarms = sum(row["false alarms"] for row in rows)
    named = "; ".join(
        f"number {found['number']} ({found['family']}, {found['precision']}: {found['detail']})"
        for found in read("random_networks")["alarms"]
    )
    listed = f" They are {named}." if named else ""
    return f"Of {judged} random networks {alarms} were refused.{listed}"


def _int8(rows: Rows) -> str:
    return f"INT8 costs these networks {span(rows, 'lost dB')} dB on photographs."


def _pruning(rows: Rows) -> str:
    kept = [row for row in rows if row["lost dB"] <= 0.1]
    least = {row["network"]: row for row in sorted(kept, key=lambda row: -row["of the estimate"])}
    parts = [f"{name} {figure(row['of the estimate'])}" for name, row in least.items()]
    return (
        "Estimated time as a share of that as trained, at the least share tried that loses at most "
        f"0.1 dB: {', '.join(parts)}."
    )


def _upscaling_memory(rows: Rows) -> str:
    largest = max(rows, key=lambda row: row["pixels of the input MiB"])
    own = figure(largest["pixels of the input MiB"])
    return (
        f"A picture of {largest['input']} takes {figure(largest['peak MiB'])} MiB above the opened model, of which its "
        f"own pixels are {own} MiB."
    )


def _smaller(rows: Rows) -> str:
    psnr = {(row["network"], row["step"]): row["PSNR-Y dB"] for row in rows}
    lost = {
        step: [psnr[name, "FP32"] - psnr[name, step] for name, other in psnr if other == step]
        for step in ("FP16", "INT8")
    }
    gained = psnr["realtime", "taught"] - psnr["realtime", "alone"]
    return (
        f"FP16 loses at most {figure(max(lost['FP16']))} dB, INT8 {figure(min(lost['INT8']))} to "
        f"{figure(max(lost['INT8']))} dB. A Realtime network that Photo taught is {figure(abs(gained))} dB "
        f"{'above' if gained > 0 else 'below'} the same network trained for as many steps without a teacher."
    )


def _int8_weights(rows: Rows) -> str:
    by_name = {row["weights"]: row for row in rows}
    ours, usual = by_name["as exported"], by_name["signed, 8 bits"]
    key = "dB, kernels of this processor"
    return (
        f"On a processor without VNNI the exported weights keep {figure(ours[key])} dB to the float "
        f"output, plain signed 8-bit weights {figure(usual[key])} dB; INT8 is slower than float32 "
        f"there ({figure(ours['ms'])} ms against {figure(ours['ms of float32'])} ms)."
    )


def _glyph_throughput(rows: Rows) -> str:
    key = "PyTorch / ONNX Runtime"
    more = [row for row in rows if row["batch"] > 1]
    return (
        f"At batch 1 ONNX Runtime is {span(where(rows, batch=1), key)} times as fast as PyTorch; at "
        f"larger batches the ratio is {span(more, key)}."
    )


def _glyph_chain(rows: Rows) -> str:
    best = max(rows, key=lambda row: row["naive / it"])
    return (
        f"Running all different cells at once in {best['chain'].partition(',')[0]} is "
        f"{figure(best['naive / it'])} times as fast as running PyTorch one cell at a time."
    )


def _published(rows: Rows) -> str:
    by_name = {row["network"]: row["Set5 PSNR-Y dB"] for row in rows}
    gaps = [row["max difference to the author's output"] for row in rows]
    worst = max(float(gap) for gap in gaps if gap != "-")
    return (
        f"The published networks differ from their authors' outputs by at most {plain(f'{worst:.1e}')}"
        f"; the shipped network reaches {figure(by_name['Realtime (shipped here)'])} dB on Set5, "
        f"bicubic {figure(by_name['bicubic'])} dB."
    )


def _export_time(rows: Rows) -> str:
    ours = where(rows, exporter="paragon-export")
    theirs = where(rows, exporter="torch dynamo")
    return (
        f"Tracing takes {span(ours, 'seconds')} s here and {span(theirs, 'seconds')} s with PyTorch's "
        "dynamo exporter; the graphs of both run at all sizes tried."
    )


def _latency_onnxruntime(rows: Rows) -> str:
    return (
        f"In ONNX Runtime an export rewritten for it is {span(rows, 'plain / rewritten for it')} "
        f"times as fast as the plain one, and {span(rows, 'PyTorch / rewritten for it')} times as "
        "fast as PyTorch."
    )


def _latency_openvino(rows: Rows) -> str:
    return (
        f"In OpenVINO an export rewritten for it is {span(rows, 'plain / rewritten for it')} times "
        "as fast as the plain one."
    )


def _export_size(rows: Rows) -> str:
    small = [row for row in rows if row["variant"] in ("realtime", "stream")]
    large = [row for row in rows if row["variant"] in ("photo", "pro")]
    slowest = max(row["seconds rewritten"] for row in rows)
    return (
        f"Rewriting takes Realtime and Stream from {span(small, 'nodes plain')} nodes to "
        f"{span(small, 'nodes rewritten')}, Photo and Pro from {span(large, 'nodes plain')} to "
        f"{span(large, 'nodes rewritten')}; with tracing it takes at most {figure(slowest)} s."
    )


def _memory(rows: Rows) -> str:
    at_1080 = where(rows, **{"up to": "1080x1920"})
    return (
        "For inputs up to 1080x1920 TensorRT-RTX plans for the rewritten export "
        f"{span(at_1080, 'rewritten / plain')} times the memory of the plain one; this is its own plan, "
        "not measured on a graphics card."
    )


def _roofline(rows: Rows) -> str:
    key = "of roofline"
    return (
        f"Rewritten exports reach {span(where(rows, graph='rewritten'), key)} of the speed that the "
        "measured rates of the machine allow for their graphs, plain exports "
        f"{span(where(rows, graph='plain'), key)} for theirs, which compute and move more."
    )


def _roofline_gpu(rows: Rows) -> str:
    return "Lower bounds, computed from published rates: nothing in this table was measured."


def _rules(rows: Rows) -> str:
    key = "latency without / with"
    best: dict[str, float] = {}
    for row in rows:
        best[row["rule"]] = max(best.get(row["rule"], 0.0), row[key])
    first = sorted(best, key=lambda name: -best[name])[:3]
    parts = ", ".join(f"`{name}` ({figure(best[name])} times)" for name in first)
    return f"Latency grows most without these rules: {parts}."


def _rules_tensorrt(rows: Rows) -> str:
    key = "bytes without / with"
    best: dict[str, float] = {}
    for row in rows:
        if isinstance(row[key], float):
            best[row["rule"]] = max(best.get(row["rule"], 0.0), row[key])
    first = sorted(best, key=lambda name: -best[name])[:3]
    parts = ", ".join(f"`{name}` ({figure(best[name])} times)" for name in first)
    return f"The estimated bytes grow most without these rules: {parts}."


def _tensorrt_estimate(rows: Rows) -> str:
    at_1080 = where(rows, input="1080x1920", card="RTX 3060")
    return (
        "At 1080x1920 the kernels of the export for TensorRT move "
        f"{span(at_1080, 'rewritten / plain, bytes')} times the bytes of the plain one; estimated from "
        "the compiled kernels, not run."
    )


def _breakdown(rows: Rows) -> str:
    parts = []
    for variant in dict.fromkeys(row["variant"] for row in rows):
        top = max(where(rows, variant=variant), key=lambda row: row["share"])
        parts.append(f"{variant}: {top['operator']} {figure(top['share'])}")
    return f"The operator that takes the largest share of the time is, for {', for '.join(parts)}."


def _attention(rows: Rows) -> str:
    there = where(rows, attention="local", size="512x512")
    used = {row["backend"]: row["MB"] for row in there}
    return (
        f"For local attention at 512x512, ONNX Runtime takes {figure(used['ONNX Runtime, plain'])} MB "
        f"for the plain export, {figure(used['ONNX Runtime'])} MB for the file for all runtimes and "
        f"{figure(used['ONNX Runtime, made for it'])} MB for the one made for it; TensorRT-RTX plans "
        f"{figure(used['TensorRT-RTX FP16, planned, plain'])} MB, "
        f"{figure(used['TensorRT-RTX FP16, planned'])} MB and, for the one made for it, "
        f"{figure(used['TensorRT-RTX FP16, planned, made for it'])} MB."
    )


def _upscaling(rows: Rows) -> str:
    return (
        f"`upscale` makes {span(rows, 'upscale / bare session')} times the pictures a second of the bare session, "
        f"{span(rows, 'upscale / loop')} times those of the loop in ONNX Runtime and "
        f"{span(rows, 'upscale / PyTorch loop')} times those of the loop in PyTorch."
    )


def _upscaling_videos(rows: Rows) -> str:
    return "; ".join(
        f"`upscale` makes {figure(row['upscale / bare session'])} of the frames a second that the bare session "
        f"computes, {figure(row['upscale / loop'])} times those of the loop in ONNX Runtime and "
        f"{figure(row['upscale / PyTorch loop'])} times those of the loop in PyTorch"
        for row in rows
    ) + "."  # fmt: skip


def _png(rows: Rows) -> str:
    by_way = {row["way"]: row for row in rows}
    return (
        f"With ISA-L `upscale` writes PNG in {figure(by_way['ISA-L']['of Pillow'])} of the time of the processor "
        f"that Pillow takes, and with zlib in {figure(by_way['zlib']['of Pillow'])}."
    )


def _foreign(rows: Rows) -> str:
    right = [row for row in rows if row["float32"] == "passed"]
    half = [row for row in rows if row["float16"] == "passed"]
    built = [row for row in rows if row["engine"] == "built"]
    timed = [row for row in rows if row["over export"]]
    best, worst = (pick(timed, key=lambda row: row["over export"]) for pick in (max, min))
    middle = statistics.median(row["over export"] for row in timed)
    return (
        f"Of {len(rows)} networks {len(right)} are right at every size in float32 and {len(half)} in float16; "
        f"{len(built)} engines were built. In ONNX Runtime {len(timed)} files are {figure(worst['over export'])} "
        f"({worst['network']}) to {figure(best['over export'])} times ({best['network']}) as fast as PyTorch's "
        f"export, {figure(middle)} times in the median."
    )


def _foreign_speed(rows: Rows) -> str:
    best, worst = (pick(rows, key=lambda row: row["ort"]) for pick in (max, min))
    return (
        f"In ONNX Runtime the default file is {figure(worst['ort'])} ({worst['network']}) to "
        f"{figure(best['ort'])} times ({best['network']}) as fast as PyTorch's export."
    )


def _foreign_kernels(rows: Rows) -> str:
    known = [row for row in rows if row["ours for TensorRT GB"] and row["theirs GB"]]
    shares = {row["network"]: row["ours for TensorRT GB"] / row["theirs GB"] for row in known}
    least, most = min(shares, key=lambda n: shares[n]), max(shares, key=lambda n: shares[n])
    return (
        f"Made for TensorRT, kernels move {figure(shares[least])} ({least}) to {figure(shares[most])} "
        f"times ({most}) the bytes that those of PyTorch's export move."
    )


def _gpu(rows: Rows) -> str:
    cards = " and the ".join(sorted({row["card"] for row in rows}))
    said = [
        f"On the {cards} a rewritten file is {span(rows, 'ONNX Runtime, plain / rewritten')} times as "
        "fast as the plain one in ONNX Runtime"
    ]
    engines = [row for row in rows if row["TensorRT-RTX, plain / rewritten"]]
    if engines:
        ratio = span(engines, "TensorRT-RTX, plain / rewritten")
        said.append(f"its engine is {ratio} times as fast as that of the plain one")
    else:
        said.append("TensorRT-RTX refused the card, so that no engine was run")
    return "; ".join(said) + "."


def _claims(rows: Rows) -> str:
    counts = Counter(row["verdict"] for row in rows)
    said = (f'"{what}" {count}' for what, count in sorted(counts.items()))
    return f"Verdicts on {len(rows)} claims: {', '.join(said)}."


def _claims_sizes(rows: Rows) -> str:
    without = where(rows, switch="no attention")
    parts = ", ".join(
        f"{span(without, f'{name} / default')} ({name})"
        for name in ("PyTorch", "ONNX Runtime", "OpenVINO")
    )
    missing = [size for size in V5_SIZES if size not in {row["size"] for row in rows}]
    return f"Without attention a network takes {parts} of the time that it takes with it." + (
        f" Not measured: {', '.join(missing)}." if missing else ""
    )


def _claims_attention(rows: Rows) -> str:
    local, other = where(rows, attention="local"), where(rows, attention="hierarchical")
    return (
        f"Computed as published, local attention takes {span(local, 'MB')} MB from 128x128 to the "
        f"largest size here, hierarchical attention {span(other, 'MB')} MB."
    )


def _claims_glyphs(rows: Rows) -> str:
    key = "phase 2, PyTorch / OpenVINO"
    return f"At batch 1 OpenVINO is {span(rows, key)} times as fast as PyTorch."


def _claims_realtime(rows: Rows) -> str:
    return f"The estimate is {span(rows, 'estimated fps')} frames per second; nothing was run."


def _half_precision(rows: Rows) -> str:
    key = "error / PyTorch's"
    return (
        f"In FP16 the error is {span(where(rows, export='rewritten'), key)} times PyTorch's own for "
        f"rewritten exports and {span(where(rows, export='plain'), key)} times for plain ones."
    )


def _simplifiers(rows: Rows) -> str:
    gain = 1 - min(row["of none"] for row in rows)
    return (
        "onnxsim leaves the fewest nodes; no simplifier makes ONNX Runtime more than "
        f"{figure(100 * gain)} % faster."
    )


def _fuzz(rows: Rows) -> str:
    (everything,) = where(rows, kind="all")
    return f"{everything['cases']} cases, {everything['violations']} violations."


def _kills(rows: Rows) -> str:
    naive, ours = where(rows, writer="naive"), [r for r in rows if r["writer"] != "naive"]
    return (
        f"In {sum(r['runs'] for r in ours)} stopped runs of `onnx` and `trt`, "
        f"{sum(r['torn'] for r in ours)} files were torn; of {sum(r['runs'] for r in naive)} runs of "
        f"the naive writer, {sum(r['torn'] for r in naive)}."
    )


def _clients(rows: Rows) -> str:
    usual, exact = (
        max((row[key] for row in rows), key=float)
        for key in ("max error", "max error without Winograd")
    )
    return (
        f"The largest error is {short(usual)}, and {short(exact)} without Winograd's convolutions."
    )


def _upscaling_ray(rows: Rows) -> str:
    *clusters, one = rows
    most = clusters[-1]
    overhead = span(rows, "overhead of a task ms")
    return (
        f"{most['workers']} workers of one core each make {figure(most['of one process'])} times the "
        f"pictures of one process on the same cores ({figure(one['pictures/s'])} a second); a task costs "
        f"{overhead} ms."
    )


def _serving(rows: Rows) -> str:
    (row,) = rows
    shares = ", ".join(figure(row[f"{count} clients / bare"]) for count in (1, 4))
    return (
        f"At 1, 4 and 16 clients the application answers {shares} and "
        f"{figure(row['16 clients / bare'])} of the requests a second that the bare session computes."
    )


def _plan_error(rows: Rows) -> str:
    key = "estimated / published"
    latency, throughput = (where(rows, kind=kind) for kind in ("latency", "throughput"))
    logs = [abs(math.log(row[key])) for row in rows]
    return (
        f"The estimate is {span(latency, key)} times the published latency, and {span(throughput, key)} "
        f"times the published time of a frame; it is off by a factor of "
        f"{figure(math.exp(statistics.mean(logs)))} in the geometric mean."
    )


def _plan_fit(rows: Rows) -> str:
    return (
        f"The fits disagree: a share of {span(rows, 'share')} of the bandwidth and "
        f"{span(rows, 'launch us')} µs a launch. On the figures left out they are off by a factor of "
        f"{span(rows, 'off on the rest')}, the assumed constants by {span(rows, 'assumed, on the rest')}."
    )


TABLES: Mapping[str, Table] = {
    "audit": Table(
        {
            "network": "network",
            "tensors": "tensors",
            "least headroom": "least headroom (times)",
            "at": "at",
            "most underflow": "most underflow (share of values)",
            "of": "of",
            "largest error share": "largest share of the error",
            "from": "from",
            "islands": "float32 islands added",
            "diverges on": "network diverges on",
            "beyond half there": "tensors beyond float16 there",
        },
        _audit,
    ),
    "sabotage": Table(
        {
            "sabotage": "what was made wrong",
            "error": "error (of full range)",
            "caught": "caught",
            "called": "name given",
            "named rightly": "right name",
            "in FP16": "caught in FP16",
            "allclose": "caught by allclose",
            "50 dB": "caught by 50 dB",
        },
        _sabotage,
    ),
    "sabotage_rare": Table(
        {
            "sabotage": "where it is wrong",
            "error": "error (of full range)",
            "caught": "caught",
            "in FP16": "caught in FP16",
            "allclose": "caught by allclose",
            "50 dB": "caught by 50 dB",
        },
        _sabotage_rare,
    ),
    "false_alarms_by_generation": Table(
        {
            "networks of": "networks of",
            "passed FP32": "passed in FP32",
            "nearest to the limit FP32": "largest error / limit, FP32",
            "passed FP16": "passed in FP16",
            "nearest to the limit FP16": "largest error / limit, FP16",
            "refused": "not supported",
        },
        _false_alarms,
    ),
    "thresholds": Table(
        {
            "sabotage": "what was made wrong",
            "FP32 before": "FP32, former rule",
            "FP32": "FP32",
            "FP16 before": "FP16, former rule",
            "FP16": "FP16",
            "BF16 before": "BF16, former rule",
            "BF16": "BF16",
        },
        _thresholds,
    ),
    "random_networks": Table(
        {
            "networks of": "networks of",
            "judged": "judged",
            "FP32": "FP32",
            "FP16": "FP16",
            "BF16": "BF16",
            "false alarms": "refused",
            "nearest FP32": "largest error / limit, FP32",
            "nearest FP16": "largest error / limit, FP16",
            "nearest BF16": "largest error / limit, BF16",
            "no picture": "skipped: no picture",
            "refused": "not supported",
        },
        _random_networks,
    ),
    "int8": Table(
        {
            "network": "network",
            "photographs": "photographs",
            "float dB": "float32 PSNR (dB)",
            "INT8 dB": "INT8 PSNR (dB)",
            "lost dB": "lost (dB)",
            "INT8 to float dB (worst)": "INT8 to float32, worst image (dB)",
        },
        _int8,
    ),
    "pruning": Table(
        {
            "network": "network",
            "keep": "keep",
            "PSNR-Y dB": "PSNR-Y (dB)",
            "lost dB": "lost (dB)",
            "SSIM-Y": "SSIM-Y",
            "parameters": "parameters",
            "kFLOP a pixel": "kFLOP a pixel",
            "estimated ms": "engine, estimated (ms)",
            "of the estimate": "engine, share",
            "of the time on the processor": "processor, share",
            "photographs": "photographs",
            "card": "card",
        },
        _pruning,
    ),
    "upscaling_memory": Table(
        {
            "network": "network",
            "input": "input HxW (px)",
            "tile": "tile HxW (px)",
            "peak MiB": "above the opened model (MiB)",
            "pixels of the input MiB": "pixels of the input (MiB)",
            "seconds": "seconds",
        },
        _upscaling_memory,
    ),
    "smaller": Table(
        {
            "network": "network",
            "step": "step",
            "PSNR-Y dB": "PSNR-Y (dB)",
            "lost dB": "lost (dB)",
            "estimated ms": "engine for 1080x1920, estimated (ms)",
            "processor ms": "processor for 96x128 (ms)",
            "photographs": "photographs",
            "card": "card",
        },
        _smaller,
    ),
    "int8_weights": Table(
        {
            "weights": "weights",
            "dB, kernels of this processor": "PSNR, kernels of this processor (dB)",
            "dB, float arithmetic": "PSNR, float arithmetic (dB)",
            "ms": "INT8 latency (ms)",
            "ms of float32": "float32 latency (ms)",
        },
        _int8_weights,
    ),
    "glyph_throughput": Table(
        {
            "variant": "variant",
            "batch": "batch",
            "PyTorch ms a glyph": "PyTorch (ms/glyph)",
            "ONNX Runtime ms a glyph": "ONNX Runtime (ms/glyph)",
            "OpenVINO ms a glyph": "OpenVINO (ms/glyph)",
            "PyTorch / ONNX Runtime": "PyTorch / ONNX Runtime",
            "PyTorch / OpenVINO": "PyTorch / OpenVINO",
            "published PyTorch / ONNX Runtime / OpenVINO ms": (
                "published, another machine: PyTorch / ONNX Runtime / OpenVINO (ms/glyph)"
            ),
        },
        _glyph_throughput,
    ),
    "glyph_chain": Table(
        {
            "chain": "how cells are run",
            "variant of phase 2": "variant of phase 2",
            "rasters": "rasters",
            "empty cells": "empty cells (share)",
            "ms a glyph": "latency (ms/glyph)",
            "naive / it": "times as fast as one cell at a time",
        },
        _glyph_chain,
    ),
    "published": Table(
        {
            "network": "network",
            "generation": "generation",
            "max difference to the author's output": "largest difference to the author's output",
            "Set5 PSNR-Y dB": "Set5 x2 PSNR, luma (dB)",
        },
        _published,
    ),
    "export_time": Table(
        {
            "variant": "variant",
            "exporter": "exporter",
            "seconds": "time (s)",
            "nodes": "nodes",
            "sizes right": "sizes that run correctly",
        },
        _export_time,
    ),
    "latency_onnxruntime": Table(
        {
            **NETWORK,
            "PyTorch ms": "PyTorch (ms)",
            "torch.compile ms": "torch.compile (ms)",
            "plain ms": "plain (ms)",
            "rewritten ms": "rewritten (ms)",
            "rewritten for it ms": "rewritten, for ONNX Runtime (ms)",
            "plain / rewritten": "plain / rewritten",
            "plain / rewritten for it": "plain / rewritten, for ONNX Runtime",
            "PyTorch / rewritten for it": "PyTorch / rewritten, for ONNX Runtime",
        },
        _latency_onnxruntime,
    ),
    "latency_openvino": Table(
        {
            **NETWORK,
            "plain ms": "plain (ms)",
            "rewritten ms": "rewritten (ms)",
            "rewritten for it ms": "rewritten, for OpenVINO (ms)",
            "plain / rewritten": "plain / rewritten",
            "plain / rewritten for it": "plain / rewritten, for OpenVINO",
        },
        _latency_openvino,
    ),
    "export_size": Table(
        {
            "variant": "variant",
            "scale": "scale",
            "nodes plain": "nodes, plain",
            "nodes rewritten": "nodes, rewritten",
            "nodes for ONNX Runtime": "nodes, for ONNX Runtime",
            "seconds plain": "time, plain (s)",
            "seconds rewritten": "time, rewritten (s)",
        },
        _export_size,
    ),
    "memory": Table(
        {
            "variant": "variant",
            "scale": "scale",
            "up to": "input up to HxW (px)",
            "plain MB": "plain, planned (MB)",
            "rewritten MB": "rewritten, planned (MB)",
            "rewritten / plain": "rewritten / plain",
            "build s plain": "build time, plain (s)",
            "build s rewritten": "build time, rewritten (s)",
        },
        _memory,
        measured=("plain MB", "rewritten MB"),
    ),
    "roofline": Table(
        {
            **NETWORK,
            "graph": "graph",
            "GMAC": "multiply-adds (10⁹)",
            "GB node by node": "memory traffic, node by node (GB)",
            "GB at least": "memory traffic, at least (GB)",
            "roofline ms": "roofline (ms)",
            "measured ms": "measured (ms)",
            "of roofline": "roofline / measured",
        },
        _roofline,
    ),
    "roofline_gpu": Table(
        {
            "variant": "variant",
            "scale": "scale",
            "input": "input HxW (px)",
            "card": "card",
            "plain ms, nothing fused (computed, not measured)": "plain, nothing fused (computed ms)",
            "rewritten ms, nothing fused (computed, not measured)": (
                "rewritten, nothing fused (computed ms)"
            ),
            "rewritten ms, all fused (computed, not measured)": "rewritten, all fused (computed ms)",
        },
        _roofline_gpu,
    ),
    "rules": Table(
        {
            "variant": "variant",
            "rule": "rule left out",
            "latency without / with": "latency without / with",
        },
        _rules,
    ),
    "rules_tensorrt": Table(
        {
            "variant": "variant",
            "rule": "rule left out",
            "planned memory without / with": "planned memory without / with",
            "bytes without / with": "bytes moved, estimated, without / with",
            "estimated ms without / with": "time, estimated, without / with",
        },
        _rules_tensorrt,
        is_compiled=True,
    ),
    "tensorrt_estimate": Table(
        {
            "variant": "variant",
            "scale": "scale",
            "input": "input HxW (px)",
            "card": "card",
            "plain GB": "plain (GB)",
            "rewritten GB": "rewritten (GB)",
            "rewritten / plain, bytes": "rewritten / plain, bytes",
            "default / plain, bytes": "default / plain, bytes",
            "plain launches": "plain, kernels",
            "rewritten launches": "rewritten, kernels",
            "plain ms": "plain, estimated (ms)",
            "rewritten ms": "rewritten, estimated (ms)",
            "rewritten / plain, ms": "rewritten / plain, time",
            "default / plain, ms": "default / plain, time",
        },
        _tensorrt_estimate,
        is_compiled=True,
    ),
    "breakdown": Table(
        {
            "variant": "variant",
            "size": "input HxW (px)",
            "operator": "operator",
            "ms": "time (ms)",
            "share": "share of the time",
        },
        _breakdown,
    ),
    "attention": Table(
        {
            "attention": "attention",
            "size": "input HxW (px)",
            "backend": "run by",
            "MB": "peak memory (MB)",
            "ms": "latency (ms)",
            "reason": "not run: needs",
        },
        _attention,
    ),
    "upscaling": Table(
        {
            "network": "network",
            "input": "input HxW (px)",
            "format": "format",
            "bare session pictures/s": "bare session (pictures/s)",
            "upscale pictures/s": "`upscale` (pictures/s)",
            "upscale / bare session": "/ bare session",
            "upscale / loop": "/ loop",
            "upscale / PyTorch loop": "/ PyTorch loop",
            "bare processor ms": "bare session (ms of the processor)",
            "coding processor ms": "reading and writing (ms)",
            "upscale processor ms": "`upscale` (ms)",
            "upscale / limit": "/ limit",
            "idle": "idle",
        },
        _upscaling,
    ),
    "upscaling_videos": Table(
        {
            "network": "network",
            "input": "input HxW (px)",
            "bare session frames/s": "bare session (frames/s)",
            "upscale frames/s": "`upscale` (frames/s)",
            "loop frames/s": "loop (frames/s)",
            "upscale / bare session": "`upscale` / bare session",
            "upscale / loop": "`upscale` / loop",
            "upscale / PyTorch loop": "`upscale` / PyTorch loop",
            "bare processor ms": "bare session (ms of the processor for a frame)",
            "upscale processor ms": "`upscale`",
            "loop processor ms": "loop",
            "PyTorch processor ms": "PyTorch loop",
        },
        _upscaling_videos,
    ),
    "png": Table(
        {
            "way": "way",
            "picture": "picture HxW (px)",
            "processor ms": "processor (ms)",
            "of Pillow": "/ Pillow",
            "MB": "file (MB)",
        },
        _png,
    ),
    "foreign": Table(
        {
            "network": "network",
            "architecture": "architecture, as spandrel calls it",
            "scale": "scale",
            "exporter": "exporter",
            "seconds": "export and verdict (s)",
            "nodes": "nodes",
            "error": "largest error (of full range)",
            "float32": "float32",
            "float16": "float16",
            "engine": "engine",
            "over export": "times as fast as PyTorch's export",
            "over PyTorch": "times as fast as PyTorch",
        },
        _foreign,
    ),
    "foreign_speed": Table(
        {
            "network": "network",
            "size": "input HxW (px)",
            "theirs ort (ms)": "PyTorch's export in ONNX Runtime (ms)",
            "ort": "ours, times as fast",
            "ort for it": "`--for onnxruntime`, times as fast",
            "theirs ov (ms)": "PyTorch's export in OpenVINO (ms)",
            "ov": "ours, times as fast",
            "ov for it": "`--for openvino`, times as fast",
        },
        _foreign_speed,
        measured=("theirs ort (ms)", "theirs ov (ms)"),
    ),
    "foreign_kernels": Table(
        {
            "network": "network",
            "size": "input HxW (px)",
            "rewrites": "rewrites for TensorRT",
            "theirs GB": "PyTorch's export (GB)",
            "theirs ms": "PyTorch's export (estimated ms)",
            "ours GB": "ours (GB)",
            "ours ms": "ours (estimated ms)",
            "ours for TensorRT GB": "`--for tensorrt` (GB)",
            "ours for TensorRT ms": "`--for tensorrt` (estimated ms)",
        },
        _foreign_kernels,
        is_compiled=True,
    ),
    "gpu": Table(
        {
            "variant": "variant",
            "scale": "scale",
            "input": "input HxW (px)",
            "card": "card",
            "PyTorch, ms": "PyTorch (ms)",
            "torch.compile, ms": "torch.compile (ms)",
            "ONNX Runtime, plain, ms": "ONNX Runtime, plain (ms)",
            "ONNX Runtime, rewritten, ms": "ONNX Runtime, rewritten (ms)",
            "TensorRT-RTX, plain, ms": "TensorRT-RTX, plain (ms)",
            "TensorRT-RTX, rewritten, ms": "TensorRT-RTX, rewritten (ms)",
            "ONNX Runtime, plain / rewritten": "ONNX Runtime, plain / rewritten",
            "TensorRT-RTX, plain / rewritten": "TensorRT-RTX, plain / rewritten",
            "PyTorch, dB": "PSNR of PyTorch (dB)",
            "ONNX Runtime, rewritten, dB": "PSNR of ONNX Runtime, rewritten (dB)",
            "TensorRT-RTX, rewritten, dB": "PSNR of TensorRT-RTX, rewritten (dB)",
        },
        _gpu,
    ),
    "claims": Table(
        {
            "nr": "nr.",
            "claim": "claim",
            "published": "published",
            "ours": "ours",
            "how": "how it was measured",
            "verdict": "verdict",
        },
        _claims,
    ),
    "claims_sizes": Table(
        {
            "size": "size",
            "switch": "switched",
            "input": "input HxW (px)",
            "parameters": "parameters",
            **{
                f"{name} {key}": f"{name} {head}"
                for name in ("PyTorch", "ONNX Runtime", "OpenVINO")
                for key, head in (("ms", "(CPU ms)"), ("/ default", "/ default"))
            },
            "PyTorch MB at 256x256": "PyTorch, peak at 256x256 (MB)",
            "TensorRT estimated ms": "TensorRT FP16 at 256x256, RTX 3060 (estimated ms)",
            "TensorRT planned MB": "TensorRT FP16 up to 256x256 (planned MB)",
        },
        _claims_sizes,
    ),
    "claims_attention": Table(
        {
            "attention": "attention",
            "size": "input HxW (px)",
            "MB": "peak memory (MB)",
            "CPU ms": "CPU time, one core (ms)",
        },
        _claims_attention,
    ),
    "claims_glyphs": Table(
        {
            "variant": "variant",
            "published ms": "published (ms/glyph)",
            "both phases, PyTorch (ms/glyph)": "both phases, PyTorch (CPU ms/glyph)",
            "phase 2, PyTorch (ms)": "phase 2, PyTorch (CPU ms)",
            "phase 2, OpenVINO (ms)": "phase 2, OpenVINO (CPU ms)",
            "phase 2, PyTorch / OpenVINO": "phase 2, PyTorch / OpenVINO",
            "published MB": "published (MB)",
            "on disk (MiB)": "on disk (MiB)",
        },
        _claims_glyphs,
    ),
    "claims_realtime": Table(
        {
            "size": "input HxW (px)",
            "card": "card",
            "estimated ms": "estimated (ms)",
            "estimated fps": "estimated frames per second",
        },
        _claims_realtime,
    ),
    "half_precision": Table(
        {
            "network": "network",
            "export": "export",
            "passed": "passed",
            "worst error": "largest error (of full range)",
            "error / PyTorch's": "error / PyTorch's own",
            "mean PSNR dB": "mean PSNR to float64 (dB)",
        },
        _half_precision,
    ),
    "simplifiers": Table(
        {
            "variant": "variant",
            "simplifier": "simplifier",
            "nodes": "nodes",
            "median ms": "latency, median (ms)",
            "of none": "latency / latency without",
        },
        _simplifiers,
    ),
    "fuzz": Table(
        {
            "kind": "kind of file",
            "cases": "cases",
            "ok": "ok",
            "verdict failed": "verdict failed",
            "usage": "usage error",
            "refused": "refused",
            "violations": "violations",
            "worst s": "longest (s)",
            "peak MiB": "peak memory (MiB)",
        },
        _fuzz,
    ),
    "kills": Table(
        {
            "writer": "writer",
            "stopped by": "stopped by",
            "runs": "runs",
            "old": "old file kept",
            "new": "new file in place",
            "refused": "refused by digest",
            "torn": "torn",
            "too late": "signal came too late",
            "folder left behind": "temporary folder left",
            "next run": "next run tried",
            "next run wrong": "next run wrong",
            "wrong exit code": "wrong exit code",
            "words": "printed anything",
        },
        _kills,
    ),
    "clients": Table(
        {
            "program": "program",
            "size": "input HxW (px)",
            "max error": "largest error",
            "max error without Winograd": "without Winograd",
        },
        _clients,
    ),
    "upscaling_ray": Table(
        {
            "workers": "workers",
            "pictures/s": "pictures/s",
            "of one process": "of one process",
            "overhead of a task ms": "overhead of a task (ms)",
        },
        _upscaling_ray,
    ),
    "serving": Table(
        {
            "size": "input HxW (px)",
            "bare/s": "bare, requests/s",
            "with files/s": "with files",
            "1 clients/s": "1 client",
            "4 clients/s": "4 clients",
            "16 clients/s": "16 clients",
            "1 clients / bare": "1 client / bare",
            "4 clients / bare": "4 / bare",
            "16 clients / bare": "16 / bare",
            "16 clients / with files": "16 / with files",
        },
        _serving,
    ),
    "plan_error": Table(
        {
            "kind": "published as",
            "source": "source",
            "network": "network",
            "card": "card",
            "size": "input HxW (px)",
            "launches": "launches",
            "published ms": "published (ms)",
            "estimated ms": "estimated, not run (ms)",
            "estimated / published": "estimated / published",
        },
        _plan_error,
        is_compiled=True,
    ),
    "plan_fit": Table(
        {
            "fitted on": "fitted on",
            "figures": "figures",
            "share": "share of the bandwidth",
            "launch us": "a launch (µs)",
            "off there": "off by a factor of, there",
            "off on the rest": "on the figures left out",
            "assumed, on the rest": "assumed constants, on these",
        },
        _plan_fit,
        is_compiled=True,
    ),
}


def headline() -> str:
    """Return the three figures of README, each with its conditions."""
    speed, alarms = read("latency_onnxruntime"), read("false_alarms_by_generation")
    facts = speed["environment"]
    lines = [
        f"- {_sabotage(read('sabotage')['rows'])} {_false_alarms(alarms['rows'])}",
        f"- {_latency_onnxruntime(speed['rows'])} (Random weights in the published sizes, float32, "
        f"batch 1, {facts['processor']}, {facts['cores']} cores.)",
        f"- {_export_time(read('export_time')['rows'])} (Same machine, random weights, "
        "simplification included.)",
    ]
    return "\n".join(["", *lines, ""]) + "\n"


if __name__ == "__main__":
    for path in documents():
        text = path.read_text(encoding="utf-8")
        if render(text) != text:
            path.write_text(render(text), encoding="utf-8")
            print(path.relative_to(ROOT))
