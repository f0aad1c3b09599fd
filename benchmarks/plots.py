"""Plots of the result files: latency, planned memory, roofline, attention.

Drawn from the JSON files alone: ``latency_onnxruntime``, ``latency_openvino``, ``memory``,
``roofline``, ``roofline_machine`` and ``attention``. A plot whose files are missing is left out.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import matplotlib as mpl
import typer

mpl.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullLocator

BLUE, ORANGE, GREEN, GREY, PURPLE = "#0072B2", "#E69F00", "#009E73", "#8A8A8A", "#CC79A7"
"""Colors of Okabe and Ito, which color-blind people can tell apart."""

LABELS = {
    "ONNX Runtime, plain": "ONNX Runtime, plain export",
    "ONNX Runtime, made for it": "ONNX Runtime, --for onnxruntime",
    "TensorRT-RTX FP16, planned, plain": "TensorRT-RTX, planned, plain export",
    "TensorRT-RTX FP16, planned": "TensorRT-RTX, planned",
    "TensorRT-RTX FP16, planned, made for it": "TensorRT-RTX, planned, --for tensorrt",
}
"""Backends of the result files that a plot names in other words."""

MARKERS = {"realtime": "o", "stream": "s", "photo": "^", "pro": "D"}

FRAME = "1080x1920"

ROOT = Path(__file__).parent.parent

Document = dict[str, Any]


def main(
    results: Annotated[Path, typer.Option(help="Folder of the JSON files.")] = ROOT
    / "benchmarks"
    / "results",
    output: Annotated[Path, typer.Option(help="Folder of the plots.")] = ROOT
    / "docs"
    / "benchmarks"
    / "images",
    suffix: Annotated[str, typer.Option("--format", help="svg or png.")] = "svg",
) -> None:
    plt.rcParams.update(
        {
            "font.size": 10,
            "axes.titlesize": 11,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.axisbelow": True,
            "svg.hashsalt": "paragon-export",
        }
    )
    drawings: dict[str, tuple[Callable[..., Figure], tuple[str, ...]]] = {
        "latency": (latency, ("latency_onnxruntime", "latency_openvino")),
        "memory": (memory, ("memory",)),
        "roofline": (roofline, ("roofline", "roofline_machine")),
        "attention": (attention, ("attention",)),
        "pruning": (pruning, ("pruning",)),
        "upscaling_memory": (upscaling_memory, ("upscaling_memory",)),
        "smaller": (smaller, ("smaller", "pruning")),
    }
    for name, (draw, sources) in drawings.items():
        paths = [results / f"{source}.json" for source in sources]
        if missing := [path.name for path in paths if not path.exists()]:
            print(f"{name}: left out, {', '.join(missing)} missing")
            continue
        figure = draw(*(json.loads(path.read_text(encoding="utf-8")) for path in paths))
        target = output / f"{name}.{suffix}"
        is_svg = suffix == "svg"
        figure.savefig(target, dpi=110, metadata={"Date": None} if is_svg else None)
        plt.close(figure)
        print(target.name)


def latency(in_onnxruntime: Document, in_openvino: Document) -> Figure:
    """How many times faster the rewritten export is than the plain one and than PyTorch."""
    figure, axes = plt.subplots(figsize=(8.6, 4.4))
    rows = in_onnxruntime["rows"]
    openvino = {(row["variant"], row["scale"]): row for row in in_openvino["rows"]}
    by_network = [openvino.get((row["variant"], row["scale"]), {}) for row in rows]
    _bars(
        axes,
        _networks(rows),
        {
            "plain / rewritten, ONNX Runtime": (
                BLUE,
                [row["plain / rewritten for it"] for row in rows],
            ),
            "plain / rewritten, OpenVINO": (
                GREEN,
                [row.get("plain / rewritten for it") for row in by_network],
            ),
            "PyTorch eager / rewritten, ONNX Runtime": (
                ORANGE,
                [row["PyTorch / rewritten for it"] for row in rows],
            ),
        },
        "{:.1f}",
    )
    axes.axhline(1, color="black", linewidth=0.8)
    axes.set_ylabel("times faster (ratio of latencies)")
    sizes = dict.fromkeys(f"{row['variant']} {row['size']}" for row in rows)
    axes.set_title("How much faster the rewritten network is, on a CPU in float32", loc="left")
    _finish(figure, axes, in_onnxruntime, f"Inputs: {', '.join(sizes)}.")
    return figure


def memory(document: Document) -> Figure:
    """Planned device memory at 1080p."""
    figure, axes = plt.subplots(figsize=(8.6, 4.4))
    rows = [row for row in document["rows"] if row["up to"] == FRAME]
    _bars(
        axes,
        _networks(rows),
        {
            "plain export": (GREY, [_gigabytes(row["plain MB"]) for row in rows]),
            "rewritten": (BLUE, [_gigabytes(row["rewritten MB"]) for row in rows]),
        },
        "{:.3g}",
    )
    axes.set_ylabel("GB (billions of bytes)")
    axes.set_title(f"Device memory that TensorRT-RTX plans for {FRAME} input, float16", loc="left")
    _finish(figure, axes, document, "Planned by TensorRT-RTX for sm86; not run on a GPU.")
    return figure


def attention(document: Document) -> Figure:
    """Memory and time of v5's attentions by the side of the picture; a cross is where it ends."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(8.6, 4.4))
    colors = {
        "PyTorch": GREY,
        "ONNX Runtime": BLUE,
        "ONNX Runtime, made for it": GREEN,
        "TensorRT-RTX FP16, planned": ORANGE,
        "TensorRT-RTX FP16, planned, made for it": PURPLE,
    }
    before = {"ONNX Runtime, plain": BLUE, "TensorRT-RTX FP16, planned, plain": ORANGE}
    kinds = (("local", "-", colors), ("local", ":", before), ("hierarchical", "--", colors))
    for mode, style, drawn in kinds:
        for backend, color in drawn.items():
            rows = [
                row
                for row in document["rows"]
                if (row["attention"], row["backend"]) == (mode, backend)
            ]
            for axes, figure_of in ((left, "MB"), (right, "ms")):
                known = [row for row in rows if isinstance(row[figure_of], (int, float))]
                sides = [int(row["size"].split("x")[0]) for row in known]
                label = f"{mode}, {LABELS.get(backend, backend)}"
                values = [row[figure_of] for row in known]
                if not known:
                    continue
                axes.plot(sides, values, style, marker="o", color=color, label=label)
    for axes, title in ((left, "peak memory, MB"), (right, "milliseconds")):
        axes.set(xscale="log", yscale="log", title=title, xlabel="side of the image, pixels")
        axes.set_xticks([128, 256, 512, 1024], ["128", "256", "512", "1024"])
        axes.xaxis.set_minor_locator(NullLocator())
    handles, labels = left.get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncols=2, fontsize=8, frameon=False)
    figure.suptitle("v5 nano 2x: attention at growing sizes")
    figure.tight_layout(rect=(0, 0.27, 1, 1))
    return figure


def pruning(document: Document) -> Figure:
    """PSNR that is lost, by the estimated time as a share of that of the network as trained."""
    figure, axes = plt.subplots(figsize=(6.4, 4.2))
    for name, color in (("realtime", BLUE), ("stream", GREEN), ("photo", ORANGE)):
        rows = [row for row in document["rows"] if row["network"] == name]
        times = [row["of the estimate"] for row in rows]
        lost = [row["lost dB"] for row in rows]
        axes.plot(times, lost, marker=MARKERS[name], color=color, label=name.capitalize())
    axes.axhline(0.2, color=GREY, linestyle="--", linewidth=0.8)
    axes.text(1.0, 0.21, "refused above, unless accepted", fontsize=8, color=GREY)
    axes.set(
        xlabel="estimated time of the engine, RTX 3060, as trained = 1", ylabel="PSNR-Y lost, dB"
    )
    axes.invert_xaxis()
    axes.legend(frameon=False, loc="upper left")
    axes.set_title("Pruned without training", loc="left")
    figure.tight_layout()
    return figure


def upscaling_memory(document: Document) -> Figure:
    """Memory above the opened model, by the pixels of a picture that is computed in tiles."""
    figure, axes = plt.subplots(figsize=(6.4, 4.0))
    sides = [int(row["input"].split("x")[0]) for row in document["rows"]]
    pixels = [side**2 / 1e6 for side in sides]
    for key, color, label in (
        ("peak MiB", BLUE, "above the opened model"),
        ("pixels of the input MiB", GREY, "the picture's own pixels"),
    ):
        values = [row[key] for row in document["rows"]]
        axes.plot(pixels, values, marker="o", color=color, label=label)
    axes.axhline(2048, color=GREY, linestyle="--", linewidth=0.8)
    axes.text(pixels[0], 2150, "2 GiB", fontsize=8, color=GREY)
    axes.set_ylim(top=4096)
    axes.set(xscale="log", yscale="log", xlabel="megapixels of the input", ylabel="MiB")
    axes.legend(frameon=False, loc="lower right")
    axes.set_title("Memory of upscale, tiles of 512x512", loc="left")
    figure.tight_layout()
    return figure


def smaller(document: Document, pruned: Document) -> Figure:
    """PSNR by the time of an engine, and of the processor, for FP16, INT8, pruning and distillation."""
    figure, panels = plt.subplots(1, 2, figsize=(10.4, 4.6), sharey=True)
    labels = ("engine for 1080x1920 on an RTX 3060, estimated, ms", "processor for 96x128, ms")
    for axes, key, label in zip(panels, ("estimated ms", "processor ms"), labels, strict=True):
        axes.set(xscale="log", xlabel=label)
        for name, color in (("realtime", BLUE), ("stream", GREEN), ("photo", ORANGE)):
            rows = {row["step"]: row for row in document["rows"] if row["network"] == name}
            start = rows["FP16" if key == "estimated ms" else "FP32"]
            share = "of the estimate" if key == "estimated ms" else "of the time on the processor"
            cut = [row for row in pruned["rows"] if row["network"] == name]
            times = [row[share] * start[key] for row in cut]
            axes.plot(
                times, [row["PSNR-Y dB"] for row in cut], color=color, marker=".", linewidth=1
            )
            for step, row in rows.items():
                marker, size, filled = STEPS.get(step, ("*", 11, "taught" in step))
                if row[key] is not None:
                    face = color if filled else "none"
                    axes.plot(row[key], row["PSNR-Y dB"], marker, color=color, markersize=size,
                              markerfacecolor=face)  # fmt: skip
    panels[0].set_ylabel("PSNR-Y on held-back photographs, dB")
    _legend_of_steps(panels[0])
    panels[0].set_title("Quality against time", loc="left")
    figure.tight_layout()
    return figure


STEPS: Mapping[str, tuple[str, int, bool]] = {
    "FP32": ("s", 7, False), "FP16": ("o", 7, True), "INT8": ("D", 7, True),
    "pruned": ("^", 8, False), "pruned_trained": ("^", 8, True),
}  # fmt: skip
"""Marker, its size, and whether it is filled."""


def _legend_of_steps(axes: Axes) -> None:
    kinds = [("s", False, "FP32"), ("o", True, "FP16"), ("D", True, "INT8"), (".", True, "pruned"),
             ("^", True, "pruned and trained on"), ("*", True, "distilled"), ("*", False, "trained without a teacher")]  # fmt: skip
    for marker, filled, label in kinds:
        axes.plot(
            [], [], marker, color=GREY, markerfacecolor=GREY if filled else "none", label=label
        )
    for name, color in (("Realtime", BLUE), ("Stream", GREEN), ("Photo", ORANGE)):
        axes.plot([], [], color=color, label=name)
    axes.legend(frameon=False, loc="upper left", fontsize=8)


def roofline(document: Document, machine: Document) -> Figure:
    """Speed reached against multiply-adds for each byte, under the machine's own limits."""
    figure, axes = plt.subplots(figsize=(8.6, 5.0))
    rates = machine["rows"][0]
    peak, bandwidth = rates["GMAC/s"], rates["GB/s"]
    rows = document["rows"]
    points = {
        (row["variant"], row["scale"], row["graph"]): (
            row["GMAC"] / row["GB node by node"],
            row["GMAC"] / row["measured ms"] * 1000,
        )
        for row in rows
    }
    left = min(x for x, _ in points.values()) / 2
    right = max(2 * peak / bandwidth, *(x * 2 for x, _ in points.values()))
    bend = peak / bandwidth
    axes.plot([left, bend, right], [left * bandwidth, peak, peak], color="black", linewidth=1.2)
    axes.annotate(
        f"{peak:.0f} GMAC/s, measured",
        (right, peak),
        textcoords="offset points",
        xytext=(-4, 4),
        ha="right",
    )
    axes.loglog()
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter("{x:g}")
        axis.set_minor_locator(NullLocator())
    for (variant, scale, graph), (x, y) in points.items():
        color = BLUE if graph == "rewritten" else ORANGE
        axes.plot(
            x,
            y,
            MARKERS[variant],
            color=color,
            markerfacecolor=color if scale == 2 else "white",
            markeredgewidth=1.6,
            markersize=8,
        )
        if graph == "plain" and (variant, scale, "rewritten") in points:
            axes.annotate(
                "",
                points[variant, scale, "rewritten"],
                (x, y),
                arrowprops={"arrowstyle": "->", "color": GREY, "shrinkA": 6, "shrinkB": 6},
            )
    axes.set_xlim(left, right)
    axes.set_ylim(min(y for _, y in points.values()) / 1.6, peak * 1.6)
    axes.grid(which="major", color="#DDDDDD", linewidth=0.6)
    axes.set_xlabel(
        f"multiply-adds for each byte, node by node (the slope is {bandwidth:.3g} GB/s, measured)"
    )
    axes.set_ylabel("GMAC/s reached")
    axes.set_title(
        "ONNX Runtime under this machine's roofline, plain export and rewritten", loc="left"
    )
    _legend(axes, points)
    _finish(
        figure,
        axes,
        document,
        "Above the line: nodes were fused, or tensors stayed in a cache.",
        legend=False,
    )
    return figure


def _legend(axes: Axes, points: dict[tuple[str, int, str], tuple[float, float]]) -> None:
    def handle(label: str, marker: str, color: str, face: str) -> Line2D:
        return Line2D(
            [],
            [],
            linestyle="none",
            marker=marker,
            color=color,
            markerfacecolor=face,
            markeredgewidth=1.6,
            markersize=8,
            label=label,
        )

    shown = {variant for variant, _, _ in points}
    gap = handle("", "", GREY, GREY)
    handles = [handle("plain export", "o", ORANGE, ORANGE), handle("rewritten", "o", BLUE, BLUE)]
    handles += [gap, *(handle(v, m, GREY, GREY) for v, m in MARKERS.items() if v in shown)]
    handles += [
        gap,
        handle("filled: 2x", "o", GREY, GREY),
        handle("hollow: 4x", "o", GREY, "white"),
    ]
    axes.legend(
        handles=handles, loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize=9
    )


def _networks(rows: Sequence[Document]) -> list[str]:
    return [f"{row['variant']}\n{row['scale']}x" for row in rows]


def _gigabytes(megabytes: Any) -> float | None:
    return megabytes / 1000 if isinstance(megabytes, int | float) else None


def _bars(
    axes: Axes,
    groups: Sequence[str],
    series: dict[str, tuple[str, list[float | None]]],
    form: str,
) -> None:
    """Draw bars side by side, each with its figure; None is written as such."""
    width = 0.84 / len(series)
    for index, (label, (color, heights)) in enumerate(series.items()):
        places = [group + (index - (len(series) - 1) / 2) * width for group in range(len(groups))]
        axes.bar(places, [h or 0 for h in heights], width * 0.94, color=color, label=label)
        for place, height in zip(places, heights, strict=True):
            axes.annotate(
                "none" if height is None else form.format(height),
                (place, height or 0),
                textcoords="offset points",
                xytext=(0, 2),
                ha="center",
                fontsize=8,
            )
    axes.set_xticks(range(len(groups)), groups)
    axes.tick_params(axis="x", length=0)
    axes.grid(axis="y", color="#DDDDDD", linewidth=0.6)


def _finish(
    figure: Figure, axes: Axes, document: Document, remark: str, *, legend: bool = True
) -> None:
    """Add the legend above the bars, and in small print where and when it was measured."""
    if legend:
        axes.set_title(axes.get_title(loc="left"), loc="left", pad=26)
        key = axes.legend(
            frameon=False,
            fontsize=9,
            loc="lower left",
            bbox_to_anchor=(-0.01, 1.0),
            ncols=3,
            handlelength=1.2,
            columnspacing=1.4,
        )
        key.set_in_layout(False)
    facts = document["environment"]
    figure.text(
        0.01,
        0.012,
        f"{remark}\n{facts['time'][:10]}, {facts['processor']}, {facts['cores']} cores, "
        f"ONNX Runtime {facts['versions']['onnxruntime']}, PyTorch {facts['versions']['torch']}. "
        "Random weights, batch 1.",
        fontsize=7.5,
        color="#444444",
        va="bottom",
    )
    figure.tight_layout(rect=(0, 0.075, 1, 1))


if __name__ == "__main__":
    typer.run(main)
