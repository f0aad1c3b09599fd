"""What a smaller network loses and gains: quality, size, and time estimated and measured."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from paragon_export.errors import MissingDependencyError, StageError
from paragon_export.networks.cost import cost_per_pixel
from paragon_export.networks.describe import LoadedNetwork, load_network
from paragon_export.networks.paragonsr2.v9_v11.layout import Hyperparameters
from paragon_export.networks.paragonsr2.v9_v11.network import ParagonSR2
from paragon_export.networks.paragonsr2.v9_v11.widths import FIELDS
from paragon_export.networks.registry import architecture_named
from paragon_export.pipeline.export import with_tracer
from paragon_export.pipeline.float32_graph import finish, float32_graph
from paragon_export.pipeline.kernel_plan import plan_kernels
from paragon_export.pruning.checkpoint import checkpoint_of
from paragon_export.pruning.pictures import Pair, Photographs
from paragon_export.pruning.quality import quality
from paragon_export.runtimes.ort_runner import OnnxRunner
from paragon_export.specs.plans import ExportPlan
from paragon_export.specs.types import Precision, Runtime, Size, check_suffix
from paragon_export.system.atomic_write import write_files
from paragon_export.system.progress import step, tell

MAX_LOSS_DB = 0.2
"""A network that loses more PSNR is written only if the user accepts it."""

TIMED_SIZE = Size(96, 128)
"""Size of the picture that the processor's time is measured on."""

TIMED_RUNS = 7

PLANNED_SIZE = Size(1080, 1920)


@dataclass(frozen=True)
class Figures:
    """Of one network."""

    psnr_y_db: float
    """On luma, mean over the photographs that were held back."""
    ssim_y: float
    parameters: int
    flops_per_pixel: float
    """Of the convolutions and products, for a pixel of the input."""
    bytes: int
    """Of the tensors in float32."""
    estimated_ms: float | None
    """Of a TensorRT-RTX engine in float16; None if TensorRT-RTX is not installed or cannot build it."""
    cpu_ms: float | None
    """Median in ONNX Runtime in float32, measured; None if it does not run there."""


@dataclass(frozen=True)
class Target:
    """What to write, and what to judge it by.

    Raises:
        PlanError: If the output is named as another kind of file.
    """

    output: Path
    card: str
    """Card that the time of engines is estimated for."""
    max_loss_db: float | None = None
    """PSNR on luma that may be lost; None: any."""

    def __post_init__(self) -> None:
        check_suffix(self.output, (".safetensors",))


@dataclass(frozen=True, kw_only=True)
class SmallerResult:
    """A network that was made smaller, and what that loses. It is written only if ``passed``."""

    target: Target
    data: bytes
    """The checkpoint."""
    before: Figures
    """Of the network that it was made from."""
    after: Figures
    photographs: int
    """Number of photographs that were judged on."""
    made: Mapping[str, Any]
    """How the network was made: widths, seed and such."""

    @property
    def output(self) -> Path:
        return self.target.output

    @property
    def lost_db(self) -> float:
        """PSNR on luma that is lost, in dB."""
        return self.before.psnr_y_db - self.after.psnr_y_db

    @property
    def passed(self) -> bool:
        """Whether the checkpoint may be written."""
        limit = self.target.max_loss_db
        return math.isfinite(self.lost_db) and (limit is None or self.lost_db <= limit)

    def to_json(self) -> dict[str, Any]:
        """Return the result as a JSON document."""
        return {
            "output": str(self.output), "passed": self.passed, "lost_db": self.lost_db,
            "max_loss_db": self.target.max_loss_db, "photographs": self.photographs,
            "card": self.target.card, "planned_size": str(PLANNED_SIZE),
            "timed_size": str(TIMED_SIZE), "before": asdict(self.before),
            "after": asdict(self.after), "made": dict(self.made),
        }  # fmt: skip


def judged(
    source: LoadedNetwork,
    module: ParagonSR2,
    hp: Hyperparameters,
    photographs: Photographs,
    target: Target,
    made: Mapping[str, Any],
) -> SmallerResult:
    """Make the checkpoint of a smaller network and measure both networks."""
    data = checkpoint_of(module, hp, source, {"made_from": source.checkpoint.sha256})
    pairs = photographs.held_back(hp.scale)
    before, after = compare(source, data, pairs, target.card)
    return SmallerResult(
        target=target, data=data, before=before, after=after, photographs=len(pairs),
        made={**made, **_described(hp)},
    )  # fmt: skip


def written(result: SmallerResult) -> SmallerResult:
    """Write the checkpoint of a result that passed."""
    if result.passed:
        write_files({result.output: result.data})
    return result


def _described(hp: Hyperparameters) -> dict[str, Any]:
    """Return the number of blocks and the widths of each."""
    widths = [hp.widths_of(index) for index in range(hp.groups * hp.blocks)]
    columns = {name: [getattr(one, name) for one in widths] for name in FIELDS}
    return {"blocks": len(widths), "widths": columns}


def compare(
    before: LoadedNetwork, data: bytes, pairs: Sequence[Pair], card: str
) -> tuple[Figures, Figures]:
    """Measure a network and a smaller one in the same way.

    Args:
        before: The network.
        data: Checkpoint of the smaller one.
        pairs: Photographs that were held back.
        card: That an engine's time is estimated for.
    """
    with TemporaryDirectory() as folder:
        path = Path(folder) / "smaller.safetensors"
        path.write_bytes(data)
        networks = (before, load_network(path))
        times = latencies(networks)
        first, second = (
            figures_of(one, pairs, card, ms) for one, ms in zip(networks, times, strict=True)
        )
    return first, second


def figures_of(
    network: LoadedNetwork, pairs: Sequence[Pair], card: str, cpu_ms: float | None
) -> Figures:
    """Measure a network on photographs; ``cpu_ms`` is its time on the processor."""
    spec = network.spec
    found = quality(network.module, pairs, spec.scale, f"judging {network.checkpoint.path.name}")
    return Figures(
        psnr_y_db=found.psnr_y_db,
        ssim_y=found.ssim_y,
        parameters=spec.parameters,
        flops_per_pixel=_flops(network),
        bytes=4 * spec.parameters,
        estimated_ms=_estimate(network, card),
        cpu_ms=cpu_ms,
    )


def _flops(network: LoadedNetwork) -> float:
    inputs, _ = architecture_named(network.spec.architecture).ports(network.spec, video=False)
    return cost_per_pixel(network.module, inputs).flops


def _estimate(network: LoadedNetwork, card: str) -> float | None:
    """Return the estimated time of an engine in ms; None if there is none.

    A training may lie behind the network, so what cannot be estimated ends nothing.
    """
    try:
        (plan,) = plan_kernels(
            network.checkpoint.path, sizes=[PLANNED_SIZE], cards=[card], precision=Precision.FP16,
            options=network.options,
        )  # fmt: skip
    except MissingDependencyError:
        return None
    except StageError as error:
        tell(f"no engine's time for {network.checkpoint.path.name}: {error}")
        return None
    return plan.milliseconds


def latencies(networks: Sequence[LoadedNetwork]) -> list[float | None]:
    """Return the median time of each network in ms, None if it does not run; they take turns."""
    shape = (1, networks[0].spec.in_channels, TIMED_SIZE.height, TIMED_SIZE.width)
    image = np.random.default_rng(0).random(shape, np.float32)
    runners = [_runner(network, image) for network in networks]
    taken: list[list[float]] = [[] for _ in runners]
    with step("timing on the processor", TIMED_RUNS):
        for _ in range(TIMED_RUNS):
            for runner, times in zip(runners, taken, strict=True):
                if runner is None:
                    continue
                start = time.perf_counter()
                runner.infer({"input": image})
                times.append((time.perf_counter() - start) * 1e3)
    return [float(np.median(times)) if times else None for times in taken]


def _runner(network: LoadedNetwork, image: np.ndarray) -> OnnxRunner | None:
    """Open a network in ONNX Runtime and run it once; None if it cannot be exported or run."""
    plan = ExportPlan(
        checkpoint=network.checkpoint.path, output=Path("timed.onnx"), options=network.options,
        runtime=Runtime.ONNXRUNTIME,
    )  # fmt: skip
    try:
        plan = with_tracer(network, plan)
        graph = float32_graph(network, plan)
        runner = OnnxRunner(finish(graph, graph.model, plan).data)
        runner.infer({"input": image})
    except StageError as error:
        tell(f"no processor's time for {network.checkpoint.path.name}: {error}")
        return None
    return runner
