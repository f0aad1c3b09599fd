"""Quality against speed of FP32, FP16, INT8 and distilled networks, on the photographs of ``pruning.py``.

Quality is PSNR of luma on the photographs that are held back, of the exported file in ONNX Runtime. Times
are those of TensorRT-RTX engines, estimated from their compiled kernels with the card's rate for
float16. TensorRT cannot read our INT8 files, so they have a processor time alone: that of all threads of ONNX
Runtime at 96x128. What is lost is lost to the first checkpoint of the variant in FP32. Each network is
named by its variant, each distilled one by its file name. Writes ``smaller.json``; ``plots.py`` draws it
with ``pruning.json``.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import numpy as np
import torch
import typer
from common import median, write
from PIL import Image
from pruning import shrink
from torch import Tensor, nn

from paragon_export.engines.kernels.cards import find_card
from paragon_export.errors import ParagonExportError
from paragon_export.networks.describe import LoadedNetwork, load_network
from paragon_export.pipeline.float32_graph import finish, float32_graph
from paragon_export.pipeline.kernel_plan import plan_kernels
from paragon_export.pipeline.quantize_images import quantize_images
from paragon_export.precision.half import to_precision
from paragon_export.pruning.pictures import Pair, read_photographs
from paragon_export.pruning.quality import quality
from paragon_export.pruning.report import PLANNED_SIZE, TIMED_RUNS, TIMED_SIZE
from paragon_export.runtimes.ort_runner import OnnxRunner
from paragon_export.specs.plans import ExportPlan
from paragon_export.specs.types import Precision, Runtime


def main(
    checkpoints: list[Path],
    pictures: Annotated[Path, typer.Option(help="Folder filled by fetch_pictures.sh.")],
    distilled: Annotated[list[Path] | None, typer.Option(help="By distill (repeatable).")] = None,
    card: Annotated[str, typer.Option(help="Card of the estimates.")] = "3060",
) -> None:
    """Measure each network in FP32, FP16 and INT8, and each distilled one in FP16."""
    torch.set_num_threads(1)
    card = find_card(card).name
    with TemporaryDirectory() as folder:
        shrink(pictures, Path(folder))
        photographs = read_photographs(Path(folder))
    with TemporaryDirectory() as folder:  # what INT8 is calibrated on
        for index, image in enumerate(photographs.fitted):
            Image.fromarray(image).save(Path(folder) / f"{index:02d}.png")
        published: dict[str, float] = {}
        for path in [*checkpoints, *(distilled or [])]:
            network = load_network(path, upsampler_alpha=0.0)
            scale = network.spec.scale
            pairs = photographs.held_back(scale)
            files = dict(files_of(network, Path(folder)))
            times = processor_ms(files)
            if path in (distilled or []):
                files = {path.stem: files["FP16"]}
                times = {path.stem: times["FP32"]}
            for step, file in files.items():
                psnr = psnr_of(file, pairs, scale)
                row = {
                    "network": network.spec.variant,
                    "step": step,
                    "PSNR-Y dB": psnr,
                    "lost dB": published.setdefault(network.spec.variant, psnr) - psnr,
                    "estimated ms": estimate_of(file, card),
                    "processor ms": times.get(step),
                    "photographs": len(pairs),
                    "card": card,
                }
                write("smaller", [row], ("network", "step"))


def files_of(network: LoadedNetwork, pictures: Path) -> Iterator[tuple[str, bytes]]:
    """Yield the ONNX files of a network as TensorRT would take them; INT8 is calibrated on pictures."""
    plan = ExportPlan(
        checkpoint=network.checkpoint.path, output=Path("timed.onnx"), options=network.options,
        runtime=Runtime.TENSORRT,
    )  # fmt: skip
    graph = float32_graph(network, plan)
    for precision in (Precision.FP32, Precision.FP16):
        model = to_precision(graph.model, precision, Precision.FP32)
        yield precision.name, finish(graph, model, plan).data
    yield "INT8", quantize_images(network, plan, pictures, accept_loss=True).file.data


class _InOnnxRuntime(nn.Module):
    """An ONNX file as a module, (N, 3, H, W) to ``scale`` times the size."""

    def __init__(self, data: bytes) -> None:
        super().__init__()
        self.runner = OnnxRunner(data)

    def forward(self, image: Tensor) -> Tensor:
        return torch.from_numpy(self.runner.infer({"input": image.numpy()})["output"]).float()


def psnr_of(file: bytes, pairs: list[Pair], scale: int) -> float:
    """Return the mean PSNR of luma on photographs in dB."""
    return quality(_InOnnxRuntime(file), pairs, scale, "judging").psnr_y_db


def processor_ms(files: Mapping[str, bytes]) -> dict[str, float]:
    """Return the processor time of a run in ms, of all threads, for FP32 and INT8, which take turns.

    The processor has no arithmetic for FP16.
    """
    runners = {step: OnnxRunner(files[step]) for step in ("FP32", "INT8")}
    image = np.random.default_rng(0).random((1, 3, TIMED_SIZE.height, TIMED_SIZE.width), np.float32)
    taken: dict[str, list[float]] = {step: [] for step in runners}
    for _ in range(TIMED_RUNS):
        for step, runner in runners.items():
            start = time.process_time()
            runner.infer({"input": image})
            taken[step].append((time.process_time() - start) * 1e3)
    return {step: median(times) for step, times in taken.items()}


def estimate_of(file: bytes, card: str) -> float | None:
    """Return the estimated time of the engine in ms; None if TensorRT does not compile the file."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "timed.onnx"
        path.write_bytes(file)
        try:
            (plan,) = plan_kernels(path, sizes=[PLANNED_SIZE], cards=[card])
        except ParagonExportError:
            return None
        return plan.milliseconds


if __name__ == "__main__":
    typer.run(main)
