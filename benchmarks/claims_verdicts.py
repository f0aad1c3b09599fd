"""The claims of the family's design notes and what was measured, with a verdict computed from it.

Writes ``claims.json`` from the results of ``claims.py``, ``attention.py``, ``int8.py`` and
``half_precision.py``. A claim whose figures are missing is listed as not measured.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

import typer
from common import RESULTS, write

HOLDS, PARTLY, FAILS = "holds", "holds partly", "does not hold"
NO_CARD, MISSING = "not measurable without a card", "not measured"

BACKENDS = ("PyTorch", "ONNX Runtime", "OpenVINO")

Rows = list[dict[str, Any]]
Finding = tuple[str, str, str, str, str]
"""Claim, published figure, ours, how it was measured, and the verdict."""


def main() -> None:
    found = [*_local(), *_switches(), *_cards(), *_precision(), *_glyphs()]
    keys = ("claim", "published", "ours", "how", "verdict")
    rows = [
        {"nr": nr, **dict(zip(keys, one, strict=True))} for nr, one in enumerate(found, start=1)
    ]
    (RESULTS / "claims.json").unlink(missing_ok=True)  # rows of a former list would stay
    write("claims", rows, ("nr",))


def _rows(name: str, **wanted: Any) -> Rows:
    file = RESULTS / f"{name}.json"
    rows = json.loads(file.read_text(encoding="utf-8"))["rows"] if file.exists() else []
    return [row for row in rows if all(row.get(k) == v for k, v in wanted.items())]


def _verdict(values: Sequence[float], least: float, most: float) -> str:
    """Return how many of the values lie between two limits, as a verdict."""
    inside = sum(least <= value <= most for value in values)
    return (
        MISSING if not values else HOLDS if inside == len(values) else PARTLY if inside else FAILS
    )


def _span(values: Iterable[float], unit: str = "") -> str:
    known = [f"{value:.3g}" for value in values]
    return f"{', '.join(known)}{unit}" if known else "-"


def _local() -> Iterable[Finding]:
    local, other = (
        {row["size"]: row for row in _rows("claims_attention", attention=mode)}
        for mode in ("local", "hierarchical")
    )
    sizes = [size for size in local if size in other]
    at = f"PyTorch, nano, window after window as published, at {', '.join(sizes)}"
    less = [100 * (1 - local[s]["MB"] / other[s]["MB"]) for s in sizes]
    faster = [other[s]["CPU ms"] / local[s]["CPU ms"] for s in sizes]
    yield (
        "local against hierarchical attention: less memory",
        "85 to 98 %",
        _span(less, " %"),
        (f"{at}; peak of a process"),
        _verdict(less, 85, 100),
    )
    yield (
        "local against hierarchical attention: times as fast",
        "20 to 50",
        _span(faster),
        f"{at}; CPU time of one core",
        _verdict(faster, 20, 1e9),
    )
    memory = [row["MB"] for row in local.values()]
    yield (
        "memory of local attention is the same for all sizes",
        "constant",
        _span(memory, " MB"),
        (f"{at}; peak of a process"),
        FAILS if memory and max(memory) > 1.1 * min(memory) else _verdict(memory, 0, 1e9),
    )
    for size, least, most in (("128x128", 0.2, 0.5), ("256x256", 0.3, 0.8), ("512x512", 0.5, 1.0)):
        used = [local[size]["MB"] / 1e3] if size in local else []
        planned = _planned(size)
        yield (
            f"memory at {size}",
            f"{least} to {most} GB",
            _span(used, " GB") + planned,
            ("PyTorch, nano, as published; the notes name no network, and less counts as holding"),
            _verdict(used, 0, most),
        )


def _planned(size: str) -> str:
    name = "TensorRT-RTX FP16, planned, made for it"
    rows = _rows("attention", attention="local", size=size, backend=name)
    return f"; TensorRT plans {rows[0]['MB'] / 1e3:.2g} GB" if rows else ""


def _switches() -> Iterable[Finding]:
    gains, parts = _changes("no attention")
    yield (
        "without attention a network is faster",
        "15 to 20 %",
        parts,
        f"{_sizes('no attention')}, smallest and largest by runtime; more than 20 % counts as not "
        "holding, since attention then costs more than stated",
        _verdict(gains, -1e9, 20),
    )
    gains, parts = _changes("no content")
    yield (
        "content-aware processing is slower",
        "2 to 3 %",
        parts,
        f"{_sizes('no content')}, smallest and largest by runtime; up to 3 % counts as holding",
        _verdict(gains, -1e9, 3),
    )
    with_it, without = (
        {r["size"]: r["PyTorch MB at 256x256"] for r in _rows("claims_sizes", switch=switch)}
        for switch in ("default", "no attention")
    )
    sizes = [s for s in without if isinstance(without[s], float) and s in with_it]
    ratios = [with_it[s] / without[s] for s in sizes]
    yield (
        "nano, micro, tiny and xs need similar memory with attention",
        "similar",
        (f"{_span(ratios)} times"),
        f"PyTorch at 256x256, {', '.join(sizes)}; up to 1.2 counts as similar",
        _verdict(ratios, 0, 1.2),
    )


def _sizes(switch: str) -> str:
    return ", ".join(row["size"] for row in _rows("claims_sizes", switch=switch))


def _changes(switch: str) -> tuple[list[float], str]:
    """Return by how many percent the default is slower, for each network and runtime; and text."""
    every: list[float] = []
    parts = []
    for backend in BACKENDS:
        shares = [row[f"{backend} / default"] for row in _rows("claims_sizes", switch=switch)]
        slower = [100 * (1 / share - 1) for share in shares]
        every += slower
        if slower:
            parts.append(f"{backend} {min(slower):.0f} to {max(slower):.0f} %")
    return every, "; ".join(parts) or "-"


def _cards() -> Iterable[Finding]:
    for size, published in (("nano", "60 to 55 fps"), ("micro", "80 to 75 fps")):
        rows = {
            row["switch"]: row["TensorRT estimated ms"] for row in _rows("claims_sizes", size=size)
        }
        pair = [rows.get(switch) for switch in ("no attention", "default")]
        known = all(isinstance(value, float) for value in pair)
        ours = f"estimate: {1e3 / pair[0]:.0f} to {1e3 / pair[1]:.0f} fps" if known else "-"
        yield (
            f"{size}, attention switched on",
            published,
            ours,
            (
                "estimated from the compiled kernels, RTX 3060, float16, 256x256; the notes name no "
                "card and no size"
            ),
            NO_CARD,
        )
    fps = [f"{row['size']} {row['estimated fps']:.0f}" for row in _rows("claims_realtime")]
    yield (
        "Realtime on a mid-range card",
        "above 60 fps",
        (f"estimate: {', '.join(fps)} fps" if fps else "-"),
        "estimated from the compiled kernels, v11 at 2x, RTX 3060, float16",
        NO_CARD,
    )


def _precision() -> Iterable[Finding]:
    lost = [row["lost dB"] for row in _rows("int8")]
    ours = f"{min(lost):.2g} to {max(lost):.2g} dB lost on photographs" if lost else "-"
    yield (
        "INT8 is unfit for super-resolution",
        "unfit",
        ours,
        "table INT8, ONNX Runtime",
        (PARTLY if lost else MISSING),
    )
    rows = _rows("half_precision")
    passed = sum(row["passed"] for row in rows)
    yield (
        "FP16 is fit for super-resolution",
        "fit",
        (f"{passed} of {len(rows)} exports passed the verdict" if rows else "-"),
        "table Accuracy, published checkpoints, float16",
        (MISSING if not rows else HOLDS if passed == len(rows) else FAILS),
    )


def _glyphs() -> Iterable[Finding]:
    rows = _rows("claims_glyphs")
    for row in rows:
        ms = row["both phases, PyTorch (ms/glyph)"]
        yield (
            f"glyph classifier {row['variant']}: latency",
            f"{row['published ms']} ms",
            (f"{ms:.3g} ms; phase 2 alone {row['phase 2, PyTorch (ms)']:.3g} ms"),
            "PyTorch, CPU time, both phases, one raster at a time; the notes name no processor",
            _verdict([ms], 0, row["published ms"]),
        )
    ratios = [row["phase 2, PyTorch / OpenVINO"] for row in rows]
    yield (
        "glyph classifier: OpenVINO is faster",
        "1.5 to 2 times",
        f"{_span(ratios)} times",
        ("phase 2 alone, batch 1, full, light, tiny; more counts as holding"),
        _verdict(ratios, 1.5, 1e9),
    )
    for row in rows:
        size = row["on disk (MiB)"]
        yield (
            f"glyph classifier {row['variant']}: on disk",
            f"{row['published MB']} MB",
            (f"{size:.3g} MiB"),
            "a state dict saved in float32; the notes' MB are MiB",
            _verdict([size], row["published MB"] - 0.05, row["published MB"] + 0.05),
        )


if __name__ == "__main__":
    typer.run(main)
