"""What the benchmark scripts share: random full-size networks, their exports, and result files."""

from __future__ import annotations

import json
import re
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir
import torch

from paragon_export.bench.report import percentile
from paragon_export.errors import EngineBuildError
from paragon_export.graph.onnx_io import serialized
from paragon_export.graph.simplify import simplify
from paragon_export.graph.trace import trace
from paragon_export.networks.paragonsr2.v9_v11.layout import Hyperparameters
from paragon_export.networks.paragonsr2.v9_v11.network import ParagonSR2
from paragon_export.precision.half import to_precision
from paragon_export.rewrite.rules import RULES, Rule, rewrite
from paragon_export.runtimes.ort_runner import OnnxRunner
from paragon_export.specs.network import Port
from paragon_export.specs.profiles import Profile
from paragon_export.specs.types import Backend, Precision, Runtime, Size
from paragon_export.system.atomic_write import to_json
from paragon_export.system.environment import environment

if TYPE_CHECKING:
    from paragon_export.pipeline.kernel_plan import KernelPlan

RESULTS = Path(__file__).parent / "results"

SIZES = {"realtime": (16, 1, 3), "stream": (32, 2, 3), "photo": (64, 4, 4), "pro": (64, 6, 6)}
"""Features, groups and blocks of the published variants."""

IN_ORDER = (*SIZES, "nano", "micro", "tiny", "xs", "s", "m", "l", "xl")
"""Variants and the sizes of v5, as tables list them."""

SCALES = (2, 4)

MEASURED_AT = {
    "realtime": Size(360, 640),
    "stream": Size(360, 640),
    "photo": Size(128, 128),
    "pro": Size(96, 96),
}
"""Input sizes at which a CPU answers within a second or so."""

OPSET = 20

LARGEST_GAP = 1e-5
"""How far an output may be from the plain export's, in units of full range."""


@dataclass(frozen=True)
class Exported:
    """A float32 ONNX model and what it took to make it."""

    model: ir.Model
    fired: Mapping[str, int]
    """Rewrites applied and how often; empty for a plain export."""
    seconds: float
    """Rewriting, tracing and simplifying together."""

    @property
    def data(self) -> bytes:
        return ir.to_proto(self.model).SerializeToString()

    @property
    def nodes(self) -> int:
        return self.model.graph.num_nodes()


def network(variant: str, scale: int = 2) -> ParagonSR2:
    """Return a published variant with random weights, eval mode."""
    torch.manual_seed(0)
    features, groups, blocks = SIZES[variant]
    pro = variant == "pro"
    module = ParagonSR2(
        Hyperparameters(
            variant=variant,
            scale=scale,
            in_channels=3,
            features=features,
            groups=groups,
            blocks=blocks,
            attention=variant in ("photo", "pro"),
            layer_scale=True,
            window_size=16,
            upsampler_alpha=0.0,
            tokens=64 if pro else 0,
            token_width=16 if pro else 0,
            squeeze=features // 16 if pro else 0,
        )
    )
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if name.endswith("gamma"):
                parameter.fill_(0.05)  # large enough to matter, small enough for 36 blocks
    return module.requires_grad_(False).eval()


def ports(scale: int) -> tuple[list[Port], list[Port]]:
    """Return the dynamic ports of a still network."""
    return (
        [Port("input", ("batch", 3, "height", "width"))],
        [Port("output", ("batch", 3, f"{scale}*height", f"{scale}*width"))],
    )


def plain(module: torch.nn.Module, scale: int) -> Exported:
    """Export a network as trained."""
    start = time.perf_counter()
    model = simplify(trace(module, *ports(scale), OPSET))
    return Exported(model, {}, time.perf_counter() - start)


def rewritten(
    module: torch.nn.Module,
    scale: int,
    runtime: Runtime,
    rules: Sequence[Rule] = RULES,
    *,
    half: bool = False,
) -> Exported:
    """Export the algebraically equal network that is made for ``runtime``.

    With ``half`` it is the one whose graph will be converted to half precision.
    """
    start = time.perf_counter()
    equal = rewrite(module, runtime, rules, half=half)
    model = simplify(trace(equal.module, *ports(scale), OPSET))
    return Exported(model, equal.fired, time.perf_counter() - start)


def random_picture(size: Size) -> np.ndarray:
    """Return noise, (1, 3, H, W) float32 in [0, 1]; the same for the same size."""
    rng = np.random.default_rng(0)
    return rng.random((1, 3, size.height, size.width), dtype=np.float32)


def onnx_runtime(exported: Exported, picture: np.ndarray) -> Callable[[], np.ndarray]:
    """Return a call of ONNX Runtime on all cores, whose threads sleep when they are idle."""
    session = OnnxRunner(exported.data).session
    return lambda: session.run(None, {"input": picture})[0]


def planned_megabytes(exported: Exported, largest: Size) -> float:
    """Return the device memory that TensorRT-RTX plans for an RTX 30 card in float16, in MB.

    Args:
        exported: Made float16 first, with float32 inputs and outputs.
        largest: What memory is planned for; the engine accepts anything from 1x1 to it.

    Raises:
        ParagonExportError: If TensorRT cannot build the engine or names no figure.
    """
    from paragon_export.engines.build import compile_engine

    profile = Profile(smallest=Size(1, 1), optimal=largest, largest=largest)
    half = to_precision(exported.model, Precision.FP16, Precision.FP32)
    file = serialized(half, Path("model.onnx"))
    built = compile_engine(file, Backend.RTX, ("sm86",), profile)
    if built.planned_bytes is None:
        raise EngineBuildError("TensorRT did not say how much memory it plans")
    return built.planned_bytes / 1e6


def kernel_plans(
    exported: Exported, sizes: Sequence[Size], cards: Sequence[str]
) -> list[KernelPlan]:
    """Return the kernels that TensorRT-RTX compiles in float16, for each size and card.

    Raises:
        ParagonExportError: If TensorRT cannot compile the model.
    """
    from paragon_export.pipeline.kernel_plan import plan_kernels

    half = to_precision(exported.model, Precision.FP16, Precision.FP32)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        path.write_bytes(serialized(half, path).data)
        return plan_kernels(path, sizes=sizes, cards=cards)


def gigabytes(plan: KernelPlan) -> float:
    """Return what the kernels of a plan read and write, in units of 1e9 bytes."""
    return sum(work.moved for work in plan.works) / 1e9


def check_equal(name: str, output: np.ndarray, truth: np.ndarray) -> None:
    """Raise if an output is not the plain export's; a full range is 1, or more if it reaches so."""
    gap = float(np.abs(output - truth).max() / max(1.0, np.abs(truth).max()))
    if not gap <= LARGEST_GAP:
        raise RuntimeError(f"{name} is {gap:.1e} of full range off the plain export")


def interleave(
    contenders: Mapping[str, Callable[[], object]],
    samples: int,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Time each contender once a round, so that drift of the machine hits all alike.

    With ``time.process_time`` as the clock, the time of all threads of this process is taken:
    other processes do not count, nor do pauses.

    Returns:
        Name to milliseconds, one figure a round; a first round, which warms up, is left out.
    """
    taken: dict[str, list[float]] = {name: [] for name in contenders}
    for step in range(samples + 1):
        for name, run in contenders.items():
            start = clock()
            run()
            if step:
                taken[name].append((clock() - start) * 1000)
    return taken


def median(figures: Sequence[float]) -> float:
    return percentile(figures, 50)


def median_ratio(over: Sequence[float], under: Sequence[float]) -> float:
    """Return the median of the ratios within each round."""
    return median([a / b for a, b in zip(over, under, strict=True)])


def short_reason(error: BaseException) -> str:
    """Return what fits into a cell of a table, without the name of a temporary file."""
    words = " ".join(str(error).rpartition("model.onnx: ")[2].split()).replace("|", "/")
    return f"{type(error).__name__}: {words[:80]}"


def write(name: str, rows: list[dict[str, Any]], keys: Sequence[str]) -> None:
    """Write rows and provenance to ``results/NAME.json`` and print them as a Markdown table.

    Rows that an earlier run left there stay, unless their ``keys`` are measured anew or the
    processor or a version has changed since. A long script writes after every network.
    """
    RESULTS.mkdir(exist_ok=True)
    file, here = RESULTS / f"{name}.json", environment()
    found = _earlier(file, here, keys)
    found |= {tuple(row[key] for key in keys): row for row in rows}
    everything = sorted(found.items(), key=lambda item: tuple(map(_place, item[0])))
    document = {"rows": [row for _, row in everything], "environment": here}
    file.write_text(to_json(document), encoding="utf-8")
    headings = list(rows[0])
    print("| " + " | ".join(headings) + " |")
    print("|" + " --- |" * len(headings))
    for row in rows:
        print("| " + " | ".join(_cell(row[heading]) for heading in headings) + " |", flush=True)


def _place(key: Any) -> tuple[int, Any]:
    """Variants in their own order, pictures by size, anything else as it comes."""
    if key in IN_ORDER:
        return IN_ORDER.index(key), 0
    if re.fullmatch(r"\d+x\d+", str(key)):
        return Size.parse(key).height, 0
    return 0, key


def _earlier(
    file: Path, here: Mapping[str, Any], keys: Sequence[str]
) -> dict[tuple[Any, ...], Any]:
    if not file.exists():
        return {}
    document = json.loads(file.read_text(encoding="utf-8"))
    kernel = {name: here[name] for name in ("time", "platform")}  # its release may differ
    if {**document["environment"], **kernel} != here:
        return {}
    return {tuple(row[key] for key in keys): row for row in document["rows"]}


def _cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
