"""How far the estimated times of kernels are from published times of TensorRT engines.

No card is at hand, so the comparison is with figures that others published. Each network is rebuilt
here with random weights or from a published checkpoint, exported in float16 and compiled for the
card and the size. The published engines were built by full TensorRT, which chooses other kernels.

- *latency*: one run of an engine, by ParagonSR2's author on an RTX 3060: Urban100 at 2x, whose mean
  input is 398x492. Checkpoints of that table are needed; they are not part of this repository.
- *throughput*: frames of a whole program: decoding, transfers and the work on the CPU included.
  Several frames may be under way at once. The milliseconds are 1000 / frames a second.

Writes ``plan_error.json``.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import onnx
import onnx_ir as ir
import torch
import typer
from common import write
from torch import nn
from torch.nn import functional as F

from paragon_export.engines.kernels.cards import CARDS, LAUNCH_SECONDS, total_seconds
from paragon_export.engines.kernels.compile import compile_kernels
from paragon_export.engines.kernels.count import Work, work_of
from paragon_export.graph.metadata import FLOAT32_MARK
from paragon_export.graph.onnx_io import OnnxFile, serialized
from paragon_export.graph.simplify import simplify
from paragon_export.networks.describe import read_network
from paragon_export.pipeline.float32_graph import float32_graph
from paragon_export.precision.half import to_precision
from paragon_export.specs.plans import ExportPlan
from paragon_export.specs.types import Precision, Size


class Compact(nn.Module):
    """SRVGGNetCompact: convolutions with PReLU, a pixel shuffle, and the enlarged input added."""

    def __init__(self, features: int, convolutions: int, scale: int) -> None:
        super().__init__()
        self.scale = scale
        layers: list[nn.Module] = [nn.Conv2d(3, features, 3, padding=1), nn.PReLU(features)]
        for _ in range(convolutions):
            layers += [nn.Conv2d(features, features, 3, padding=1), nn.PReLU(features)]
        layers += [nn.Conv2d(features, 3 * scale**2, 3, padding=1), nn.PixelShuffle(scale)]
        self.body = nn.Sequential(*layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.body(x) + F.interpolate(x, scale_factor=self.scale, mode="nearest")


class Dense(nn.Module):
    """Five convolutions, each of which sees the results of all before it."""

    def __init__(self, features: int, growth: int) -> None:
        super().__init__()
        widths = [features + i * growth for i in range(5)]
        self.layers = nn.ModuleList(
            nn.Conv2d(width, growth if i < 4 else features, 3, padding=1)
            for i, width in enumerate(widths)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        seen = [x]
        for layer in self.layers[:4]:
            seen.append(F.leaky_relu(layer(torch.cat(seen, 1)), 0.2))
        return self.layers[4](torch.cat(seen, 1)) * 0.2 + x


class Triple(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*(Dense(64, 32) for _ in range(3)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.blocks(x) * 0.2 + x


class Esrgan(nn.Module):
    """RRDBNet at 4x: 23 residual blocks of three dense ones, and two enlargements."""

    def __init__(self) -> None:
        super().__init__()

        def layer(inputs: int, outputs: int) -> nn.Conv2d:
            return nn.Conv2d(inputs, outputs, 3, padding=1)

        self.first, self.last = layer(3, 64), layer(64, 3)
        self.body = nn.Sequential(*(Triple() for _ in range(23)), layer(64, 64))
        self.up = nn.ModuleList(layer(64, 64) for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        x = x + self.body(x)
        for layer in self.up[:2]:
            x = F.leaky_relu(layer(F.interpolate(x, scale_factor=2, mode="nearest")), 0.2)
        return self.last(F.leaky_relu(self.up[2](x), 0.2))


class Spab(nn.Module):
    def __init__(self, features: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv2d(features, features, 3, padding=1) for _ in range(3))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        first = self.layers[0](x)
        y = self.layers[2](F.silu(self.layers[1](F.silu(first))))
        return (y + x) * (torch.sigmoid(y) - 0.5), first


class Span(nn.Module):
    """SPAN as it is deployed: 48 features, six blocks, and convolutions merged into one each."""

    def __init__(self, scale: int) -> None:
        super().__init__()
        self.first, self.second = (nn.Conv2d(n, 48, 3, padding=1) for n in (3, 48))
        self.blocks = nn.ModuleList(Spab(48) for _ in range(6))
        self.join = nn.Conv2d(4 * 48, 48, 1)
        self.last = nn.Sequential(nn.Conv2d(48, 3 * scale**2, 3, padding=1), nn.PixelShuffle(scale))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        outputs, inner, at = [], [], x
        for block in self.blocks:
            at, found = block(at)
            outputs.append(at)
            inner.append(found)
        joined = [x, self.second(at), outputs[0], inner[5]]
        return self.last(self.join(torch.cat(joined, 1)))


AUTHOR, COMFY, VSGAN, JANAI, ENHANCR = (
    "ParagonSR2 README", "ComfyUI-Upscaler-Tensorrt README", "VSGAN-tensorrt-docker README",
    "AnimeJaNai wiki", "enhancr README",
)  # fmt: skip

LATENCY, THROUGHPUT = "latency", "throughput"

OTHERS: dict[str, Callable[[], nn.Module]] = {
    "Compact 2x": lambda: Compact(64, 16, 2),
    "UltraCompact 2x": lambda: Compact(64, 8, 2),
    "SuperUltraCompact 2x": lambda: Compact(24, 8, 2),
    "SPAN 2x": lambda: Span(2),
    "ESRGAN 4x": Esrgan,
}
"""Networks of others, with random weights."""

PHOTO_IN_HALF = "Photo 2x, norms in float16"
"""Photo as TensorRT may run it that chooses types itself: the plain export keeps norms in float32."""


@dataclass(frozen=True)
class Figure:
    """One published figure."""

    source: str
    network: str
    card: str
    size: Size
    ms: float
    kind: str


def published() -> Iterator[Figure]:
    """Yield what was published of TensorRT in float16 on a card of ``CARDS``."""
    author = {"Realtime 2x": 2.3, "Stream 2x": 10.0, "Photo 2x": 39.5, PHOTO_IN_HALF: 39.5}
    for network, ms in author.items():
        yield Figure(AUTHOR, network, "RTX 3060", Size(398, 492), ms, LATENCY)
    table = [
        (COMFY, "ESRGAN 4x", (512, 512), {"RTX 3060": 2.2, "RTX 4090": 6.7, "RTX 5090": 12.7}),
        (COMFY, "ESRGAN 4x", (1280, 1280), {"RTX 3060": 0.35, "RTX 4090": 1.1, "RTX 5090": 2.0}),
        (VSGAN, "Compact 2x", (720, 1280), {"RTX 4090": 139.7, "RTX 5090": 127.6}),
        (VSGAN, "Compact 2x", (1080, 1920), {"RTX 4090": 61.5, "RTX 5090": 55.8}),
        (VSGAN, "SPAN 2x", (720, 1280), {"RTX 4090": 112.5, "RTX 5090": 138.8}),
        (VSGAN, "SPAN 2x", (1080, 1920), {"RTX 4090": 51.3, "RTX 5090": 64.3}),
        (JANAI, "Compact 2x", (1080, 1920), {"RTX 4090": 33.1, "RTX 5070": 29.0}),
        (JANAI, "UltraCompact 2x", (1080, 1920), {"RTX 4090": 51.9, "RTX 5070": 52.3}),
        (JANAI, "SuperUltraCompact 2x", (1080, 1920), {"RTX 4090": 83.4, "RTX 5070": 106.6}),
        (ENHANCR, "Compact 2x", (1080, 1920), {"RTX 4090": 38.7}),
    ]  # fmt: skip
    for source, network, (height, width), by_card in table:
        for card, fps in by_card.items():
            yield Figure(source, network, card, Size(height, width), 1000 / fps, THROUGHPUT)


def exported(module: nn.Module) -> OnnxFile:
    """Export a network of others with PyTorch's TorchScript exporter, and make it float16."""
    file = io.BytesIO()
    torch.onnx.export(
        module.eval(), (torch.zeros(1, 3, 35, 53),), file, dynamo=False, opset_version=18,
        input_names=["input"], output_names=["output"],
        dynamic_axes={"input": {2: "height", 3: "width"}},
    )  # fmt: skip
    return _half(simplify(ir.from_proto(onnx.load_from_string(file.getvalue()))))


def of_checkpoint(path: Path, *, islands: bool = True) -> OnnxFile:
    """Export a checkpoint plainly; without islands its norms are float16 as well."""
    plan = ExportPlan(checkpoint=path, output=Path("model.onnx"), rewrite=False)
    model = float32_graph(read_network(path, plan.options), plan).model
    if not islands:
        for node in model.graph:
            node.metadata_props.pop(FLOAT32_MARK, None)
    return _half(model)


def _half(model: ir.Model) -> OnnxFile:
    return serialized(to_precision(model, Precision.FP16, Precision.FP32), Path("model.onnx"))


@dataclass(frozen=True)
class Compared:
    """A published figure and the kernels that were compiled for it."""

    figure: Figure
    works: Sequence[Work]

    def milliseconds(self, share: float = 1.0, launch: float = LAUNCH_SECONDS) -> float:
        """Return the estimate with a share of the bandwidth reached and seconds a launch."""
        card = CARDS[self.figure.card]
        reached = replace(card, bandwidth=card.bandwidth * share)
        more = (launch - LAUNCH_SECONDS) * len(self.works)
        return 1e3 * (total_seconds(reached, self.works) + more)

    def ratio(self, share: float = 1.0, launch: float = LAUNCH_SECONDS) -> float:
        return self.milliseconds(share, launch) / self.figure.ms


def factor(rows: Sequence[Compared], share: float = 1.0, launch: float = LAUNCH_SECONDS) -> float:
    """Return by which factor estimates are off, too long or too short: the geometric mean."""
    return math.exp(sum(abs(math.log(r.ratio(share, launch))) for r in rows) / len(rows))


def fitted(rows: Sequence[Compared]) -> tuple[float, float]:
    """Return the share of bandwidth and the seconds a launch with the least squared log error.

    The share is 0.3 to 1, what a card is sold with; a launch takes up to 100 µs.
    """
    best, least = (1.0, LAUNCH_SECONDS), math.inf
    for share in (percent / 100 for percent in range(30, 101, 2)):
        moving = [(row, row.milliseconds(share, 0.0)) for row in rows]
        for launch in (us / 1e6 for us in range(101)):
            logs = [
                math.log((ms + 1e3 * launch * len(row.works)) / row.figure.ms) for row, ms in moving
            ]
            if (error := sum(log**2 for log in logs)) < least:
                best, least = (share, launch), error
    return best


def main(
    checkpoints: Annotated[Path, typer.Option(help="Folder of the published checkpoints.")],
) -> None:
    rows = []
    for row in compared(checkpoints):
        rows.append(row)
        print(f"{row.figure.network} on {row.figure.card}: {row.ratio():.2f}", flush=True)
    write("plan_error", [_shown(row) for row in rows], ("source", "network", "card", "size"))
    write("plan_fit", list(fits(rows)), ("fitted on",))


def compared(checkpoints: Path) -> Iterator[Compared]:
    """Yield every published figure with its kernels, compiled once for each target and size."""
    files: dict[str, OnnxFile] = {}
    compiled: dict[tuple[str, str, Size], list[Work]] = {}
    for figure in published():
        target = CARDS[figure.card].target
        key = figure.network, target, figure.size
        if figure.network not in files:
            files[figure.network] = _file(figure.network, checkpoints)
        if key not in compiled:
            kernels = compile_kernels(files[figure.network], target, figure.size)
            compiled[key] = [work_of(kernel) for kernel in kernels if kernel.is_launch]
        yield Compared(figure, compiled[key])


def _file(network: str, checkpoints: Path) -> OnnxFile:
    if network in OTHERS:
        torch.manual_seed(0)
        return exported(OTHERS[network]())
    name = network.split()[0]
    path = checkpoints / f"2xParagonSR2_{name}_fidelity.safetensors"
    return of_checkpoint(path, islands=network != PHOTO_IN_HALF)


def fits(rows: Sequence[Compared]) -> Iterator[dict[str, Any]]:
    """Yield what a fit of both constants on a part of the figures does to the rest."""
    rows = [row for row in rows if row.figure.network != PHOTO_IN_HALF]
    parts: dict[str, Callable[[Figure], bool]] = {
        "latency of Realtime and Stream": lambda f: f.network in ("Realtime 2x", "Stream 2x"),
        "latency of all three": lambda f: f.kind == LATENCY,
        "throughput": lambda f: f.kind == THROUGHPUT,
        "throughput of ESRGAN": lambda f: f.network == "ESRGAN 4x",
    }
    for name, belongs in parts.items():
        part = [row for row in rows if belongs(row.figure)]
        rest = [row for row in rows if not belongs(row.figure)]
        share, launch = fitted(part)
        yield {
            "fitted on": name,
            "figures": len(part),
            "share": share,
            "launch us": launch * 1e6,
            "off there": factor(part, share, launch),
            "off on the rest": factor(rest, share, launch),
            "assumed, on the rest": factor(rest),
        }


def _shown(row: Compared) -> dict[str, Any]:
    figure = row.figure
    return {
        "kind": figure.kind,
        "source": figure.source,
        "network": figure.network,
        "card": figure.card,
        "size": str(figure.size),
        "launches": len(row.works),
        "published ms": figure.ms,
        "estimated ms": row.milliseconds(),
        "estimated / published": row.ratio(),
    }


if __name__ == "__main__":
    typer.run(main)
