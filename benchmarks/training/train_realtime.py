"""Train the shipped 2x Realtime network on photographs, on one CPU thread.

The high-resolution pictures are the ones named in ``pictures.csv``, shrunk to lose the noise of
JPEG and demosaicing. The low-resolution ones are those, halved with an antialiased bicubic and
rounded to 8 bit. The loss is the absolute error, in the end the squared one, of the colours and
of their luma; the weights kept are a running average.
"""

from __future__ import annotations

import csv
import json
import math
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from matplotlib.figure import Figure
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

from paragon_export.networks.paragonsr2.v9_v11.network import Hyperparameters, ParagonSR2

HERE = Path(__file__).parent
SCALE = 2
REALTIME = Hyperparameters(
    variant="realtime",
    scale=SCALE,
    in_channels=3,
    features=16,
    groups=1,
    blocks=3,
    attention=False,
    layer_scale=True,
    window_size=16,
    upsampler_alpha=0.0,
)
KERNELS = {
    "sharp": torch.tensor([-1.0, 0.0, 9.0, 16.0, 9.0, 0.0, -1.0]) / 32,
    "blur": torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0]) / 16,
}
"""The frozen filters of the base; published checkpoints carry them as buffers besides."""

METADATA = {
    "architecture": "paragonsr2_realtime",
    "scale": str(SCALE),
    "upsampler_alpha": "0.0",
    "license": "CC-BY-SA-4.0",
    "author": "paragon-export",
    "training": "benchmarks/training",
}

PATCH = 48
"""Side of a training patch in low-resolution pixels."""
BATCH = 8
STRIDE = 8
"""Patches start at multiples of this, in low-resolution pixels."""
DETAIL = 2.0
"""Least mean error of bicubic upscaling, in grey levels, for a patch to be worth learning."""
PEAK_RATE = 4e-3
WARM_UP = 0.01
SQUARED_FROM = 0.8
"""Share of the training after which the loss is the squared error, which is what PSNR measures."""
LUMA = torch.tensor([0.299, 0.587, 0.114])[:, None, None]
LUMA_SHARE = 2.0
"""Weight of the luma's error beside the colours'; the eye and the figures below see luma."""
AVERAGE = 0.999
VALIDATION_CROP = 512
VALIDATION_SECONDS = 60.0

Pair = tuple[np.ndarray, np.ndarray]
"""Low and high resolution of one picture, (H, W, 3) 8-bit RGB."""


def pairs(folder: Path, use: str, crop: int | None = None) -> list[Pair]:
    """Read the pictures of ``pictures.csv`` meant for ``use``, at every size asked for there.

    Args:
        folder: Where the packages were unpacked.
        use: ``train`` or ``validate``.
        crop: Side of the middle square to keep, in high-resolution pixels; None keeps all.
    """
    found = []
    with (HERE / "pictures.csv").open(encoding="utf-8", newline="") as table:
        for row in csv.DictReader(table):
            if row["use"] != use:
                continue
            with Image.open(folder / row["file"]) as opened:
                picture = opened.convert("RGB")
            for shrink in map(int, row["shrink"].split()):
                found.append(pair(picture, shrink, crop))
    return found


def pair(picture: Image.Image, shrink: int, crop: int | None) -> Pair:
    width, height = picture.width // shrink, picture.height // shrink
    if shrink > 1:
        picture = picture.resize((width, height), Image.Resampling.LANCZOS)
    new_width, new_height = (side - side % SCALE for side in (width, height))
    if crop is not None:
        new_width, new_height = min(new_width, crop), min(new_height, crop)
    left, top = (width - new_width) // 2, (height - new_height) // 2
    high = picture.crop((left, top, left + new_width, top + new_height))
    low = high.resize((new_width // SCALE, new_height // SCALE), Image.Resampling.BICUBIC)
    return np.asarray(low), np.asarray(high)


def bicubic(low: np.ndarray) -> np.ndarray:
    height, width = low.shape[:2]
    size = (width * SCALE, height * SCALE)
    return np.asarray(Image.fromarray(low).resize(size, Image.Resampling.BICUBIC))


def detailed_corners(low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Upper left corners (y, x) of the patches that bicubic upscaling gets wrong.

    Skies and blurred backgrounds make up most of a photograph and teach nothing.
    """
    error = np.abs(bicubic(low).astype(np.float32) - high).mean(axis=2)
    error = torch.from_numpy(error)[None, None]
    means = F.avg_pool2d(error, PATCH * SCALE, STRIDE * SCALE)[0, 0]
    return np.argwhere(means.numpy() > DETAIL) * STRIDE


def batches(pictures: list[Pair], seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Give random patches for ever, turned and mirrored at random, (N, 3, H, W) in [0, 1]."""
    random = np.random.default_rng(seed)
    corners = [
        (index, y, x)
        for index, (low, high) in enumerate(pictures)
        for y, x in detailed_corners(low, high)
    ]
    typer.echo(f"{len(pictures)} training pictures, {len(corners)} patch positions", err=True)
    while True:
        lows, highs = [], []
        for choice in random.integers(len(corners), size=BATCH):
            index, y, x = corners[choice]
            turns, mirror = int(random.integers(4)), bool(random.integers(2))
            for out, array, s in zip((lows, highs), pictures[index], (1, SCALE), strict=True):
                patch = np.rot90(array[s * y : s * (y + PATCH), s * x : s * (x + PATCH)], turns)
                out.append(patch[:, ::-1] if mirror else patch)
        yield to_tensor(np.stack(lows)), to_tensor(np.stack(highs))


def to_tensor(pictures: np.ndarray) -> Tensor:
    """Turn (N, H, W, 3) 8-bit into (N, 3, H, W) float32 in [0, 1], channels last in memory."""
    return torch.from_numpy(pictures.astype(np.float32) / 255).permute(0, 3, 1, 2)


def luma_psnr(output: np.ndarray, high: np.ndarray) -> float:
    """PSNR in dB on BT.601 luma of 8-bit pictures, without a border of ``SCALE`` pixels."""
    weights = np.array([65.481, 128.553, 24.966]) / 255
    difference = (output.astype(np.float64) - high) @ weights
    inner = difference[SCALE:-SCALE, SCALE:-SCALE]
    return 10 * math.log10(255**2 / np.square(inner).mean())


def upscale(network: ParagonSR2, low: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        output = network(to_tensor(low[None]))[0]
    return output.clamp(0, 1).mul(255).round().byte().permute(1, 2, 0).numpy()


def mean_psnr(network: ParagonSR2 | None, pictures: list[Pair]) -> float:
    """Mean luma PSNR of the network, or of bicubic upscaling for None."""
    return float(
        np.mean(
            [
                luma_psnr(bicubic(low) if network is None else upscale(network, low), high)
                for low, high in pictures
            ]
        )
    )


def new_network() -> ParagonSR2:
    network = ParagonSR2(REALTIME).to(memory_format=torch.channels_last)
    for name, kernel in KERNELS.items():
        for convolution in getattr(network.base, name).children():
            convolution.weight.data.copy_(kernel.reshape(convolution.weight.shape[2:]))
            convolution.weight.requires_grad_(False)
    # The published start, gamma 1e-5 and gain 0.1, suits long trainings; here it costs minutes.
    network.detail_gain.data.fill_(1.0)
    for group in network.body:
        for block in group.blocks:
            block.scale.gamma.data.fill_(1.0)
    return network


def save(network: ParagonSR2, path: Path) -> None:
    """Write the checkpoint whole or not at all, with the buffers published ones have."""
    tensors = {key: value.contiguous() for key, value in network.state_dict().items()}
    tensors |= {f"base.{name}.kernel": kernel for name, kernel in KERNELS.items()}
    unfinished = path.with_suffix(".part")
    save_file(tensors, unfinished, METADATA)
    unfinished.chmod(0o644)  # save_file leaves it readable by its owner only
    os.replace(unfinished, path)


def load(path: Path) -> ParagonSR2:
    network = new_network()
    tensors = load_file(path)
    for name in KERNELS:
        del tensors[f"base.{name}.kernel"]
    network.load_state_dict(tensors)
    return network


def learning_rate(progress: float) -> float:
    """Rise for ``WARM_UP`` of the training, then fall along a half cosine to zero."""
    return PEAK_RATE * min(progress / WARM_UP, 0.5 + 0.5 * math.cos(math.pi * min(progress, 1.0)))


def train(folder: Path, output: Path, curve: Path, minutes: float, seed: int) -> None:
    """Train for ``minutes`` of wall time; the checkpoint and the curve are renewed on the way."""
    torch.manual_seed(seed)
    validation = pairs(folder, "validate", VALIDATION_CROP)
    stream = batches(pairs(folder, "train"), seed)
    network, average = new_network(), new_network()
    average.load_state_dict(network.state_dict())
    trained = [p for p in network.parameters() if p.requires_grad]
    averaged = [p for p in average.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(trained, lr=PEAK_RATE, fused=True)

    record = {
        "seed": seed,
        "minutes": minutes,
        "torch": torch.__version__,
        "patch": PATCH,
        "batch": BATCH,
        "peak_learning_rate": PEAK_RATE,
        "squared_error_from": SQUARED_FROM,
        "luma_share": LUMA_SHARE,
        "average_decay": AVERAGE,
        "validation_bicubic_psnr": round(mean_psnr(None, validation), 3),
        "points": [],
    }
    start, step, losses, progress = time.perf_counter(), 0, [], 0.0
    while progress < 1:
        low, high = next(stream)
        seconds = time.perf_counter() - start
        progress = min(seconds / (60 * minutes), 1.0)
        optimizer.param_groups[0]["lr"] = learning_rate(progress)
        difference = network(low) - high
        measure = torch.square if progress > SQUARED_FROM else torch.abs
        luma = (LUMA * difference).sum(dim=1)
        loss = measure(difference).mean() + LUMA_SHARE * measure(luma).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        step += 1
        # A young average forgets faster, or the random start would linger in it.
        decay = min(AVERAGE, step / (step + 10))
        with torch.no_grad():
            for old, new in zip(averaged, trained, strict=True):
                old.lerp_(new, 1 - decay)
            losses.append(difference.abs().mean().item())
        if progress == 1 or seconds > VALIDATION_SECONDS * (len(record["points"]) + 1):
            point = {
                "step": step,
                "seconds": round(seconds, 1),
                "train_l1": round(float(np.mean(losses)), 6),
                "validation_psnr": round(mean_psnr(average, validation), 3),
            }
            losses.clear()
            record["points"].append(point)
            typer.echo(json.dumps(point), err=True)
            save(average, output)
            curve.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def plot(curve: Path) -> None:
    """Draw the curve's JSON into a PNG of the same name."""
    record = json.loads(curve.read_text(encoding="utf-8"))
    minutes = [point["seconds"] / 60 for point in record["points"]]
    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot(minutes, [point["train_l1"] for point in record["points"]])
    left.set(xlabel="minutes", ylabel="mean absolute error", title="Training patches", yscale="log")
    right.plot(minutes, [point["validation_psnr"] for point in record["points"]], label="network")
    right.axhline(record["validation_bicubic_psnr"], color="grey", linestyle="--", label="bicubic")
    right.set(xlabel="minutes", ylabel="PSNR on luma, dB", title="Validation pictures")
    right.legend()
    for axes in (left, right):
        axes.grid(alpha=0.3)
    figure.savefig(curve.with_suffix(".png"), dpi=100)


def benchmark(output: Path, folder: Path) -> None:
    """Print mean luma PSNR on a folder of ``NAME_LR.png`` and ``NAME_HR.png``."""
    pictures = []
    for low in sorted(folder.glob("*_LR.png")):
        names = low, low.with_name(low.name.replace("_LR", "_HR"))
        pictures.append(tuple(np.asarray(Image.open(name).convert("RGB")) for name in names))
    if not pictures:
        raise typer.BadParameter(f"no *_LR.png in {folder}")
    typer.echo(f"{len(pictures)} pictures, PSNR on luma, border {SCALE}:")
    typer.echo(f"network {mean_psnr(load(output), pictures):.3f} dB")
    typer.echo(f"bicubic {mean_psnr(None, pictures):.3f} dB")


def main(
    output: Annotated[Path, typer.Option(help="Checkpoint to write, .safetensors.")],
    pictures: Annotated[
        Path | None,
        typer.Option(help="Folder filled by fetch_pictures.sh; without it nothing is trained."),
    ] = None,
    minutes: Annotated[float, typer.Option(help="Wall time of the training.")] = 62.0,
    seed: Annotated[int, typer.Option(help="Of the first weights and of the patches.")] = 0,
    curve: Annotated[Path, typer.Option(help="Curve to write, .json.")] = HERE / "curve.json",
    score: Annotated[
        Path | None, typer.Option(help="Folder of *_LR.png and *_HR.png to score OUTPUT on.")
    ] = None,
) -> None:
    """Train the 2x Realtime network, score it, or both."""
    torch.set_num_threads(1)
    if pictures is not None:
        train(pictures, output, curve, minutes, seed)
        plot(curve)
    if score is not None:
        benchmark(output, score)


if __name__ == "__main__":
    typer.run(main)
